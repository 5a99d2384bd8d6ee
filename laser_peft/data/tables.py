"""Reads CSV, JSON lines and Parquet files into one frame of columns, plain or compressed."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import polars as pl

FORMATS = (".csv", ".jsonl", ".parquet")


def read_table(path: str | Path, required: Sequence[str]) -> pl.DataFrame:
    """Reads a table and checks that it has the columns asked for.

    CSV values come back as text: whether ``0071`` is a number is not for a parser to guess.

    Args:
        path: a ``.csv`` or ``.jsonl`` file, also with ``.gz``, or a ``.parquet`` file.
        required: columns that must be there; others are kept too.

    Returns:
        The table, in file order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the format is unknown, the file cannot be parsed, it has no rows, or a
            column is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind not in FORMATS:
        raise ValueError(
            f"cannot tell the format of {path.name}; its name must end in one of "
            f"{', '.join(FORMATS)} (.gz may follow .csv and .jsonl)"
        )
    try:
        if kind == ".csv":
            frame = pl.read_csv(path, infer_schema=False)
        elif kind == ".parquet":
            frame = pl.read_parquet(path)
        else:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path
            frame = pl.read_ndjson(content, infer_schema_length=None)
    except (pl.exceptions.PolarsError, gzip.BadGzipFile, EOFError, OSError) as error:
        raise ValueError(f"cannot read {path} as {kind[1:]}: {error}") from error
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{path.name} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, frame.columns))}: say which of them to read (user_column, "
            "item_column, time_column)"
        )
    if frame.is_empty():
        raise ValueError(f"{path.name} has no rows; is it the right file, written to its end?")
    for name in required:
        if frame.schema[name].is_nested():
            raise ValueError(
                f"{path.name}: column {name!r} must hold one value a row, got {frame.schema[name]}"
            )
    return frame


def first_rows(frame: pl.DataFrame, bad: pl.Series, count: int = 3) -> str:
    """Shows the first rows where ``bad`` holds, with their row numbers counted from 1."""
    rows = frame.with_row_index("row", offset=1).filter(bad).head(count)
    return "; ".join(str(row) for row in rows.to_dicts())
