"""Looks at every row of a log once, at the border, and remembers what is wrong with it."""

from bisect import bisect_right
from collections.abc import Mapping

import polars as pl

from .columns import ITEM, TIME, USER, TimeUnit, as_ids, as_seconds
from .reports import SHOWN, Finding, as_json
from .tables import Part

UNKNOWN_ITEM = "item is not in the catalogue"


class RowChecks:
    """Turns parts of a log into frames of text ids and seconds, null where broken.

    Args:
        columns: the log's own column names, by ours.
        time_unit: of times that are numbers.
    """

    def __init__(self, columns: Mapping[str, str], time_unit: TimeUnit) -> None:
        self.columns = columns
        self.time_unit = time_unit
        self.names: list[str] = []
        self.starts: list[int] = []  # rows before each file
        self.rows = 0
        kinds = [f"{name} is missing" for name in columns.values()]
        if TIME in columns:
            kinds += [f"{columns[TIME]} is {what}" for what in ("no time", "not finite")]
        # In one order, whichever part has which.
        self._found = {kind: Finding(kind, 0) for kind in kinds}

    def read(self, part: Part) -> pl.DataFrame:
        """Checks one part; the returned frame has a row for every row of it.

        Raises:
            ValueError: if a column is of a type that cannot hold ids or times.
        """
        if not part.first:
            self.names.append(part.name)
            self.starts.append(self.rows)
        raw = part.frame
        clean: dict[str, pl.Series] = {}
        for name in (USER, ITEM):
            if name in self.columns:
                column = clean[name] = as_ids(raw[self.columns[name]], part.name)
                self._note(f"{self.columns[name]} is missing", column.is_null(), raw)
        if TIME in self.columns:
            clean[TIME] = self._times(raw, part.name)
        self.rows += raw.height
        return pl.DataFrame(clean)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, kind by kind."""
        return [finding for finding in self._found.values() if finding.count]

    def note(self, kind: str, frame: pl.DataFrame, rows: pl.Series) -> Finding:
        """Describes rows of the whole log.

        Args:
            kind: what is the matter with them.
            frame: those rows, of which the first are shown.
            rows: their places in the whole log, from 0.
        """
        shown = zip(rows.head(SHOWN), frame.head(SHOWN).to_dicts(), strict=True)
        first = tuple(as_json(self._place(row) | values) for row, values in shown)
        return Finding(kind, len(rows), first=first)

    def _times(self, raw: pl.DataFrame, where: str) -> pl.Series:
        name = self.columns[TIME]
        given = raw[name]
        seconds = as_seconds(given, self.time_unit, where).alias(TIME)
        unread = seconds.is_null()
        if unread.any():
            blank = given.is_null()
            if given.dtype == pl.String:
                blank |= (given.str.strip_chars() == "").fill_null(True)
            self._note(f"{name} is missing", blank, raw)
            self._note(f"{name} is no time", unread & ~blank, raw)
        endless = (~seconds.is_finite()).fill_null(False)
        self._note(f"{name} is not finite", endless, raw)
        return seconds.set(endless, None) if endless.any() else seconds

    def _note(self, kind: str, bad: pl.Series, raw: pl.DataFrame) -> None:
        if not bad.any():
            return
        local = bad.arg_true()
        new = self.note(kind, raw[local.head(SHOWN)], local.head(SHOWN) + self.rows)
        old = self._found[kind]
        first = (old.first + new.first)[:SHOWN]
        self._found[kind] = Finding(kind, old.count + len(local), first=first)

    def _place(self, row: int) -> dict[str, str | int]:
        part = bisect_right(self.starts, row) - 1
        file = {"file": self.names[part]} if len(self.names) > 1 else {}
        return file | {"row": row - self.starts[part] + 1}
