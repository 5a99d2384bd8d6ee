"""The best items of each user: scored exactly where a scan says they can be, or block by block.

Axes: B users in a batch, N items in the catalogue, M of them on the shelf, R recommendation width,
G items in a group, W groups that are scored, K items found.

A score and its place make one integer, so that no order is left to chance: the higher score comes
first, and of equal ones the item of the lower dense id. How it is found makes
no difference: a catalogue is scanned where that leaves much less of it to score exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from laser_peft.evaluation import DotProducts

from .approximate import FaissIndex
from .scan import GROUP, Scan, longest, scan

BLOCK = 2048  # items scored at a time; their float64 copies then stay in the cache
NOTHING = torch.iinfo(torch.int64).min  # below the key of every score
# A shelf of fewer items than this part of the catalogue has a table of its own.
OWN_TABLE = 0.25
SPARE = 2  # groups that are scored beyond those of the best k: of two, one can be as good
# Of which part of the catalogue at most items are scored one user at a time, which takes about ten
# times as long as all users at once.
FEW = 1 / 16
# Of an index so many candidates are asked for beyond k, and beyond what a user must not find, of
# which seldom much more than this is among the candidates.
CANDIDATES, LEFT_OUT = 16, 64


@dataclass(frozen=True, eq=False)
class Shelf:
    """What may be recommended, in the order of the dense ids.

    Args:
        vectors: ``(M, R)`` float.
        ids: ``(M,)`` int64 dense ids, rising; None: ``1..M``.
        is_open: ``(M,)`` bool, False for what must not be found; None: all may.
        index: of the vectors, which names candidates; None: every item is looked at.
    """

    vectors: Tensor
    ids: Tensor | None = None
    is_open: Tensor | None = None
    index: FaissIndex | None = None

    @cached_property
    def longest(self) -> float:
        """The largest length of a vector, NaN or infinite if one is; computed once."""
        return longest(self.vectors)

    @cached_property
    def share_open(self) -> float:
        """Which part of the shelf may be found."""
        return 1.0 if self.is_open is None else float(self.is_open.float().mean())

    @classmethod
    def of(
        cls, vectors: Tensor, allowed: np.ndarray | None, index: FaissIndex | None = None
    ) -> "Shelf":
        """Takes from all ``(N, R)`` vectors those that a ``(N,)`` bool mask allows; None: all.

        An index is one of all vectors; few of them need none.
        """
        if allowed is None:
            return cls(vectors, index=index)
        rows = torch.from_numpy(allowed.nonzero()[0]).to(vectors.device)
        if len(rows) < OWN_TABLE * len(vectors):
            return cls(vectors[rows], rows + 1)
        return cls(vectors, None, torch.from_numpy(allowed).to(vectors.device), index)

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
    """Finds each user's k best items of a shelf; with an index, of the candidates that it names.

    Of whom an index names fewer than k that may be found, every item is looked at.

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
    if shelf.index is not None:
        best = request.best_of_candidates(shelf.index, k)
        waiting = (best[:, -1] == NOTHING).nonzero()[:, 0]
    width = k + SPARE
    scanned = request.scan() if len(waiting) and request.are_few(width) else None
    while scanned is not None and len(waiting) and request.are_few(width):
        groups, sure = scanned.groups(waiting, k, width)
        best[waiting[sure]] = request.of_rows(waiting[sure]).best_of_groups(groups[sure], k)
        waiting, width = waiting[~sure], 4 * width  # many are as good: equal vectors, say
    if len(waiting):
        best[waiting] = request.of_rows(waiting).best_of_all(k)
    return _read_keys(best, shelf.ids)


def recall_of(shelf: Shelf, users: Tensor, k: int) -> float:
    """Returns which part of ``(B, R)`` users' k best a shelf's index finds, 0 to 1."""
    found = best_items(users, shelf, k)
    wanted = best_items(users, replace(shelf, index=None), k)
    pairs = [
        ({item for item, _ in mine}, {item for item, _ in others})
        for mine, others in zip(found, wanted, strict=True)
    ]
    return sum(len(mine & own) for mine, own in pairs) / max(sum(len(own) for _, own in pairs), 1)


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
        device, size = groups.device, len(self.scores.item_vectors)
        places = groups[:, :, None] * GROUP + torch.arange(GROUP, device=device)
        places = places.flatten(1)  # (B, W * G)
        hidden = places >= size
        left_out, place_in = (groups[self.rows] == (self.places // GROUP)[:, None]).nonzero().T
        columns = place_in * GROUP + self.places[left_out] % GROUP
        hidden[self.rows[left_out], columns] = True
        return self._best_of_places(places.clamp_(max=size - 1), hidden, k)

    def best_of_candidates(self, index: FaissIndex, k: int) -> Tensor:
        """Returns the ``(B, K)`` keys of the best that an index finds, without what is left out."""
        size = len(self.scores.item_vectors)
        most = int(torch.bincount(self.rows).max()) if len(self.rows) else 0
        share = max(self.shelf.share_open, 1 / size)
        width = int((k + min(most, LEFT_OUT)) / share) + CANDIDATES
        users = self.scores.user_vectors
        places = index.places(users, min(width, size)).to(users.device)
        hidden = places < 0
        own = torch.arange(len(users), device=users.device)[:, None] * size + places
        hidden |= torch.isin(own, self.rows * size + self.places)
        return self._best_of_places(places.clamp_(min=0), hidden, k)

    def _best_of_places(self, places: Tensor, hidden: Tensor, k: int) -> Tensor:
        """Scores ``(B, P)`` places of each user's own, ``(B, P)`` hidden ones left out."""
        users, vectors = self.scores.user_vectors, self.scores.item_vectors
        is_open = self._is_open()
        if is_open is not None:
            hidden = hidden | ~is_open[places]
        scores = torch.empty(places.shape, device=vectors.device)
        for row, own in enumerate(places):
            user = DotProducts(users[row : row + 1], vectors[own])
            scores[row] = user.of_range(0, len(own))[0]
        return _keys(check_finite(scores), places).masked_fill_(hidden, NOTHING).topk(k).values

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
