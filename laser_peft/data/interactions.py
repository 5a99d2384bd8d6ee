"""Who took what, and when: a purchase log read, checked and put in order."""

import warnings
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from .catalogue import Catalogue
from .checking import UNKNOWN_ITEM, RowChecks
from .columns import ITEM, TIME, UNITS_PER_SECOND, USER, TimeUnit, warn_of_fractions
from .reports import SHOWN, Finding, LogReport, as_json, complaint
from .sources import Source
from .tables import name_of, read_parts

YEAR_5138 = 1e11  # in seconds; milliseconds reach it in 1973
YEAR_1990 = 631_152_000  # in seconds; seconds taken for milliseconds reach it in 21970
DUPLICATE = "same user, item and time as an earlier row"
NEVER_HAD = "item of the catalogue is not in the log"


@dataclass(frozen=True)
class Interactions:
    """A checked log, every user's events together and oldest first.

    Args:
        users: ``(events,)`` uint32, places in ``user_ids``; never falling.
        items: ``(events,)`` uint32, places in ``item_ids``.
        times: ``(events,)`` float64 seconds since 1970, or None where the log has no times.
        user_ids: the users, in the order of their first row.
        item_ids: the items, in the order of their first row.
        report: what was found while reading.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    user_ids: pl.Series
    item_ids: pl.Series
    report: LogReport

    def __len__(self) -> int:
        return len(self.items)

    def frame(self) -> pl.DataFrame:
        """Returns columns ``user_id``, ``item_id`` and, where there are times, ``timestamp``."""
        ids = [self.user_ids.gather(self.users), self.item_ids.gather(self.items)]
        times = [] if self.times is None else [pl.Series(TIME, self.times)]
        return pl.DataFrame([*ids, *times])


def read_interactions(
    source: Source,
    *,
    user_column: str = USER,
    item_column: str = ITEM,
    time_column: str | None = TIME,
    time_unit: TimeUnit = "s",
    catalogue: Catalogue | None = None,
    on_bad_rows: Literal["raise", "drop"] = "raise",
    drop_duplicates: bool = False,
) -> Interactions:
    """Reads a log of interactions, oldest first for every user; equal times keep file order.

    Args:
        source: one row an interaction; see :func:`.tables.read_parts`.
        user_column: name of the column that says who.
        item_column: name of the column that says what.
        time_column: name of the column that says when: numbers, dates, datetimes or ISO 8601
            text. None: the rows are in order already.
        time_unit: what times that are numbers count since 1970: ``s``, ``ms``, ``us`` or ``ns``.
        catalogue: items that may occur; None if any may.
        on_bad_rows: what to do with rows that lack a user, an item or a readable time, or whose
            item is unknown: ``raise`` an error that lists them, or ``drop`` and count them.
        drop_duplicates: keep only the first of rows with equal user, item and time. They are
            counted in any case; without times nothing is a duplicate.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting, a file or a column cannot work, or there are bad rows.

    Warns:
        UserWarning: if times look like another unit than ``time_unit``, or all ids like floats.
    """
    columns = {USER: user_column, ITEM: item_column} | ({TIME: time_column} if time_column else {})
    _check_settings(columns, time_unit, on_bad_rows)
    checks = RowChecks(columns, time_unit)
    parts = read_parts(source, list(columns.values()), only_required=True)
    # Of ids that stand in millions of rows each is kept once, whatever part it is in.
    kinds = {name: pl.Categorical(pl.Categories.random()) for name in (USER, ITEM)}
    frame = pl.concat([checks.read(part).cast(kinds) for part in parts])  # type: ignore[arg-type]

    for name in (USER, ITEM):
        warn_of_fractions(frame[name].unique().cast(pl.String).drop_nulls(), name_of(source))
    usable, bad = _usable(frame, checks, catalogue)
    if bad and (on_bad_rows == "raise" or not usable.any()):
        left_out = checks.rows - int(usable.sum())
        raise ValueError(complaint(name_of(source), left_out, checks.rows, bad))
    rows = usable.arg_true() if bad else None
    frame, findings = _without_bad_rows(frame, usable, bad)
    frame, user_ids = _numbered(frame, USER)
    frame, item_ids = _numbered(frame, ITEM)
    if time_column:
        frame, duplicates = _without_duplicates(
            frame, checks, rows, (user_ids, item_ids), drop_duplicates
        )
        findings.append(duplicates)
        _warn_of_unit(frame[TIME], time_unit)
    if catalogue is not None:
        listed = catalogue.frame[ITEM]
        never = listed.filter(~listed.is_in(item_ids.implode()))
        findings.append(ids_finding(NEVER_HAD, never, "items", "kept"))
    report = LogReport(rows=checks.rows).with_findings(*findings)
    return _in_order(frame, user_ids, item_ids, report)


def ids_finding(kind: str, ids: pl.Series, unit: str, action: str) -> Finding:
    """Describes users or items, of which the first are shown."""
    first = tuple(as_json(row) for row in ids.head(SHOWN).to_frame().to_dicts())
    return Finding(kind, len(ids), unit, action, first)


def _check_settings(columns: dict[str, str], time_unit: str, on_bad_rows: str) -> None:
    if len(set(columns.values())) < len(columns):
        raise ValueError(
            f"user, item and time need {len(columns)} different columns, got "
            f"{', '.join(map(repr, columns.values()))}"
        )
    if time_unit not in UNITS_PER_SECOND:
        raise ValueError(
            f"time_unit must be one of {', '.join(UNITS_PER_SECOND)}, got {time_unit!r}"
        )
    if on_bad_rows not in ("raise", "drop"):
        raise ValueError(f"on_bad_rows must be 'raise' or 'drop', got {on_bad_rows!r}")


def _usable(
    frame: pl.DataFrame, checks: RowChecks, catalogue: Catalogue | None
) -> tuple[pl.Series, list[Finding]]:
    """Tells which rows can be used, and what is wrong with the others."""
    found = checks.findings
    usable = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    if catalogue is not None:
        ids, places = _distinct(frame[ITEM])
        known = ids.is_in(catalogue.frame[ITEM].implode())
        unknown = (~known.gather(places)).fill_null(False)
        if unknown.any():
            rows = unknown.arg_true()
            found = [*found, checks.note(UNKNOWN_ITEM, frame[rows.head(SHOWN)], rows)]
            usable &= ~unknown
    return usable, found


def _without_bad_rows(
    frame: pl.DataFrame, usable: pl.Series, bad: list[Finding]
) -> tuple[pl.DataFrame, list[Finding]]:
    """Leaves out what cannot be used, and counts it and the users who are gone with it."""
    if not bad:
        return frame, []
    users = frame.filter(~usable)[USER].drop_nulls().unique(maintain_order=True)
    frame = frame.filter(usable)
    still_there = frame[USER].filter(frame[USER].is_in(users.implode())).unique()
    lost = users.filter(~users.is_in(still_there.implode()))
    dropped = [replace(finding, action="dropped") for finding in bad]
    return frame, [
        *dropped,
        ids_finding("user is left without events", lost, "users", "dropped"),
    ]


def _numbered(frame: pl.DataFrame, column: str) -> tuple[pl.DataFrame, pl.Series]:
    """Puts numbers in the place of ids, in the order of their first row."""
    ids, numbers = _distinct(frame[column])
    return frame.with_columns(numbers.alias(column)), ids


def _distinct(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Returns the ids of a categorical column once each, as text, in the order of their first row.

    And for each row the place of its id, uint32; null stays null.
    """
    codes = column.to_physical()
    first = codes.unique(maintain_order=True).drop_nulls()
    places = np.zeros(int(first.max() or 0) + 1, dtype=np.uint32)  # type: ignore[arg-type]
    places[first.to_numpy()] = np.arange(len(first), dtype=np.uint32)
    ids = column.unique(maintain_order=True).drop_nulls().cast(pl.String)
    return ids, pl.Series(column.name, places).gather(codes)


def _without_duplicates(
    frame: pl.DataFrame,
    checks: RowChecks,
    rows: pl.Series | None,
    ids: tuple[pl.Series, pl.Series],
    drop: bool,
) -> tuple[pl.DataFrame, Finding]:
    """Counts exact duplicates, and drops them if asked; ``rows`` are the frame's in the log."""
    places = _repeats(frame)
    shown = frame[places.head(SHOWN)].with_columns(
        pl.Series(column, values.gather(frame[places.head(SHOWN)][column]))
        for column, values in zip((USER, ITEM), ids, strict=True)
    )
    found = checks.note(DUPLICATE, shown, places if rows is None else rows.gather(places))
    if drop and len(places):
        keep = np.ones(len(frame), dtype=bool)
        keep[places.to_numpy()] = False
        frame = frame.filter(keep)
    return frame, replace(found, action="dropped" if drop else "kept")


def _repeats(frame: pl.DataFrame) -> pl.Series:
    """Returns the places of rows that are equal to an earlier one, rising."""
    hashes = frame.hash_rows().to_numpy()
    ordered = np.sort(hashes)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(shared):
        return pl.Series(dtype=pl.Int64)
    nearest = np.searchsorted(shared, hashes).clip(max=len(shared) - 1)
    # Only rows that share a hash are compared, which takes far more memory than a hash does.
    places = pl.Series(np.flatnonzero(shared[nearest] == hashes))
    is_first = frame[places].select(pl.struct(pl.all()).is_first_distinct()).to_series()
    return places.filter(~is_first)


def _warn_of_unit(times: pl.Series, unit: TimeUnit) -> None:
    latest = times.max()
    assert isinstance(latest, float)
    if latest > YEAR_5138:
        warnings.warn(
            f"the latest time is {latest:.0f} seconds after 1970, beyond the year 5138; numbers "
            f"were read with time_unit={unit!r} (--time-unit): are they in ms, us or ns?",
            stacklevel=4,
        )
    if unit != "s" and latest < YEAR_1990:
        warnings.warn(
            f"the latest time is {latest:.0f} seconds after 1970, before the year 1990; numbers "
            f"were read with time_unit={unit!r} (--time-unit): are they in a larger unit, as s?",
            stacklevel=4,
        )


def _in_order(
    frame: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series, report: LogReport
) -> Interactions:
    by = [column for column in (USER, TIME) if column in frame.columns]
    frame = frame.sort(by, maintain_order=True)
    times = frame[TIME].to_numpy() if TIME in by else None
    report = replace(
        report,
        events=frame.height,
        users=len(user_ids),
        items=len(item_ids),
        first_time=None if times is None else float(times.min()),
        last_time=None if times is None else float(times.max()),
    )
    users, items = frame[USER].to_numpy(), frame[ITEM].to_numpy()
    return Interactions(users, items, times, user_ids, item_ids, report)
