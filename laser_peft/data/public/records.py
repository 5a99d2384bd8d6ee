"""What every published format is read into: events, and items with cleaned texts."""

import gzip
import html
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Event(NamedTuple):
    """One review or rating: who, what, and when in seconds since 1970."""

    user_id: str
    item_id: str
    timestamp: float


class Item(NamedTuple):
    """One item; an empty text or list where nothing is known."""

    item_id: str
    title: str
    brand: str
    categories: list[str]


def plain_text(value: object) -> str:
    """Undoes HTML entities and runs of white space; anything but text or a number is empty.

    Halves of a surrogate pair are joined; one by itself, which no file can hold, becomes U+FFFD.

    Example:
        >>> plain_text("Burt&#39;s  Bees &amp; Co ")
        "Burt's Bees & Co"
        >>> plain_text(None)
        ''
    """
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    units = html.unescape(str(value)).encode("utf-16-le", "surrogatepass")
    return " ".join(units.decode("utf-16-le", "replace").split())


def plain_texts(values: object) -> list[str]:
    """Flattens lists of lists of names into one list, each name once, left-over mark-up out.

    Example:
        >>> plain_texts([["Beauty", "Nails"], ["Beauty", "Gifts &amp; Sets"], ["</span>"]])
        ['Beauty', 'Nails', 'Gifts & Sets']
    """
    if isinstance(values, list | tuple):
        names = [name for value in values for name in plain_texts(value)]
        return list(dict.fromkeys(names))
    name = plain_text(values)
    return [name] if name and "<" not in name else []


def numbered_lines(
    file: Iterable[bytes], path: Path, encoding: str = "utf-8"
) -> Iterator[tuple[str, str]]:
    """Yields the lines that hold something, each with where it is, for errors.

    Raises:
        ValueError: if a line is not in the encoding.
    """
    for number, raw in enumerate(file, start=1):
        where = f"{path.name}, line {number}"
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: no {encoding} text ({error}): {raw[:80]!r}") from error
        if line.strip():
            yield where, line


@contextmanager
def whole_archive(path: Path) -> Iterator[None]:
    """Says of a damaged archive that it is one."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged or not whole ({error}); remove it and run the same again"
        ) from error


@contextmanager
def open_gzip(path: Path) -> Iterator[Iterable[bytes]]:
    """Opens a gzip file of lines for one pass, whatever its size."""
    with whole_archive(path), gzip.open(path) as file:
        yield file
