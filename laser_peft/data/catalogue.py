"""What can be recommended: item ids, their dense numbers and their texts."""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from .columns import ITEM, as_ids
from .id_index import IdIndex
from .reports import SHOWN, as_json, say_row
from .sources import Source
from .tables import name_of, read_parts

TITLE = "title"
FEW = 64  # values that are said sooner than other threads are asked to
MOST_PIECES = 8  # of a table that items are added to
# What str.split() takes for space; \s leaves four control characters out.
SPACE = r"[\s\x1c-\x1f]+"
_HALF = re.compile("[\ud800-\udfff]")  # of a character of UTF-16: in no text of UTF-8


class Catalogue:
    """Items in a fixed order; the item in row ``j`` has dense id ``j + 1``, and 0 is padding.

    Args:
        frame: column ``item_id`` of distinct non-empty texts; any further columns are attributes,
            texts, numbers or lists of them, null or empty or not a number where unknown.

    Raises:
        TypeError: if it is no ``polars.DataFrame``.
        ValueError: if there is no such column, or an item id is missing or occurs twice.

    Warns:
        UserWarning: if columns are left out because a prompt cannot say them (structs, bytes).
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        if not isinstance(frame, pl.DataFrame):
            raise TypeError(
                f"a catalogue is made of a polars.DataFrame, got {type(frame).__name__}; of one of "
                "pandas make it with polars.from_pandas(frame)"
            )
        if ITEM not in frame.columns:
            raise ValueError(
                f"the catalogue needs a column {ITEM!r}, got "
                f"{', '.join(map(repr, frame.columns))}; rename the one that holds the ids"
            )
        nested = _unsayable(frame)
        _warn_left_out(nested, stacklevel=3)
        frame = frame.drop(nested)
        frame = frame.with_columns(as_ids(frame[ITEM], "the catalogue"))
        ids = frame[ITEM]
        if ids.null_count():
            _refuse_rows(frame, ids.is_null(), "have no item_id")
        self._index = IdIndex(ids)
        if self._index.has_repeats():
            _refuse_rows(frame, ids.is_duplicated(), "share an id")
        self.frame = frame

    @classmethod
    def read(cls, source: Source, *, item_column: str = ITEM) -> "Catalogue":
        """Reads items, one row each; see :func:`.tables.read_parts` for what can be read.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the column is missing, or an id is missing or occurs twice.

        Warns:
            UserWarning: if columns are left out because a prompt cannot say them.
        """
        frames = []
        nested: dict[str, None] = {}
        for name, frame, _ in read_parts(source, [item_column]):
            ids = as_ids(frame[item_column], name)
            # Another column of our name is another id, which must not get into the prompts.
            frame = frame.drop(ITEM, strict=False) if item_column != ITEM else frame
            frame = frame.with_columns(ids.alias(item_column)).rename({item_column: ITEM})
            nested |= dict.fromkeys(_unsayable(frame))
            frames.append(frame.drop(_unsayable(frame)))
        _warn_left_out(list(nested), stacklevel=3)
        try:
            return cls(pl.concat(frames, how="diagonal_relaxed").rechunk())
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"the parts of {name_of(source)} hold a column in ways that do not go together: "
                f"{error}"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Catalogue":
        """Loads what :meth:`save` wrote."""
        return cls.read(path)

    def save(self, path: str | Path) -> None:
        """Writes the catalogue as Parquet."""
        self.frame.write_parquet(path)

    def only(self, item_ids: pl.Series) -> "Catalogue":
        """Returns the catalogue without the items that are not named."""
        return Catalogue(self.frame.filter(self.frame[ITEM].is_in(item_ids.implode())))

    def extended(self, more: "Catalogue") -> "Catalogue":
        """Returns the catalogue with further items behind its own; what prompts say stays the same.

        An attribute that the two hold as different types becomes text in both, as prompts say it.
        Either may have attributes that the other lacks.

        Raises:
            ValueError: if an item is there already.
        """
        ids = more.frame[ITEM]
        again = self.among(ids)
        if again:
            raise ValueError(
                f"{len(again)} of {len(more)} items are in the catalogue already: {again[:5]}"
            )
        own, others = self.frame, more.frame
        for name in own.columns:
            if name in others.columns and own[name].dtype != others[name].dtype:
                first, second = _of_one_type(own[name], others[name])
                own, others = own.with_columns(first), others.with_columns(second)
        both = Catalogue.__new__(Catalogue)  # each has been checked, and now against the other
        frame = pl.concat([own, others], how="diagonal")
        # Rows are looked up slowly where a table lies in many pieces.
        both.frame = frame.rechunk() if frame.n_chunks() > MOST_PIECES else frame
        both._index = self._index.extended(ids, both.frame[ITEM])
        return both

    def __len__(self) -> int:
        return self.frame.height

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids in the order of their dense ids."""
        return self.frame[ITEM].to_list()

    @cached_property
    def titles(self) -> list[str]:
        """Titles in the order of the dense ids; the item id where there is no title."""
        if TITLE not in self.frame.columns:
            return self.item_ids
        titles = _as_texts(self.frame[TITLE])
        return [title or item_id for title, item_id in zip(titles, self.item_ids, strict=True)]

    def among(self, item_ids: pl.Series) -> list[str]:
        """Returns those of the given ids that are in the catalogue."""
        return item_ids.filter(self._index.rows(item_ids) >= 0).to_list()

    def not_among(self, item_ids: pl.Series) -> list[str]:
        """Returns those of the given ids that are not in the catalogue."""
        return item_ids.filter(self._index.rows(item_ids) < 0).to_list()

    def names(self, dense_ids: Sequence[int] | np.ndarray) -> tuple[list[str], list[str]]:
        """Returns ids and titles of given items only, as :attr:`item_ids` and :attr:`titles`."""
        rows = np.asarray(dense_ids, dtype=np.int64) - 1
        ids = self.frame[ITEM][rows].to_list()
        if TITLE not in self.frame.columns:
            return ids, ids
        titles = _as_texts(self.frame[TITLE][rows])
        return ids, [title or item_id for title, item_id in zip(titles, ids, strict=True)]

    def dense_ids(self, item_ids: Iterable[str]) -> list[int]:
        """Returns the dense ids, ``1..N``, of the given items.

        Raises:
            TypeError: if an id can be none, as a list.
            ValueError: if an item is not in the catalogue.
        """
        item_ids = list(item_ids)
        self._refuse([item_id for item_id in item_ids if not _is_text(item_id)], len(item_ids))
        return self.dense_array(pl.Series(item_ids, dtype=pl.String)).tolist()

    def dense_array(self, item_ids: pl.Series) -> np.ndarray:
        """Does what :meth:`dense_ids` does for many items at once; returns int64."""
        rows = self._index.rows(item_ids)
        unknown = rows < 0
        if unknown.any():
            self._refuse(item_ids.filter(unknown).to_list(), len(item_ids))
        return rows + 1

    def _refuse(self, unknown: Sequence[Any], asked: int) -> None:
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {asked} items are not in the catalogue of "
                f"{len(self)}: {unknown[:5]}; are the ids of the right kind, and is the items "
                "file the one that belongs to this log?"
            )

    def attributes(self) -> list[dict[str, str]]:
        """Returns each item's known attributes as texts, in column order, lists with commas."""
        return list(self.iter_attributes())

    def iter_attributes(self, rows: np.ndarray | None = None) -> Iterator[dict[str, str]]:
        """Yields what :meth:`attributes` returns, one item at a time, of ``(n,)`` rows or all."""
        names = [name for name in self.frame.columns if name != ITEM]
        frame = self.frame if rows is None else self.frame[rows]
        for block in frame.iter_slices():
            columns = [_as_texts(block[name]) for name in names]
            for texts in zip(*columns, strict=True) if names else [()] * len(block):
                yield {name: text for name, text in zip(names, texts, strict=True) if text}


def _is_text(value: object) -> bool:
    """Tells what can be the id of an item; half a character of UTF-16 cannot."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


def _refuse_rows(frame: pl.DataFrame, bad: pl.Series, what: str) -> NoReturn:
    rows = frame.with_row_index("row", offset=1).filter(bad).head(SHOWN)
    raise ValueError(
        f"{bad.sum()} items of the catalogue {what}; the first: "
        f"{'; '.join(say_row(as_json(row)) for row in rows.to_dicts())}"
    )


def _unsayable(frame: pl.DataFrame) -> list[str]:
    return [name for name, kind in frame.schema.items() if name != ITEM and not _can_be_said(kind)]


def _warn_left_out(names: Sequence[str], *, stacklevel: int) -> None:
    if names:
        warnings.warn(
            "item attributes must be texts, numbers or lists of them; left out, as no prompt can "
            f"say them: {', '.join(names)} (flatten those that matter)",
            stacklevel=stacklevel,
        )


def _can_be_said(kind: Any) -> bool:
    if isinstance(kind, pl.List | pl.Array):
        return _can_be_said(kind.inner)
    return not isinstance(kind, pl.Struct | pl.Binary | pl.Object)


def _of_one_type(one: pl.Series, other: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Brings two columns to one type: that of the other where nothing is known, else text."""
    if one.null_count() == len(one):
        return pl.Series(one.name, [None] * len(one), dtype=other.dtype), other
    if other.null_count() == len(other):
        return one, pl.Series(one.name, [None] * len(other), dtype=one.dtype)
    return tuple(pl.Series(one.name, _as_texts(each), dtype=pl.String) for each in (one, other))  # type: ignore[return-value]


def _as_texts(column: pl.Series) -> list[str]:
    """Says a column: one line each, empty where unknown."""
    if len(column) > FEW and column.dtype == pl.String:
        return _tidy(column).to_list()
    if len(column) > FEW and column.dtype == pl.List(pl.String):
        parts = column.list.eval(_tidy(pl.element()))
        return (
            parts.list.eval(pl.element().filter(pl.element() != ""))
            .list.join(", ")
            .fill_null("")
            .to_list()
        )
    kind: Any = column.dtype
    while isinstance(kind, pl.List | pl.Array):
        kind = kind.inner
    short = np.float32 if kind == pl.Float32 else float
    return [_as_text(value, short) for value in column.to_list()]


def _tidy(texts: Any) -> Any:
    return texts.str.replace_all(SPACE, " ").str.strip_chars(" ").fill_null("")


def _as_text(value: object, short: Callable[[float], object]) -> str:
    """Says one value; ``short`` makes of a number one with no more digits than it was stored."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(filter(None, (_as_text(part, short) for part in value)))
    if isinstance(value, float):
        return "" if math.isnan(value) else str(short(value))
    return "" if value is None else " ".join(str(value).split())
