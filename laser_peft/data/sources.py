"""Where a table is: a file, a glob, a list of them, a folder of parts, or a data set of the Hub."""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import unquote

import polars as pl

if TYPE_CHECKING:
    from datasets import Dataset

Source: TypeAlias = "str | Path | Sequence[str | Path] | pl.DataFrame | Dataset"

HUB = "hf://datasets/"
JSON_LINES = (".jsonl", ".ndjson", ".json")
FORMATS = (".csv", *JSON_LINES, ".parquet")
COMPRESSIONS = (".gz", ".zst")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class File(NamedTuple):
    """One file of a table, and what its folders ``name=value`` say of every row in it."""

    name: str  # as a reader of the report knows it: below the folder that was named
    path: Path
    partition: dict[str, str | None]


def find_files(source: str | Path | Sequence[str | Path]) -> list[File]:
    """Names the files of a table in the order in which their rows count.

    A glob and a folder are sorted by path, numbers by value; a list keeps its order. In a folder,
    names that begin with ``_`` or ``.`` are no data (``_SUCCESS``), and ``day=3/`` gives a column
    ``day``. A folder that a glob matches is one of parts; what it matches twice counts once.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if nothing is named or found, a file is named twice, a name does not tell the
            format, or the folder holds what a plain reader would read wrongly.
    """
    if not isinstance(source, str | Path):
        files = [file for one in source for file in find_files(one)]
        if not files:
            raise ValueError("the list of files to read is empty; name at least one")
        _check_named_once([file.path for file in files])
        return files
    path = Path(source)
    if path.is_dir():
        found = list(_parts(path, path))
        if not found:
            raise ValueError(f"{path} holds no data files; did the job that writes it finish?")
        return found
    if path.is_file():
        return [_file(path, path.parent)]
    if glob.has_magic(str(source)):
        root = Path(*takewhile(lambda name: not glob.has_magic(name), path.parts))
        matches = map(Path, glob.glob(str(source), recursive=True))
        by_path = {file.path: file for match in matches for file in _matched(match, root)}
        if not by_path:
            raise FileNotFoundError(f"no file matches {source}")
        return sorted(by_path.values(), key=lambda file: _by_number(file.path))
    raise FileNotFoundError(f"no such file: {source}")


def format_of(path: Path) -> str:
    """Tells the format of a file by its name, one of :data:`FORMATS`.

    Raises:
        ValueError: if the name does not tell.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    if not suffixes or suffixes[-1] not in FORMATS:
        raise ValueError(
            f"cannot tell the format of {path.name}; its name must end in one of "
            f"{', '.join(FORMATS)} ({' or '.join(COMPRESSIONS)} may follow all but .parquet)"
        )
    return suffixes[-1]


def _matched(path: Path, root: Path) -> Iterator[File]:
    if not path.is_dir():
        _check_link(path)
        yield _file(path, root)
    elif not path.name.startswith(("_", ".")):
        yield from _parts(path, root)


def _parts(folder: Path, root: Path) -> Iterator[File]:
    if (folder / "_delta_log").is_dir():
        raise ValueError(
            f"{folder} is a Delta table, whose folder also holds deleted rows; export what is "
            "valid to Parquet and read that"
        )
    if (folder / "_temporary").exists():
        raise ValueError(
            f"{folder} holds _temporary: the job that writes it runs still or has failed; "
            "let it finish, or delete _temporary if the parts are whole"
        )
    for path in sorted(folder.rglob("*"), key=_by_number):
        names = path.relative_to(folder).parts
        if any(name.startswith(("_", ".")) for name in names):
            continue
        if path.is_symlink() or not path.is_dir():
            _check_link(path)
            yield _file(path, root)


def _check_link(path: Path) -> None:
    """Refuses a link to a folder, which no walk follows, or to nothing."""
    if not path.is_file():
        raise ValueError(
            f"{path} is no file but a link to a folder or to nothing, whose rows would be missing; "
            "put the files there, or name the folders in a list"
        )


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts ``data_2`` before ``data_10``."""
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece) if piece.isdecimal() else -1, piece) for piece in pieces]


def _file(path: Path, root: Path) -> File:
    format_of(path)
    name = path.relative_to(root)
    pairs = (folder.split("=", 1) for folder in name.parts[:-1] if "=" in folder)
    told = {key: None if value == NULL_PARTITION else unquote(value) for key, value in pairs}
    return File(name.as_posix(), path, told)


def _check_named_once(paths: Sequence[Path]) -> None:
    counts = Counter(path.resolve() for path in paths)
    twice = sorted(str(path) for path, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"named more than once, and would count twice: {', '.join(twice[:5])}")
