"""Histories in Parquet: a file, a folder of parts or a glob, read some rows at a time.

A row is a user: an id, and a list of item ids, oldest first.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import polars as pl

from laser_peft.data import Catalogue
from laser_peft.data.sources import find_files, format_of

USER, HISTORY = "user_id", "history"
UnknownItems = Literal["error", "skip"]
ROWS_A_LOOK = 65_536  # rows whose ids are looked up at a time
BYTES_A_READ = 2**20


@dataclass(frozen=True)
class HistoryTable:
    """A table of histories; :meth:`open` makes one.

    Args:
        files: of its rows, in order.
        heights: rows of each file.
        user_column: says who.
        history_column: lists item ids, oldest first.
    """

    files: tuple[Path, ...]
    heights: tuple[int, ...]
    user_column: str = USER
    history_column: str = HISTORY

    @classmethod
    def open(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        user_column: str = USER,
        history_column: str = HISTORY,
    ) -> "HistoryTable":
        """Finds the files and reads what they say of themselves, not their rows.

        Args:
            source: a file, a folder of parts as Spark and DuckDB write them, a glob, or a list.
            user_column: any column; its values are handed through.
            history_column: lists of text or whole numbers.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a file is no Parquet or is damaged, a column is missing or of another
                kind, the files do not agree, or there is no row.
        """
        found = find_files(source)
        described = [_describe(file.path, user_column, history_column) for file in found]
        kinds = {kind for _, kind in described}
        if len(kinds) > 1:
            raise ValueError(
                f"the files of {source} hold the column {user_column!r} as different types: "
                f"{', '.join(sorted(map(str, kinds)))}; write all of them alike"
            )
        heights = tuple(height for height, _ in described)
        if not sum(heights):
            raise ValueError(f"{source} has no rows; is it the right table, written to its end?")
        return cls(tuple(file.path for file in found), heights, user_column, history_column)

    def __len__(self) -> int:
        return sum(self.heights)

    def rows(self, start: int, stop: int) -> pl.DataFrame:
        """Reads rows ``start..stop - 1`` of all: ``user_id`` as it is, ``history`` as texts.

        Raises:
            ValueError: if a file cannot be read any more.
        """
        frames, first = [], 0
        for path, height in zip(self.files, self.heights, strict=True):
            begin, end = max(start - first, 0), min(stop - first, height)
            if begin < end:
                frames.append(self._rows_of(path, begin, end - begin))
            first += height
        return pl.concat(frames)

    def sha256(self) -> str:
        """Hashes the files, byte by byte, in their order; where they lie does not count."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.stat().st_size.to_bytes(8, "little"))
            with path.open("rb") as file:
                while block := file.read(BYTES_A_READ):
                    digest.update(block)
        return digest.hexdigest()

    def unknown_items(
        self, catalogue: Catalogue, rows: range, when: UnknownItems
    ) -> set[str | None]:
        """Looks all item ids of some rows up.

        Args:
            catalogue: that knows the items.
            rows: which ones.
            when: ``"error"``: an unknown item is one.

        Returns:
            The ids that the catalogue does not know; a null in a list is one of them.

        Raises:
            ValueError: if a history is null, or for an unknown item, with its row and user.
        """
        unknown: set[str | None] = set()
        for start in range(rows.start, rows.stop, ROWS_A_LOOK):
            frame = self.rows(start, min(start + ROWS_A_LOOK, rows.stop))
            missing = frame[HISTORY].is_null()
            if missing.any():
                self._refuse_null(frame, missing, start)
            listed = frame[HISTORY].filter(frame[HISTORY].list.len() > 0).explode().unique()
            found: set[str | None] = set(catalogue.not_among(listed.drop_nulls()))
            if listed.has_nulls():
                found.add(None)
            if found and when == "error":
                self._refuse_unknown(frame, found, start, len(catalogue))
            unknown |= found
        return unknown

    def _rows_of(self, path: Path, start: int, count: int) -> pl.DataFrame:
        try:
            return (
                pl.scan_parquet(path, glob=False, hive_partitioning=False)
                .select(
                    pl.col(self.user_column).alias(USER),
                    pl.col(self.history_column).cast(pl.List(pl.String)).alias(HISTORY),
                )
                .slice(start, count)
                .collect()
            )
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"cannot read {path}: {error}; is it damaged?") from error

    def _refuse_null(self, frame: pl.DataFrame, missing: pl.Series, start: int) -> NoReturn:
        row = int(missing.arg_max() or 0)
        raise ValueError(
            f"row {start + row + 1} (user {frame[USER][row]!r}) has null for a history; write an "
            "empty list for a new user"
        )

    def _refuse_unknown(
        self, frame: pl.DataFrame, unknown: set[Any], start: int, num_items: int
    ) -> NoReturn:
        for row, history in enumerate(frame[HISTORY]):
            for item in history:
                if item in unknown:
                    raise ValueError(
                        f"row {start + row + 1} (user {frame[USER][row]!r}) has the item "
                        f"{item!r}, which is not in the catalogue of {num_items}; are these ids "
                        "of the right kind? --unknown-items skip leaves such items out"
                    )
        raise AssertionError("an unknown item must be in a row")


def _describe(path: Path, user_column: str, history_column: str) -> tuple[int, pl.DataType]:
    """Returns the number of rows and the type of the user's column."""
    if format_of(path) != ".parquet":
        raise ValueError(f"histories are read from Parquet alone, got {path.name}")
    try:
        table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = table.collect_schema()
        height = int(table.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"cannot read {path} as Parquet: {error}") from error
    for name, option in ((user_column, "--user-column"), (history_column, "--history-column")):
        if name not in schema:
            raise ValueError(
                f"{path.name} has no column {name!r}; it has "
                f"{', '.join(map(repr, schema.names()))}: say which of them to read ({option})"
            )
    kind = schema[history_column]
    inner = kind.inner if isinstance(kind, pl.List) else None
    if not isinstance(inner, pl.String | pl.Categorical | pl.Enum) and not (
        inner is not None and inner.is_integer()  # type: ignore[union-attr]
    ):
        raise ValueError(
            f"{path.name}: column {history_column!r} must hold lists of item ids, texts or whole "
            f"numbers, got {kind}; in SQL: list(item_id ORDER BY timestamp)"
        )
    return height, schema[user_column]
