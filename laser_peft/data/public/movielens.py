"""The published format of MovieLens-1M: a zip of ``::``-separated files in Latin-1."""

import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

from .records import Event, Item, numbered_lines, plain_text, plain_texts, whole_archive

RATINGS, MOVIES = "ml-1m/ratings.dat", "ml-1m/movies.dat"


def read_ratings(path: Path) -> Iterator[Event]:
    """Reads the ratings; every rating, high or low, is an event.

    Raises:
        ValueError: if the zip lacks the file, or a line is not user, movie, rating and time.
    """
    for where, fields in _rows(path, RATINGS, "UserID::MovieID::Rating::Timestamp"):
        user, movie, _, time = fields
        if not time.isdigit():
            raise ValueError(f"{where}: the time should be seconds since 1970, got {time!r}")
        yield Event(user, movie, float(time))


def read_movies(path: Path, wanted: Container[str] | None) -> Iterator[Item]:
    """Reads the movies; their genres are the categories, and nobody is the brand.

    Raises:
        ValueError: if the zip lacks the file, or a line is not id, title and genres.
    """
    for _, (movie, title, genres) in _rows(path, MOVIES, "MovieID::Title::Genres"):
        yield Item(movie, plain_text(title), "", plain_texts(genres.split("|")))


def _rows(path: Path, member: str, form: str) -> Iterator[tuple[str, list[str]]]:
    with whole_archive(path), zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            raise ValueError(f"{path.name} has no {member}; it has {archive.namelist()[:8]}")
        with archive.open(member) as raw:
            for where, line in numbered_lines(raw, Path(member), "latin-1"):
                fields = line.rstrip("\r\n").split("::")
                if len(fields) != len(form.split("::")):
                    raise ValueError(f"{where}: should be {form}, got {line.rstrip()!r}")
                yield where, fields
