"""Files that are always whole: written beside their name first, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Writes Parquet."""
    _write(path, frame.write_parquet)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Writes a JSON object."""
    text = json.dumps(values, indent=2) + "\n"
    _write(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: if the file is none.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); {_REMEDY}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object but {values!r}; {_REMEDY}")
    return values


_REMEDY = "remove it and run the same again"


def _write(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)
