"""Two tests side by side: what one model has over the other, and what of it is luck."""

from typing import Any

import numpy as np
import polars as pl

from .metrics import per_user
from .ranking import PROTOCOLS
from .saved import Evaluation, means
from .significance import paired_bootstrap
from .slices import DAYS, TARGET_COLUMNS, absent_slices, slices_of


def compare(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Compares two models on the same users, over all of them and over each slice.

    The order of the rows does not matter; users are matched by their id. A slice that one of
    the two cannot tell is left out.

    Returns:
        ``users``; ``models``: name to protocol to metric; ``difference``: protocol to metric to
        second minus first with its 95 % interval over users; ``slices``: the same for each group
        of users, only ``users`` where nobody is in it; ``absent_slices``: name to reason.

    Raises:
        ValueError: if the two have the same name, or were not tested on the same data, users and
            targets.
    """
    if first.name == second.name:
        raise ValueError(
            f"both runs are called {first.name!r}; give two different runs, and names that tell "
            "them apart: dataclasses.replace(evaluation, name=...)"
        )
    targets, ranks = on_the_same_users(first, second)
    by_name = {first.name: first.ranks, second.name: ranks}
    return _compare(by_name) | {
        "slices": {
            name: _compare({model: ranks[of_slice] for model, ranks in by_name.items()})
            for name, of_slice in slices_of(targets).items()
        },
        "absent_slices": absent_slices(targets),
    }


def _compare(by_name: dict[str, np.ndarray]) -> dict[str, Any]:
    first, second = by_name.values()
    if not len(first):
        return {"users": 0}
    return {
        "users": len(first),
        "models": {name: means(ranks) for name, ranks in by_name.items()},
        "difference": {
            protocol: differences(per_user(first[:, column]), per_user(second[:, column]))
            for column, protocol in enumerate(PROTOCOLS)
        },
    }


def differences(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Says by metric what the second's ``(users,)`` values have over the first's."""
    return {
        name: paired_bootstrap(before, second[name])._asdict() for name, before in first.items()
    }


def on_the_same_users(first: Evaluation, second: Evaluation) -> tuple[pl.DataFrame, np.ndarray]:
    """Checks that two tests are one, and puts the second's rows in the order of the first.

    Returns:
        The first's targets, and the second's ranks ``(users, 2)``.
    """
    if first.data_hash != second.data_hash:
        raise ValueError(
            f"{first.name} and {second.name} were tested on different data, of hash "
            f"{first.data_hash} and {second.data_hash}; test both on the same log and items"
        )
    users, others = first.targets["user_id"], second.targets["user_id"]
    for name, missing in (
        (second.name, users.filter(~users.is_in(others.implode()))),
        (first.name, others.filter(~others.is_in(users.implode()))),
    ):
        if len(missing):
            raise ValueError(
                f"{first.name} and {second.name} were tested on different users: {name} lacks "
                f"{len(missing)}, among them {missing[:5].to_list()}; only the same users can "
                "be compared"
            )
    other = users.to_frame().join(
        second.targets.with_row_index("row"), on="user_id", how="left", maintain_order="left"
    )
    targets = first.targets
    if other[DAYS].is_null().all():
        targets = targets.with_columns(pl.lit(None, pl.Int64).alias(DAYS))
    _check_equal(first, second, targets, other)
    return targets, second.ranks[other["row"].to_numpy()]


def _check_equal(
    first: Evaluation, second: Evaluation, targets: pl.DataFrame, other: pl.DataFrame
) -> None:
    """Makes sure that what is known of the targets is the same."""
    for column in TARGET_COLUMNS:
        different = targets[column].ne_missing(other[column])
        if column == DAYS and targets[DAYS].is_null().all():
            continue
        if different.any():
            one, two = (frame.filter(different).row(0, named=True) for frame in (targets, other))
            raise ValueError(
                f"{first.name} and {second.name} differ in {column} for {different.sum()} of "
                f"{len(different)} users, first for {one['user_id']!r}: {one[column]!r} and "
                f"{two[column]!r}; test both with the same split"
            )
