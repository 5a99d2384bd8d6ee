"""k-core: only users and items that keep enough events, and only events between them."""

from dataclasses import replace

import numpy as np

from .interactions import Interactions, ids_finding
from .reports import Finding


def k_core(
    log: Interactions, *, min_user_events: int = 5, min_item_events: int = 5
) -> Interactions:
    """Takes out rare users and rare items until none is left; the largest such log is unique.

    Events are counted, not distinct items: a user who took one item five times has five.

    Args:
        log: what to filter; it is not changed.
        min_user_events: events that a user must keep, at least 1.
        min_item_events: events that an item must keep, at least 1.

    Raises:
        ValueError: if a minimum is less than 1, or nothing is left.
    """
    for name, minimum in (
        ("min_user_events", min_user_events),
        ("min_item_events", min_item_events),
    ):
        if minimum < 1:
            raise ValueError(f"{name} must be at least 1, got {minimum}")
    keep = _core(log, min_user_events, min_item_events)
    if keep.all():
        return log
    if not keep.any():
        raise ValueError(
            f"no event is left of {len(log)} where every user keeps at least {min_user_events} "
            f"and every item at least {min_item_events}; use smaller minimums"
        )
    users, kept_users = _renumbered(log.users[keep], len(log.user_ids))
    items, kept_items = _renumbered(log.items[keep], len(log.item_ids))
    times = None if log.times is None else log.times[keep]
    why = f"({min_user_events} events a user, {min_item_events} an item)"
    report = log.report.with_findings(
        Finding(f"outside the k-core {why}", len(log) - len(users), "events", "dropped"),
        ids_finding("outside the k-core", log.user_ids.filter(~kept_users), "users", "dropped"),
        ids_finding("outside the k-core", log.item_ids.filter(~kept_items), "items", "dropped"),
    )
    report = replace(
        report, events=len(users), users=int(kept_users.sum()), items=int(kept_items.sum())
    )
    if times is not None:
        report = replace(report, first_time=float(times.min()), last_time=float(times.max()))
    return Interactions(
        users,
        items,
        times,
        log.user_ids.filter(kept_users),
        log.item_ids.filter(kept_items),
        report,
    )


def _core(log: Interactions, min_user_events: int, min_item_events: int) -> np.ndarray:
    """Returns ``(events,)`` bool, True where an event stays."""
    keep = np.ones(len(log), dtype=bool)
    left = len(log) + 1
    while left > (left := int(keep.sum())):
        for column, minimum in ((log.users, min_user_events), (log.items, min_item_events)):
            counts = np.bincount(column[keep], minlength=int(column.max()) + 1)
            keep &= counts[column] >= minimum
    return keep


def _renumbered(column: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes the gaps in numbers below ``count``; returns them and which are still there."""
    there = np.zeros(count, dtype=bool)
    there[column] = True
    places = np.cumsum(there, dtype=np.uint32) - np.uint32(1)
    return places[column], there
