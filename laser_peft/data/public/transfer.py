"""Brings the bytes of one public address into a file, and goes on where a transfer was cut.

Beside ``NAME.part`` stands ``NAME.part.version``: what the server called the version that it sent
(its ETag, or Last-Modified). Only the same version is gone on with; without one, all is sent again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without a byte before a connection counts as lost


class _CutOff(Exception):
    """The network's fault, in words."""


class _NothingBehind(Exception):
    """The server has nothing behind what is here; holds the size that it says, if any."""


def transfer(url: str, part: Path, path: Path, *, progress: bool) -> None:
    """Downloads into ``part``, going on behind what is there if it is of the same version.

    Args:
        url: the address.
        part: where the bytes are written.
        path: where the file would be put by hand, for errors.
        progress: show a bar on stderr.

    Raises:
        ConnectionError: if the server refuses, or the transfer stops half way.
        OSError: if ``part`` cannot be written.
    """
    try:
        _transfer(url, part, path.name, progress)
    except _CutOff as reason:
        kept = _resumable(part)
        raise ConnectionError(
            f"cannot download {url}: {reason}. Run the same again"
            + (f", which goes on behind the {kept} bytes that are here" if kept else "")
            + f"; or download the file by hand, put it at {path} and run the same again"
        ) from reason
    except OSError as error:
        raise OSError(
            f"cannot write {part}: {error.strerror or error}. Make room for the file there, and "
            "run the same again"
        ) from error


def discard(part: Path) -> None:
    """Removes what came so far, and what is known of its version."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, name: str, progress: bool) -> None:
    have = _resumable(part)
    headers = {"User-Agent": "laser-peft"}
    if have:
        version = _version_file(part).read_text("latin-1")
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with _network():
            answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except _NothingBehind as nothing:
        if nothing.args != (f"bytes */{have}",):  # else all of the file is here
            discard(part)
            _transfer(url, part, name, progress)
        return
    with answer:
        _receive(answer, part, have if answer.status == 206 else 0, name, progress)


def _receive(answer: HTTPResponse, part: Path, start: int, name: str, progress: bool) -> None:
    """Writes an answer's bytes from ``start`` on."""
    length = answer.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    with part.open("ab" if start else "wb") as file:
        if not start:
            _remember_version(answer, part)
        with tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=not progress
        ) as bar:
            while block := _read(answer):
                file.write(block)
                bar.update(len(block))
    if total is not None and (kept := part.stat().st_size) != total:
        raise _CutOff(f"the transfer stopped at {kept} of {total} bytes")


def _read(answer: HTTPResponse) -> bytes:
    with _network():
        return answer.read(BLOCK)


@contextmanager
def _network() -> Iterator[None]:
    """Tells the network's errors from those of files, which are of the same class."""
    try:
        yield
    except HTTPError as error:
        error.close()
        if error.code == 416:
            raise _NothingBehind(error.headers.get("Content-Range")) from error
        raise _CutOff(f"the server answered {error.code} {error.reason}") from error
    except URLError as error:
        raise _CutOff(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        reason = f"the connection was lost ({error or type(error).__name__})"
        raise _CutOff(reason) from error


def _remember_version(answer: HTTPResponse, part: Path) -> None:
    etag, modified = (answer.headers.get(name) for name in ("ETag", "Last-Modified"))
    # A weak ETag (W/"...") names what means the same, not the same bytes.
    version = etag if etag and not etag.startswith("W/") else modified
    if version:
        _version_file(part).write_text(version, "latin-1")
    else:
        _version_file(part).unlink(missing_ok=True)


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _resumable(part: Path) -> int:
    """Returns how many bytes are here that another run may go on behind."""
    known = part.is_file() and _version_file(part).is_file()
    return part.stat().st_size if known else 0
