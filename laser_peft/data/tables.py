"""Reads a table part by part: CSV, JSON lines, Parquet, plain or compressed, or from the Hub."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from laser_peft.checksums import check_where_listed

from .hub import check_dataset, dataset_frame, load_hub
from .quoting import check_quotes
from .sources import HUB, JSON_LINES, File, Source, find_files, format_of

ROWS_AT_A_TIME = 2**20  # of a file
OBJECTS = "one object a line, UTF-8 without a byte order mark"
COMMAS = "text in UTF-8 with commas between values, of which every row has as many as the header"
FORMS = {".csv": COMMAS, **dict.fromkeys(JSON_LINES, OBJECTS)}


class Part(NamedTuple):
    """Some rows of one file, or of what else a table is in.

    Args:
        name: of the file.
        frame: the rows.
        first: the place in the file of the first of them, from 0.
    """

    name: str
    frame: pl.DataFrame
    first: int = 0


def read_parts(
    source: Source, required: Sequence[str], *, only_required: bool = False
) -> Iterator[Part]:
    """Reads a table and checks that every part has the columns asked for.

    CSV values come back as text: whether ``0071`` is a number is not for a parser to guess. Of
    several files one may be empty to the last byte, and one of JSON lines, whose writers leave
    nulls out, may lack a column that another has.

    Args:
        source: see :func:`.sources.find_files`; or ``hf://datasets/...`` (:func:`.hub.load_hub`),
            a ``datasets.Dataset`` or a ``polars.DataFrame``.
        required: columns that must be there.
        only_required: leave the others out.

    Yields:
        The parts in order, each in file order; of an empty file an empty one.

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
        yield from _parts_of_files(source, required, only_required)
        return
    name = name_of(source)
    if isinstance(source, pl.DataFrame):
        _check_columns(name, source.columns, required)
        yield Part(name, source.select(required) if only_required else source)
        return
    dataset = load_hub(str(source)) if isinstance(source, str | Path) else check_dataset(source)
    _check_columns(name, dataset.column_names, required)
    # Chosen before they are read: the others may be images.
    chosen = required if only_required else dataset.column_names
    yield Part(name, dataset_frame(dataset.select_columns(list(chosen))))


def _parts_of_files(
    source: str | Path | Sequence[str | Path], required: Sequence[str], only_required: bool
) -> Iterator[Part]:
    files = find_files(source)
    told: set[str] = set()  # the columns of any of them
    for file in files:
        several = len(files) > 1
        if several and not file.path.stat().st_size:
            yield Part(file.name, pl.DataFrame(schema=dict.fromkeys(required, pl.Null)))
            continue
        may_lack = several and format_of(file.path) in JSON_LINES
        for names, part in _read_file(file, required, only_required, may_lack):
            told.update(names)
            yield part
    if told:
        _check_columns(name_of(source), sorted(told), required)


def _read_file(
    file: File, required: Sequence[str], only_required: bool, may_lack: bool
) -> Iterator[tuple[list[str], Part]]:
    """Yields the columns that the file has with its rows, so many at a time."""
    kind = format_of(file.path)
    check_where_listed(file.path, advice="prepare the log again")
    try:
        table = _scan(file)
        names = table.collect_schema().names()
        if kind == ".csv":
            _check_named_once(file.name, names, required)
        if may_lack:
            lacking = [name for name in required if name not in names]
            table = table.with_columns(pl.lit(None).alias(name) for name in lacking)
        else:
            _check_columns(file.name, names, required)
        table = table.select(required) if only_required else table
        first = 0
        for frame in table.collect_batches(chunk_size=ROWS_AT_A_TIME):
            if len(frame):
                yield names, Part(file.name, frame, first)
            first += len(frame)
        if not first:
            yield names, Part(file.name, table.head(0).collect())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        form = f"; it must be {FORMS[kind]}" if kind in FORMS else ""
        raise ValueError(f"cannot read {file.path} as {kind[1:]}: {error}{form}") from error


def _scan(file: File) -> pl.LazyFrame:
    path, kind = file.path, format_of(file.path)
    if kind == ".csv":
        check_quotes(path)
        table = pl.scan_csv(path, infer_schema=False, glob=False)
    elif kind == ".parquet":
        table = pl.scan_parquet(path, hive_partitioning=False, glob=False)
    else:
        table = pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
    names = table.collect_schema().names()
    told = {key: value for key, value in file.partition.items() if key not in names}
    return table.with_columns(
        pl.lit(value, dtype=pl.String).alias(key) for key, value in told.items()
    )


def _check_named_once(name: str, columns: Sequence[str], required: Sequence[str]) -> None:
    """Refuses a header that names a column to read twice, of which polars renames the second."""
    for column in required:
        if f"{column}_duplicated_0" in columns:
            raise ValueError(
                f"{name} has the column {column!r} more than once; rename or drop all but the one "
                "to read"
            )


def _check_columns(name: str, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, columns))}: say which of them to read (user_column, "
            "item_column, time_column; for the command --user-column, --item-column, "
            "--time-column); a log without times needs time_column=None (--time-column '')"
        )
