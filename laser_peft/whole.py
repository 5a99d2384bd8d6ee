"""Files and folders that are always whole: written beside their name first, then renamed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into beside the named one: one with this name is always whole."""
    folder = folder.resolve()
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    os.replace(unfinished, folder)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has a file written beside its place, so that no half-written one is ever taken for whole."""
    unfinished = path.with_suffix(".unfinished")
    write(unfinished)
    os.replace(unfinished, path)


def write_whole(path: Path, text: str) -> None:
    """Writes a text in UTF-8 whole."""
    write_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
