"""Whether a difference between two models is more than the luck of the users drawn."""

from typing import NamedTuple

import numpy as np


class PairedDifference(NamedTuple):
    """Mean difference per user and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Resamples users to see how far ``second - first`` moves.

    Args:
        first: ``(users,)`` a metric per user of one model.
        second: ``(users,)`` the same users in the same order under another model.
        resamples: how many times users are drawn.
        seed: makes the interval repeatable.

    Returns:
        The mean difference with the 2.5 % and 97.5 % points of its resampled means.

    Raises:
        ValueError: if the two do not hold the same number of users, or none.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(
            "paired_bootstrap needs the same users twice, got shapes "
            f"{first.shape} and {second.shape}"
        )
    difference = second - first
    # Few values repeat over many users: drawing how often each comes up is drawing users.
    values, counts = np.unique(difference, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(
        difference.size, counts / difference.size, size=resamples
    )
    means = drawn @ values / difference.size
    low, high = np.quantile(means, [0.025, 0.975])
    return PairedDifference(float(difference.mean()), float(low), float(high))
