"""The best items of each user: scored exactly where a scan says they can be, or block by block.

Axes: B users in a batch, N items in the catalogue, M of them on the shelf, R recommendation width,
G items in a group, W groups that are scored, K items found.

A score and its place make one integer, so that no order is left to chance: the higher score comes
first, and of equal ones the item of the lower dense id. How it is found makes
no difference: a catalogue is scanned where that leaves much less of it to score exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from laser_peft.evaluation import DotProducts

from .scan import GROUP, Scan, longest, scan

BLOCK = 2048  # items scored at a time; their float64 copies then stay in the cache
NOTHING = torch.iinfo(torch.int64).min  # below the key of every score
# A shelf of fewer items than this part of the catalogue has a table of its own.
OWN_TABLE = 0.25
SPARE = 2  # groups that are scored beyond those of the best k: of two, one can be as good
# Of which part of the catalogue at most items are scored one user at a time, which takes about ten
# times as long as all users at once.
FEW = 1 / 16


@dataclass(frozen=True, eq=False)
class Shelf:
    """What may be recommended, in the order of the dense ids.

    Args:
        vectors: ``(M, R)`` float.
        ids: ``(M,)`` int64 dense ids, rising; None: ``1..M``.
        is_open: ``(M,)`` bool, False for what must not be found; None: all may.
    """

    vectors: Tensor
    ids: Tensor | None = None
    is_open: Tensor | None = None

    @cached_property
    def longest(self) -> float:
        """The largest length of a vector, NaN or infinite if one is; computed once."""
        return longest(self.vectors)

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
    request = _Request.of(users, shelf, left_out or [])
    k = min(k, len(shelf.vectors))
    best = torch.full((len(users), k), NOTHING, device=request.scores.item_vectors.device)
    waiting = torch.arange(len(users), device=best.device)
    width = k + SPARE
    scanned = request.scan() if request.are_few(width) else None
    while scanned is not None and len(waiting) and request.are_few(width):
        groups, sure = scanned.groups(waiting, k, width)
        best[waiting[sure]] = request.of_rows(waiting[sure]).best_of_groups(groups[sure], k)
        waiting, width = waiting[~sure], 4 * width  # many are as good: equal vectors, say
    if len(waiting):
        best[waiting] = request.of_rows(waiting).best_of_all(k)
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


@dataclass(frozen=True, eq=False)
class _Request:
    """Whose best items are asked for, and of which.

    Args:
        scores: of B users with the M items of the shelf.
        shelf: what may be found.
        rows: ``(n,)`` int64 users that have something to leave out, with
        places: ``(n,)`` int64, where on the shelf it is.
    """

    scores: DotProducts
    shelf: Shelf
    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, users: Tensor, shelf: Shelf, left_out: Sequence[np.ndarray]) -> "_Request":
        scores = DotProducts(users.to(shelf.vectors.device), shelf.vectors)
        counts = torch.tensor([len(ids) for ids in left_out], dtype=torch.int64)
        rows = torch.arange(len(left_out)).repeat_interleave(counts).to(shelf.vectors.device)
        dense = np.concatenate([np.zeros(0, dtype=np.int64), *left_out])
        places, there = shelf.places(torch.from_numpy(dense).to(shelf.vectors.device))
        device = scores.item_vectors.device
        return cls(scores, shelf, rows[there].to(device), places[there].to(device))

    def of_rows(self, rows: Tensor) -> "_Request":
        """Asks for some of the users, ``(B',)`` int64 rows of theirs."""
        users = self.scores.user_vectors
        new_rows = rows.new_full((len(users),), -1)
        new_rows[rows] = torch.arange(len(rows), device=rows.device)
        own = new_rows[self.rows]
        scores = DotProducts(users[rows], self.scores.item_vectors)
        return _Request(scores, self.shelf, own[own >= 0], self.places[own >= 0])

    def are_few(self, width: int) -> bool:
        """Says whether the items of so many groups are quickly scored beside all of the shelf."""
        return width * GROUP <= FEW * len(self.shelf.vectors)

    def scan(self) -> Scan | None:
        """Looks where the best can be; see :func:`scan`."""
        vectors, is_open = self.scores.item_vectors, self._is_open()
        users, left_out = self.scores.user_vectors, (self.rows, self.places)
        return scan(users, vectors, self.shelf.longest, is_open, left_out)

    def best_of_groups(self, groups: Tensor, k: int) -> Tensor:
        """Returns the ``(B, K)`` keys of the best in ``(B, W)`` groups of each user's own."""
        users, vectors = self.scores.user_vectors, self.scores.item_vectors
        device, size = vectors.device, len(vectors)
        places = groups[:, :, None] * GROUP + torch.arange(GROUP, device=device)
        places = places.flatten(1)  # (B, W * G)
        hidden = places >= size
        places.clamp_(max=size - 1)
        is_open = self._is_open()
        if is_open is not None:
            hidden |= ~is_open[places]
        left_out, place_in = (groups[self.rows] == (self.places // GROUP)[:, None]).nonzero().T
        columns = place_in * GROUP + self.places[left_out] % GROUP
        hidden[self.rows[left_out], columns] = True
        scores = torch.empty(places.shape, device=device)
        for row, own in enumerate(places):
            user = DotProducts(users[row : row + 1], vectors[own])
            scores[row] = user.of_range(0, len(own))[0]
        return _keys(scores, places).masked_fill_(hidden, NOTHING).topk(k).values

    def best_of_all(self, k: int) -> Tensor:
        """Returns the ``(B, K)`` keys of the best of all, scored block by block."""
        vectors, is_open = self.scores.item_vectors, self._is_open()
        best = self.rows.new_empty(len(self.scores.user_vectors), 0)
        for start in range(0, len(vectors), BLOCK):
            block = self.scores.of_range(start, start + BLOCK)  # (B, at most BLOCK)
            places = torch.arange(start, start + block.size(1), device=block.device)
            keys = _keys(check_finite(block), places)
            if is_open is not None:
                keys.masked_fill_(~is_open[start : start + BLOCK], NOTHING)
            within = (self.places >= start) & (self.places < start + BLOCK)
            keys[self.rows[within], self.places[within] - start] = NOTHING
            best = torch.cat([best, keys], 1)
            best = best.topk(min(k, best.size(1))).values
        return best

    def _is_open(self) -> Tensor | None:
        is_open = self.shelf.is_open
        return None if is_open is None else is_open.to(self.scores.item_vectors.device)


def _keys(scores: Tensor, places: Tensor) -> Tensor:
    """Makes of ``(B, n)`` float32 scores int64 keys that sort as score, then place, do.

    Places are ``(n,)`` or ``(B, n)`` int64.
    """
    bits = (scores + 0.0).view(torch.int32)  # 0.0: there is a second zero, below the first
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
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
