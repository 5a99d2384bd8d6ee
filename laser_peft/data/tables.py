"""Reads a table part by part: CSV, JSON lines, Parquet, plain or compressed, or from the Hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from .hub import dataset_frame, load_hub
from .sources import HUB, File, Source, find_files, format_of


class Part(NamedTuple):
    """Some rows of a table that belong together, as those of one file do."""

    name: str
    frame: pl.DataFrame


def read_parts(
    source: Source, required: Sequence[str], *, only_required: bool = False
) -> Iterator[Part]:
    """Reads a table and checks that every part has the columns asked for.

    CSV values come back as text: whether ``0071`` is a number is not for a parser to guess.

    Args:
        source: see :func:`.sources.find_files`; or ``hf://datasets/...`` (:func:`.hub.load_hub`),
            a ``datasets.Dataset`` or a ``polars.DataFrame``.
        required: columns that must be there.
        only_required: leave the others out.

    Yields:
        The parts in order, each in file order; empty ones too.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the source needs ``datasets`` and it is not installed.
        TypeError: if the source is none of these.
        ValueError: if a format is unknown, a file cannot be parsed, a column is missing, or there
            is not one row in all.
    """
    rows = 0
    for part in _parts(source, required, only_required):
        rows += part.frame.height
        yield part
    if not rows:
        raise ValueError(
            f"{name_of(source)} has no rows; is it the right file, written to its end?"
        )


def name_of(source: Source) -> str:
    """Says in a word or two what is read."""
    if isinstance(source, str | Path):
        return str(source) if str(source).startswith(HUB) else Path(source).name
    if isinstance(source, Sequence):
        return f"the list of {len(source)} files"
    return f"the {type(source).__name__}"


def _parts(source: Source, required: Sequence[str], only_required: bool) -> Iterator[Part]:
    if isinstance(source, str | Path | Sequence) and not str(source).startswith(HUB):
        for file in find_files(source):
            yield Part(file.name, _read_file(file, required, only_required))
        return
    name = name_of(source)
    if isinstance(source, str | Path):
        frame = load_hub(str(source))
    else:
        frame = source if isinstance(source, pl.DataFrame) else dataset_frame(source)
    _check_columns(name, frame.columns, required)
    yield Part(name, frame.select(required) if only_required else frame)


def _read_file(file: File, required: Sequence[str], only_required: bool) -> pl.DataFrame:
    path, kind = file.path, format_of(file.path)
    try:
        if kind == ".csv":
            table = pl.scan_csv(path, infer_schema=False, glob=False)
        elif kind == ".parquet":
            table = pl.scan_parquet(path, hive_partitioning=False, glob=False)
        else:
            table = pl.scan_ndjson(path, infer_schema_length=None)
        names = table.collect_schema().names()
        told = {key: value for key, value in file.partition.items() if key not in names}
        table = table.with_columns(
            pl.lit(value, dtype=pl.String).alias(key) for key, value in told.items()
        )
        _check_columns(file.name, [*names, *told], required)
        return (table.select(required) if only_required else table).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"cannot read {path} as {kind[1:]}: {error}") from error


def _check_columns(name: str, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, columns))}: say which of them to read (user_column, "
            "item_column, time_column)"
        )
