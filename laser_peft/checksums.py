"""``checksums.json`` of a folder: by it a file that was damaged since is known from a whole one.

A flipped bit within a tensor gives other numbers and no error; its SHA-256 tells.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from laser_peft.whole import write_json

CHECKSUMS = "checksums.json"
OR_DELETE = f"or delete {CHECKSUMS} if you have changed the folder yourself"
BLOCK = 1 << 20  # bytes read at a time


def write_checksums(folder: Path, names: Iterable[str], *, may_change: Collection[str]) -> None:
    """Writes the SHA-256 of files of a folder by their names, null for those that may change."""
    told = {
        name: None if name in may_change else sha256_of(folder / name) for name in sorted(names)
    }
    write_json(folder / CHECKSUMS, told)


def check_checksums(folder: Path, *, advice: str) -> None:
    """Makes sure that the files are as they were written; a folder without checksums passes.

    Args:
        folder: where ``checksums.json`` and the files are.
        advice: what to do where they are not.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is another one, or the checksums themselves are damaged.
    """
    for name, told in read_checksums(folder, advice=advice).items():
        file = folder / name
        if told is None:
            continue
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {advice}, {OR_DELETE}")
        _check(file, told, advice)


def check_where_listed(file: Path, *, advice: str) -> None:
    """Checks one file, if a ``checksums.json`` beside it lists it; it may be of anything else.

    Raises:
        ValueError: if it is another file.
    """
    try:
        listed = read_checksums(file.parent, advice=advice)
    except (ValueError, OSError):
        return  # somebody else's
    if listed.get(file.name):
        _check(file, str(listed[file.name]), advice)


def _check(file: Path, told: str, advice: str) -> None:
    if sha256_of(file) != told:
        raise ValueError(
            f"{file} is not the file that was written: its SHA-256 differs from that in "
            f"{CHECKSUMS}; {advice}, {OR_DELETE}"
        )


def read_checksums(folder: Path, *, advice: str) -> dict[str, str | None]:
    """Reads the checksums by the names of files; none where there are no checksums.

    Raises:
        ValueError: if they are damaged, or name anything but files of the folder itself.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); {advice}") from error
    if not isinstance(told, dict) or not all(
        isinstance(value, str | None) for value in told.values()
    ):
        raise ValueError(f"{file} is damaged (no object of texts); {advice}")
    outside = [name for name in told if name in ("", ".", "..") or set(name) & set("/\\\0")]
    if outside:
        raise ValueError(f"{file} names what is no file of its folder: {outside[:3]}; {advice}")
    return told


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
