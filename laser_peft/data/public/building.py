"""From what a reader yields to the two tables, and the counts that say what was done."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from .records import Event, Item

ITEM_SCHEMA: dict[str, Any] = {
    "item_id": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "categories": pl.List(pl.String),
}


def build_interactions(events: Iterable[Event]) -> pl.DataFrame:
    """Puts events into a table, in the order of the file, which is what breaks ties of time.

    Args:
        events: at least one; read once.

    Returns:
        Columns ``user_id``, ``item_id`` (text) and ``timestamp`` (float64, seconds since 1970).

    Raises:
        ValueError: if there is no event.
    """
    # Numbers for ids: tens of millions of events are held as 16 bytes each.
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    columns = array("i"), array("i"), array("d")
    for event in events:
        columns[0].append(users.setdefault(event.user_id, len(users)))
        columns[1].append(items.setdefault(event.item_id, len(items)))
        columns[2].append(event.timestamp)
    if not columns[0]:
        raise ValueError("the file of reviews holds none; is it the right one, whole?")
    return pl.DataFrame(
        {
            "user_id": _texts(users, columns[0]),
            "item_id": _texts(items, columns[1]),
            "timestamp": np.frombuffer(columns[2]),
        }
    )


def build_items(
    rows: Iterable[Item], needed: Sequence[str], *, all_items: bool
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Puts items into a table: those with events in the order of the log, then any others.

    The first of several rows with one id counts. An item without metadata is there, without texts.

    Args:
        rows: metadata; read once.
        needed: ids of the items with events, each once.
        all_items: keep items without events too, in the order of the metadata.

    Returns:
        The table (``item_id``, ``title``, ``brand``, ``categories``; null where unknown, and a
        column of which nothing is known left out) and what was counted on the way.
    """
    # A place for every item of the log; those of the others follow.
    found: dict[str, Item | None] = dict.fromkeys(needed)
    has_events, others, repeated = set(needed), 0, 0
    for item in rows:
        without_events = item.item_id not in has_events
        if found.get(item.item_id) is not None:
            repeated += 1
            continue
        others += without_events
        if all_items or not without_events:
            found[item.item_id] = item
    items = [item or Item(item_id, "", "", []) for item_id, item in found.items()]
    frame = pl.DataFrame(
        [tuple(part or None for part in item) for item in items], ITEM_SCHEMA, orient="row"
    )
    counts = {
        "items": frame.height,
        "items_without_title": frame["title"].null_count(),
        "items_without_metadata": sum(item is None for item in found.values()),
        "metadata_rows_repeated": repeated,
        f"metadata_rows_without_events_{'kept' if all_items else 'left_out'}": others,
    }
    known = [name for name in frame.columns if frame[name].null_count() < frame.height]
    return frame.select(known), counts


def _texts(numbers: dict[str, int], column: array) -> pl.Series:
    return pl.Series(list(numbers), dtype=pl.String).gather(np.frombuffer(column, dtype=np.intc))
