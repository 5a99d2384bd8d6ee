"""Metrics of ranks, one target a user.

A rank counts the items placed before the target: 0 is the best.
"""

from collections.abc import Sequence

import numpy as np

CUTOFFS = (5, 10, 20)


def hr_at(k: int, ranks: np.ndarray) -> np.ndarray:
    """Hit rate, per user: 1 where the target is among the first k. Also Recall@k.

    Args:
        k: cutoff, at least 1.
        ranks: ``(users,)`` int, 0 = first.

    Returns:
        ``(users,)`` float64.

    Example:
        >>> hr_at(3, np.array([0, 2, 3])).mean()  # (1 + 1 + 0) / 3
        np.float64(0.6666666666666666)
    """
    return (ranks < k).astype(np.float64)


def ndcg_at(k: int, ranks: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain, per user: 1 / log2(rank + 2) among the first k.

    Args:
        k: cutoff, at least 1.
        ranks: ``(users,)`` int, 0 = first.

    Returns:
        ``(users,)`` float64.

    Example:
        >>> ndcg_at(3, np.array([0, 2, 3])).mean()  # (1 + 1/log2(4) + 0) / 3
        np.float64(0.5)
    """
    return hr_at(k, ranks) / np.log2(ranks + 2.0)


def mrr_at(k: int, ranks: np.ndarray) -> np.ndarray:
    """Reciprocal rank, per user: 1 / (rank + 1) among the first k.

    Args:
        k: cutoff, at least 1.
        ranks: ``(users,)`` int, 0 = first.

    Returns:
        ``(users,)`` float64.

    Example:
        >>> mrr_at(3, np.array([0, 1, 3])).mean()  # (1 + 1/2 + 0) / 3
        np.float64(0.5)
    """
    return hr_at(k, ranks) / (ranks + 1.0)


METRICS = {"hr": hr_at, "ndcg": ndcg_at, "mrr": mrr_at}


def per_user(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """Every metric of every user, under names like ``ndcg@10``.

    Args:
        ranks: ``(users,)`` int, 0 = first.
        cutoffs: every metric is taken at each of them.

    Returns:
        ``(users,)`` float64 by name.
    """
    return {f"{name}@{k}": metric(k, ranks) for name, metric in METRICS.items() for k in cutoffs}


def summarise(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Means over users, under names like ``ndcg@10``.

    Args:
        ranks: ``(users,)`` int, 0 = first.
        cutoffs: every metric is taken at each of them.

    Raises:
        ValueError: if there is no user.
    """
    if ranks.size == 0:
        raise ValueError("no users to summarise: the split has no test users; is the log empty?")
    return {name: float(values.mean()) for name, values in per_user(ranks, cutoffs).items()}
