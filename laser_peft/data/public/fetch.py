"""Makes sure that a public file is here and is what it should be.

What comes in is called ``NAME.part`` until it is whole and checked. ``checksums.json`` beside the
files remembers size and SHA-256 of each when it was first seen whole; a later run must find the
same.
"""

import gzip
import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import whole_archive
from .transfer import BLOCK, discard, transfer
from .whole_files import read_json, write_json

LOCK_FILE = "checksums.json"
FIRST_BYTES = {".gz": b"\x1f\x8b", ".zip": b"PK\x03\x04"}


@dataclass(frozen=True)
class Source:
    """One public file.

    Args:
        url: its address; the last part is the name under which it is kept.
        md5: checksum that the publisher gives, in hexadecimal; None where none is published.
    """

    url: str
    md5: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the file, as published."""
        return self.url.rsplit("/", 1)[-1]


def fetch(
    source: Source, folder: Path, *, sha256: str | None = None, progress: bool = True
) -> Path:
    """Makes sure that a file is here and is what it should be; downloads it where it is not.

    Args:
        source: what to bring.
        folder: where it is kept; made if needed.
        sha256: what the file must have, in hexadecimal; None: whatever the first one has.
        progress: show a bar on stderr.

    Returns:
        The path of the whole, checked file.

    Raises:
        ConnectionError: if it cannot be downloaded, or the transfer stops half way.
        OSError: if it cannot be written.
        ValueError: if what is there is no archive of its kind, or has another checksum or, where
            none is known yet, is damaged; or if ``checksums.json`` cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.file_name
    lock = read_lock(folder)
    known = lock.get(path.name, {}).get("sha256")
    if path.is_file():
        found = _check(path, source, sha256 or known)
    else:
        part = path.with_name(f"{path.name}.part")
        transfer(source.url, part, path, progress=progress)
        try:
            found = _check(part, source, sha256 or known)
        except ValueError:
            discard(part)  # going on from it would never make it right
            raise
        os.replace(part, path)
        discard(part)
    lock[path.name] = {"url": source.url, "bytes": path.stat().st_size, "sha256": found}
    write_json(lock, folder / LOCK_FILE)
    return path


def read_lock(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what was remembered of the files in a folder, by their names.

    Raises:
        ValueError: if it cannot be read.
    """
    file = folder / LOCK_FILE
    return read_json(file) if file.is_file() else {}


def _check(path: Path, source: Source, sha256: str | None) -> str:
    """Returns the SHA-256 of a file that is what it should be."""
    begins = FIRST_BYTES[Path(source.file_name).suffix]
    with path.open("rb") as file:
        head = file.read(64)
    if not head.startswith(begins):
        raise ValueError(
            f"what came from {source.url} is no {Path(source.file_name).suffix} file; it begins "
            f"with {head!r}: if that is a web page, open the address in a browser to see what it "
            f"says, or download the file by hand and put it at {path.with_name(source.file_name)}"
        )
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
    for kind, wanted in (("md5", source.md5), ("sha256", sha256)):
        found = digests[kind].hexdigest()
        if wanted is not None and found != wanted.lower():
            raise ValueError(
                f"{source.file_name} from {source.url} has {kind} {found}, and should have "
                f"{wanted.lower()}: the file is damaged or another version. Remove "
                f"{path.with_name(source.file_name)} if it is there, and run the same again"
                + ("" if kind == "md5" else f"; {LOCK_FILE} beside it, or you, gave the checksum")
            )
    if source.md5 is None and sha256 is None:
        _read_to_the_end(path, path.with_name(source.file_name))
    return digests["sha256"].hexdigest()


def _read_to_the_end(path: Path, kept_as: Path) -> None:
    """Makes sure that an archive is whole by the check sums it carries itself."""
    with whole_archive(kept_as):
        if kept_as.suffix == ".gz":
            with gzip.open(path) as file:
                while file.read(BLOCK):
                    pass
        else:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} in it has another check sum")
