"""The best items of each user, scored block by block: memory does not grow with the catalogue.

Axes: B users in a batch, N items in the catalogue, M of them on the shelf, R recommendation width,
K items found.

A score and its place make one integer, so that no order is left to chance: the higher score comes
first, and of equal ones the item of the lower dense id.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from laser_peft.evaluation import DotProducts

BLOCK = 2048  # items scored at a time; their float64 copies then stay in the cache
NOTHING = torch.iinfo(torch.int64).min  # below the key of every score
# A shelf of fewer items than this part of the catalogue has a table of its own.
OWN_TABLE = 0.25


class Shelf(NamedTuple):
    """What may be recommended, in the order of the dense ids.

    Args:
        vectors: ``(M, R)`` float.
        ids: ``(M,)`` int64 dense ids, rising; None: ``1..M``.
        is_open: ``(M,)`` bool, False for what must not be found; None: all may.
    """

    vectors: Tensor
    ids: Tensor | None = None
    is_open: Tensor | None = None

    @classmethod
    def of(cls, vectors: Tensor, allowed: np.ndarray | None) -> "Shelf":
        """Takes from all ``(N, R)`` vectors those that a ``(N,)`` bool mask allows; None: all."""
        if allowed is None:
            return cls(vectors)
        rows = torch.from_numpy(allowed.nonzero()[0]).to(vectors.device)
        if len(rows) < OWN_TABLE * len(vectors):
            return cls(vectors[rows], rows + 1)
        return cls(vectors, None, torch.from_numpy(allowed).to(vectors.device))

    def places(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Finds dense ids on the shelf.

        Args:
            dense: ``(n,)`` int64.

        Returns:
            ``(n,)`` int64 places, and ``(n,)`` bool, False where an id is not on the shelf.
        """
        if self.ids is None:
            return dense - 1, torch.ones_like(dense, dtype=torch.bool)
        if not len(self.ids):
            return dense, torch.zeros_like(dense, dtype=torch.bool)
        places = torch.searchsorted(self.ids, dense).clamp(max=len(self.ids) - 1)
        return places, self.ids[places] == dense


def best_items(
    users: Tensor, shelf: Shelf, k: int, *, left_out: Sequence[np.ndarray] | None = None
) -> list[list[tuple[int, float]]]:
    """Finds each user's k best items of a shelf.

    Args:
        users: ``(B, R)`` float; a score is the dot product with an item's vector.
        shelf: what may be found.
        k: how many, at least 1.
        left_out: for each user dense ids ``1..N`` that must not be found; None: nothing.

    Returns:
        For each user at most k pairs of dense id and score, best first.

    Raises:
        ValueError: if a score is not a finite number.
    """
    scores = DotProducts(users.to(shelf.vectors.device), shelf.vectors)
    device = scores.item_vectors.device
    rows, places = _positions(shelf, left_out or [])
    rows, places = rows.to(device), places.to(device)
    best = torch.empty(len(users), 0, dtype=torch.int64, device=device)
    for start in range(0, len(shelf.vectors), BLOCK):
        block = scores.of_range(start, start + BLOCK)  # (B, at most BLOCK)
        keys = _keys(check_finite(block), start)
        if shelf.is_open is not None:
            keys.masked_fill_(~shelf.is_open[start : start + BLOCK].to(device), NOTHING)
        within = (places >= start) & (places < start + BLOCK)
        keys[rows[within], places[within] - start] = NOTHING
        best = torch.cat([best, keys], 1)
        best = best.topk(min(k, best.size(1))).values  # (B, K)
    return _read_keys(best, shelf.ids)


def check_finite(scores: Tensor) -> Tensor:
    """Returns the scores.

    Raises:
        ValueError: if one is not a finite number.
    """
    if not scores.isfinite().all():
        raise ValueError(
            "the adapter's scores are not all finite numbers; did its training diverge, or are "
            "its files incomplete?"
        )
    return scores


def _positions(shelf: Shelf, left_out: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Says in which row and at which place of the shelf there is an item to leave out."""
    device = shelf.vectors.device
    counts = torch.tensor([len(ids) for ids in left_out], dtype=torch.int64)
    rows = torch.arange(len(left_out)).repeat_interleave(counts).to(device)
    dense = np.concatenate([np.zeros(0, dtype=np.int64), *left_out])
    places, there = shelf.places(torch.from_numpy(dense).to(device))
    return rows[there], places[there]


def _keys(scores: Tensor, start: int) -> Tensor:
    """Makes of ``(B, n)`` float32 scores int64 keys that sort as score, then place, do."""
    bits = (scores + 0.0).view(torch.int32)  # 0.0: there is a second zero, below the first
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    places = torch.arange(start, start + scores.size(1), device=scores.device)
    return rising * 2**32 + (2**32 - 1 - places)


def _read_keys(keys: Tensor, ids: Tensor | None) -> list[list[tuple[int, float]]]:
    places = 2**32 - 1 - (keys & 0xFFFFFFFF)
    rising = (keys >> 32).to(torch.int32)
    scores = torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising).view(torch.float32)
    found = (keys != NOTHING).tolist()
    if ids is None or not len(ids):
        dense = places + 1
    else:
        dense = ids.to(places.device)[places.clamp(max=len(ids) - 1)]
    return [
        [(one, score) for one, score, there in zip(*row, strict=True) if there]
        for row in zip(dense.tolist(), scores.tolist(), found, strict=True)
    ]
