"""Brings one file from its public address, resumes what was interrupted, and checks what came.

What comes in is called ``NAME.part`` until it is whole and checked. ``checksums.json`` beside the
files remembers size and SHA-256 of each when it was first seen; a later run must find the same.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

LOCK_FILE = "checksums.json"
BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without a byte before a connection counts as lost
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
        ValueError: if what is there is no archive of its kind or has another checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.file_name
    lock = _read_lock(folder)
    known = lock.get(path.name, {}).get("sha256")
    if path.is_file():
        found = _check(path, source, sha256 or known)
    else:
        part = path.with_name(f"{path.name}.part")
        _transfer(source.url, part, path, progress)
        try:
            found = _check(part, source, sha256 or known)
        except ValueError:
            part.unlink()  # going on from it would never make it right
            raise
        os.replace(part, path)
    lock[path.name] = {"url": source.url, "bytes": path.stat().st_size, "sha256": found}
    (folder / LOCK_FILE).write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    return path


def _read_lock(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / LOCK_FILE
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def _transfer(url: str, part: Path, path: Path, progress: bool) -> None:
    """Downloads into ``part``, going on behind what is there if the server can."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "laser-peft"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:
            start = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            bar = tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=path.name,
                disable=not progress,
            )  # fmt: skip
            with bar, part.open("ab" if start else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        reason = None
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing behind what is there: it is no part of this file
            part.unlink()
            return _transfer(url, part, path, progress)
        reason = f"the server answered {error.code} {error.reason}"
    except URLError as error:
        reason = str(error.reason)
    except (OSError, HTTPException) as error:
        reason = f"the connection was lost ({error or type(error).__name__})"
    kept = part.stat().st_size if part.is_file() else 0
    if reason is None and total is not None and kept != total:
        reason = f"the transfer stopped at {kept} of {total} bytes"
    if reason is not None:
        raise ConnectionError(
            f"cannot download {url}: {reason}. Run the same again"
            + (f", which goes on behind the {kept} bytes that are here" if kept else "")
            + f"; or download the file by hand, put it at {path} and run the same again"
        )
    return None


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
    return digests["sha256"].hexdigest()
