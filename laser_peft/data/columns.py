"""Ids as text and times as seconds, whatever a file holds them as."""

import warnings
from typing import Literal

import polars as pl

USER, ITEM, TIME = "user_id", "item_id", "timestamp"

TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
# ISO 8601 with the T between date and time; a time without an offset is UTC.
ISO_8601 = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M%#z",
)


# As floats are written: 42.0, 1e+16.
FRACTION = r"^-?\d+(\.0+|(\.\d+)?[eE]\+\d+)$"
FRACTION_ADVICE = (
    "an id that passed through a fraction is not safe: write it as text or as an integer (pandas "
    "makes fractions of integers with gaps: astype('Int64') keeps them whole)"
)


def as_ids(column: pl.Series, where: str) -> pl.Series:
    """Returns ids as text, letter by letter as they stand; null where blank.

    Nothing is ever read as a number with a fraction: ``0071`` keeps its zeros, and an integer of
    19 digits its last one.

    Args:
        column: text (also as bytes or a dictionary), or whole numbers.
        where: what an error calls the table.

    Raises:
        ValueError: if the column holds something else.
    """
    kind = column.dtype
    if kind.is_nested():
        raise ValueError(f"{where}: column {column.name!r} must hold one value a row, got {kind}")
    whole = kind.is_integer() or (isinstance(kind, pl.Decimal) and kind.scale == 0)
    if not whole and not isinstance(
        kind, pl.String | pl.Categorical | pl.Enum | pl.Binary | pl.Null
    ):
        raise ValueError(
            f"{where}: column {column.name!r} must hold text or whole numbers, got {kind}; "
            f"{FRACTION_ADVICE}"
        )
    text = as_text(column, where)
    return text.set(text.str.strip_chars() == "", None) if not whole else text


def warn_of_fractions(ids: pl.Series, where: str) -> None:
    """Warns where all ids are texts such as floats are written as: ``42.0``, ``1e+16``."""
    if len(ids) and ids.head(1).str.contains(FRACTION).all() and ids.str.contains(FRACTION).all():
        warnings.warn(
            f"{where}: every {ids.name} is a number with a fraction, such as {ids[0]!r}, and is "
            f"taken as it stands; {FRACTION_ADVICE}",
            stacklevel=4,
        )


def as_text(column: pl.Series, where: str) -> pl.Series:
    """Returns the column as text.

    Raises:
        ValueError: if it holds bytes that are no UTF-8.
    """
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{where}: column {column.name!r} holds bytes that are not text in UTF-8; if they are "
            "those of a UUID, have it written as text (DuckDB: CAST(... AS VARCHAR))"
        ) from error


def as_seconds(column: pl.Series, unit: TimeUnit, where: str) -> pl.Series:
    """Returns float64 seconds since 1970 in UTC, good to a microsecond; null where unreadable.

    Args:
        column: dates, datetimes, numbers, or text that holds numbers or ISO 8601.
        unit: of the numbers; dates and datetimes know their own.
        where: what an error calls the table.

    Raises:
        ValueError: if the column cannot hold times.
    """
    kind = column.dtype
    if kind.is_numeric():
        return column.cast(pl.Float64) / UNITS_PER_SECOND[unit]
    if isinstance(kind, pl.Date | pl.Datetime):
        return _since_1970(column.cast(pl.Datetime("us", getattr(kind, "time_zone", None))))
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Binary | pl.Null):
        return _read_times(as_text(column, where), unit)
    raise ValueError(
        f"{where}: column {column.name!r} must hold times (numbers, dates, datetimes or ISO 8601 "
        f"text), got {kind}"
    )


def _read_times(text: pl.Series, unit: TimeUnit) -> pl.Series:
    text = text.str.strip_chars()
    seconds = text.cast(pl.Float64, strict=False) / UNITS_PER_SECOND[unit]
    if seconds.null_count() == text.null_count():
        return seconds
    # As databases write it: 2014-07-01 12:00:00 UTC
    text = text.str.replace(r"[ ]?UTC$", "Z").str.replace(" ", "T", literal=True)
    for form in ISO_8601:
        unread = text.set(seconds.is_not_null(), None)
        if unread.null_count() == len(unread):
            break
        times = unread.str.to_datetime(form, time_unit="us", strict=False)
        seconds = seconds.zip_with(seconds.is_not_null(), _since_1970(times))
    return seconds


def _since_1970(times: pl.Series) -> pl.Series:
    return times.dt.epoch("us").cast(pl.Float64) / 1e6
