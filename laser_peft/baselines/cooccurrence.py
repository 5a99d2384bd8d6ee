"""What others had soon after the newest item.

Axes: B users, N items in the catalogue, P pairs of items that occur.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from laser_peft.evaluation import Scores

WINDOW = 10  # items after an item that count as following it
# Divisible by every distance in the window: weights are whole numbers, and equal sums are equal
# in whatever order they are added, so that ties stay ties.
WEIGHT = 2520


class Cooccurrence:
    """Scores an item by how often, and how soon, it followed the user's newest item.

    A training history that has item ``b`` at distance ``d`` after item ``a``, at most
    :data:`WINDOW`, gives the pair ``1 / d``; a score is the sum over all users. What never
    followed scores zero, and all of those are ties.

    Args:
        train_histories: dense ids of every user's training part, oldest first.
        num_items: items N in the catalogue.
    """

    def __init__(self, train_histories: Sequence[np.ndarray], num_items: int) -> None:
        self.num_items = num_items
        self.keys, self.values = _pairs(train_histories, num_items)
        first_keys = np.arange(num_items + 2) * (num_items + 1)
        self.offsets = np.searchsorted(self.keys, first_keys)  # row a: offsets[a]..offsets[a + 1]

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`.ranking.Baseline.scores`."""
        newest = [history[-1] if len(history) else 0 for history in histories]
        return _Rows(self, np.asarray(newest, dtype=np.int64))


def _pairs(train_histories: Sequence[np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the weights of ordered pairs.

    Returns:
        ``(P,)`` int64 keys ``a * (N + 1) + b``, ascending, and their ``(P,)`` int64 weights in
        units of ``1 / WEIGHT``.
    """
    items = np.concatenate([np.zeros(0, dtype=np.int64), *train_histories])
    users = np.repeat(np.arange(len(train_histories)), [len(each) for each in train_histories])
    keys, values = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for distance in range(1, WINDOW + 1):
        together = users[distance:] == users[:-distance]
        found, counts = np.unique(
            items[:-distance][together] * (num_items + 1) + items[distance:][together],
            return_counts=True,
        )
        # Merged at every distance: what is held are pairs that differ, not all that occur.
        keys, places = np.unique(np.concatenate([keys, found]), return_inverse=True)
        weights = np.concatenate([values, counts * (WEIGHT // distance)])
        values = np.zeros(len(keys), dtype=np.int64)
        np.add.at(values, places, weights)
    return keys, values


class _Rows:
    """The rows of B items in the table of pairs."""

    def __init__(self, table: Cooccurrence, newest: np.ndarray) -> None:
        self.table = table
        self.newest = newest
        starts, stops = table.offsets[newest], table.offsets[newest + 1]
        self.users = np.repeat(np.arange(len(newest)), stops - starts)
        places = np.concatenate(
            [np.zeros(0, dtype=np.int64)]
            + [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
        )
        self.items = table.keys[places] % (table.num_items + 1)
        self.values = table.values[places]

    def of_range(self, start: int, stop: int) -> Tensor:
        chunk = np.zeros((len(self.newest), stop - start))
        inside = (self.items > start) & (self.items <= stop)
        chunk[self.users[inside], self.items[inside] - 1 - start] = self.values[inside]
        return torch.from_numpy(chunk)

    def of_items(self, items: Tensor) -> Tensor:
        keys = self.newest * (self.table.num_items + 1) + items.numpy()
        places = np.searchsorted(self.table.keys, keys)
        found = np.append(self.table.keys, -1)[places] == keys
        values = np.where(found, np.append(self.table.values, 0)[places], 0)
        return torch.from_numpy(values.astype(np.float64))
