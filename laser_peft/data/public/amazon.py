"""The published formats of Amazon reviews: 2014, 2018 and 2023 (McAuley Lab, UCSD).

Files are read line by line: metadata of gigabytes is never in memory as a whole.
"""

import ast
import csv
import json
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from .records import Event, Item, numbered_lines, open_gzip, plain_text, plain_texts

RATING_COLUMNS = ["user_id", "parent_asin", "rating", "timestamp"]
# Pages that were not parsed for 2018: their "title" is a script.
UNPARSED_PAGE = "getTime"
FIRST_KEY = "{'asin': '"


def read_reviews(path: Path) -> Iterator[Event]:
    """Reads 5-core reviews of 2014 and 2018: gzipped JSON lines, times in seconds.

    Raises:
        ValueError: if a line is no JSON object or lacks user, item or time; it names the line.
    """
    for where, review in _objects(path, json.loads, "JSON object"):
        try:
            user, item = review["reviewerID"], review["asin"]
            time = float(review["unixReviewTime"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: a review needs reviewerID, asin and unixReviewTime: {error!r}"
            ) from error
        yield Event(str(user), str(item), time)


def read_ratings(path: Path) -> Iterator[Event]:
    """Reads 5-core ratings of 2023: gzipped CSV, times in milliseconds.

    Raises:
        ValueError: if the columns are others, or a line lacks one or has no readable time.
    """
    with open_gzip(path) as file:
        lines = numbered_lines(file, path)
        header = next(csv.reader([next(lines, ("", ""))[1]]), [])
        if header != RATING_COLUMNS:
            raise ValueError(f"{path.name} should have the columns {RATING_COLUMNS}, got {header}")
        for where, line in lines:
            row = next(csv.reader([line]))
            try:
                user, item, _, milliseconds = row
                time = int(milliseconds) / 1000
            except ValueError as error:
                raise ValueError(f"{where}: should be {RATING_COLUMNS}, got {row}") from error
            yield Event(user, item, time)


def read_items_2014(path: Path, wanted: Container[str] | None) -> Iterator[Item]:
    """Reads metadata of 2014: gzipped lines, each a Python dict literal.

    Args:
        path: the file.
        wanted: ids to read, None for all; the others are passed over before they are parsed.

    Raises:
        ValueError: if a line is no dict literal or has no asin; it names the line.
    """

    def parse(line: str) -> Any:
        if wanted is not None and line.startswith(FIRST_KEY):
            asin = line[len(FIRST_KEY) : line.index("'", len(FIRST_KEY))]
            if asin not in wanted:
                return {"asin": asin}
        return ast.literal_eval(line)

    for where, row in _objects(path, parse, "Python dict"):
        item_id = _id(row, "asin", where)
        yield Item(
            item_id,
            plain_text(row.get("title")),
            plain_text(row.get("brand")),
            plain_texts(row.get("categories")),
        )


def read_items_2018(path: Path, wanted: Container[str] | None) -> Iterator[Item]:
    """Reads metadata of 2018: gzipped JSON lines; a title that is a page's script is left out.

    Raises:
        ValueError: if a line is no JSON object or has no asin; it names the line.
    """
    for where, row in _objects(path, json.loads, "JSON object"):
        title = plain_text(row.get("title"))
        yield Item(
            _id(row, "asin", where),
            "" if UNPARSED_PAGE in title else title,
            plain_text(row.get("brand")),
            plain_texts(row.get("category")),
        )


def read_items_2023(path: Path, wanted: Container[str] | None) -> Iterator[Item]:
    """Reads metadata of 2023: gzipped JSON lines; the store counts as the brand.

    Raises:
        ValueError: if a line is no JSON object or has no parent_asin; it names the line.
    """
    for where, row in _objects(path, json.loads, "JSON object"):
        yield Item(
            _id(row, "parent_asin", where),
            plain_text(row.get("title")),
            plain_text(row.get("store")),
            plain_texts(row.get("categories")),
        )


def _objects(
    path: Path, parse: Callable[[str], Any], kind: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_gzip(path) as file:
        for where, line in numbered_lines(file, path):
            try:
                row = parse(line)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise ValueError(f"{where}: no {kind} ({error}): {line[:80]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: no {kind}: {line[:80]!r}")
            yield where, row


def _id(row: dict[str, Any], key: str, where: str) -> str:
    if not row.get(key):
        raise ValueError(f"{where}: an item needs {key}, got {sorted(row)}")
    return str(row[key])
