"""The targets of a test, a row a user, and the groups of users that are told apart.

Targets are a frame of these columns:

* ``user_id``, ``item_id``: text, who and what came next;
* ``training_events``: int64, how often anyone had the target in the training part;
* ``history_length``: int64, items that the user had before the target;
* ``days_since_last_event``: int64, calendar days (UTC) between the target and the event before
  it; null where the log has no times or nothing came before.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

SECONDS_A_DAY = 86_400
DAYS = "days_since_last_event"
TARGET_COLUMNS = pl.Schema(
    {
        "user_id": pl.String,
        "item_id": pl.String,
        "training_events": pl.Int64,
        "history_length": pl.Int64,
        DAYS: pl.Int64,
    }
)
SLICES = {
    "cold": pl.col("training_events") == 0,
    "1-5 events": pl.col("training_events").is_between(1, 5),
    "6-20 events": pl.col("training_events").is_between(6, 20),
    ">20 events": pl.col("training_events") > 20,
    "other day": pl.col(DAYS).fill_null(0) != 0,
    "short": pl.col("history_length") < 5,
    "long": pl.col("history_length") >= 10,
}


def describe_targets(
    *,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    training_events: np.ndarray,
    history_lengths: np.ndarray,
    times: np.ndarray | None = None,
    times_before: np.ndarray | None = None,
) -> pl.DataFrame:
    """Puts together what is known of every target.

    Args:
        user_ids: ``(users,)``, each once.
        item_ids: ``(users,)`` the targets' own ids.
        training_events: ``(users,)`` int, events of the target in the training part.
        history_lengths: ``(users,)`` int, items before the target.
        times: ``(users,)`` float64 seconds, when the target came; None: the log has no times.
        times_before: ``(users,)`` float64 seconds, when the event before it came, NaN where there
            was none; None with ``times``.

    Returns:
        A frame as described at the head of this file.

    Raises:
        ValueError: if a user comes twice, or the columns are not equally long.
    """
    days: np.ndarray | None = None
    if times is not None and times_before is not None:
        days = np.floor(times / SECONDS_A_DAY) - np.floor(times_before / SECONDS_A_DAY)
    columns = (user_ids, item_ids, training_events, history_lengths, days)
    lengths = {
        name: len(column)
        for name, column in zip(TARGET_COLUMNS, columns, strict=True)
        if column is not None
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every column needs one value a user, got {lengths}")
    frame = pl.DataFrame(dict(zip(TARGET_COLUMNS, columns, strict=True)), nan_to_null=True)
    frame = frame.cast(TARGET_COLUMNS)
    check_users(frame)
    return frame


def check_users(frame: pl.DataFrame) -> None:
    """Makes sure that every row is another user, of whom all is known but perhaps the days.

    Raises:
        ValueError: naming users that come twice, or columns in which something is missing.
    """
    lacking = [name for name in TARGET_COLUMNS if name != DAYS and frame[name].has_nulls()]
    if lacking:
        raise ValueError(f"targets must be known in full, and {', '.join(lacking)} has gaps")
    twice = frame["user_id"].filter(frame["user_id"].is_duplicated()).unique(maintain_order=True)
    if len(twice):
        raise ValueError(
            f"{len(twice)} users have more than one target: {twice[:5].to_list()}; ranks are "
            "compared user by user, so each may come once"
        )


def slices_of(targets: pl.DataFrame) -> dict[str, np.ndarray]:
    """Finds the users of each slice.

    Returns:
        ``(users,)`` bool by slice, in the order of :data:`SLICES`; without those that the log
        cannot tell (:func:`absent_slices`).
    """
    absent = absent_slices(targets)
    masks = targets.select(rule.alias(name) for name, rule in SLICES.items() if name not in absent)
    return {name: masks[name].to_numpy() for name in masks.columns}


def absent_slices(targets: pl.DataFrame) -> dict[str, str]:
    """Returns the slices that cannot be told, each with the reason."""
    if targets[DAYS].is_null().all():
        return {"other day": "the log has no times"}
    return {}
