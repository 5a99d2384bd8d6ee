"""What can be recommended: item ids, their dense numbers and their texts."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from .interactions import ITEM
from .tables import first_rows, read_table

TITLE = "title"


class Catalogue:
    """Items in a fixed order; the item in row ``j`` has dense id ``j + 1``, and 0 is padding.

    Args:
        frame: column ``item_id`` of distinct non-empty texts; any further columns are attributes,
            texts or lists of texts, null or empty where unknown.

    Raises:
        ValueError: if an item id is missing or occurs twice.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        frame = frame.with_columns(pl.col(ITEM).cast(pl.String))
        nested = [name for name, kind in frame.schema.items() if not _can_be_said(kind)]
        if nested:
            raise ValueError(
                f"item attributes must be texts, numbers or lists of them; {', '.join(nested)} "
                "cannot be said in a prompt: leave such columns out, or flatten them"
            )
        ids = frame[ITEM]
        for what, bad in (
            ("have no item_id", ids.is_null() | (ids == "")),
            ("share an id", ids.is_duplicated()),
        ):
            if bad.any():
                raise ValueError(
                    f"{bad.sum()} items of the catalogue {what}; the first: "
                    f"{first_rows(frame, bad)}"
                )
        self.frame = frame

    @classmethod
    def read(cls, path: str | Path, *, item_column: str = ITEM) -> "Catalogue":
        """Reads items from CSV, JSON lines or Parquet, one row an item.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the column is missing, or an id is missing or occurs twice.
        """
        frame = read_table(path, [item_column])
        if item_column != ITEM and ITEM in frame.columns:
            frame = frame.drop(ITEM)  # another id, which must not get into the prompts
        return cls(frame.rename({item_column: ITEM}))

    @classmethod
    def load(cls, path: str | Path) -> "Catalogue":
        """Loads what :meth:`save` wrote."""
        return cls(read_table(path, [ITEM]))

    def save(self, path: str | Path) -> None:
        """Writes the catalogue as Parquet."""
        self.frame.write_parquet(path)

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
        titles = map(_as_text, self.frame[TITLE].to_list())
        return [title or item_id for title, item_id in zip(titles, self.item_ids, strict=True)]

    @cached_property
    def _dense_ids(self) -> dict[str, int]:
        return {item_id: row + 1 for row, item_id in enumerate(self.item_ids)}

    def dense_ids(self, item_ids: Iterable[str]) -> list[int]:
        """Returns the dense ids, ``1..N``, of the given items.

        Raises:
            ValueError: if an item is not in the catalogue.
        """
        item_ids = list(item_ids)
        unknown = [item_id for item_id in item_ids if item_id not in self._dense_ids]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(item_ids)} items are not in the catalogue of "
                f"{len(self)}: {unknown[:5]}; are the ids of the right kind, and is the items "
                "file the one that belongs to this log?"
            )
        return [self._dense_ids[item_id] for item_id in item_ids]

    def attributes(self) -> list[dict[str, str]]:
        """Returns each item's known attributes as texts, in column order, lists with commas."""
        names = [name for name in self.frame.columns if name != ITEM]
        return [
            {name: text for name in names if (text := _as_text(row[name]))}
            for row in self.frame.iter_rows(named=True)
        ]


def _can_be_said(kind: Any) -> bool:
    if isinstance(kind, pl.List | pl.Array):
        return _can_be_said(kind.inner)
    return not isinstance(kind, pl.Struct | pl.Binary | pl.Object)


def _as_text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(filter(None, (_as_text(part) for part in value)))
    return "" if value is None else " ".join(str(value).split())
