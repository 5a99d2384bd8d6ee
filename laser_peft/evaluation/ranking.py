"""Where the target stands in the whole catalogue, under both protocols at once.

Axes: B users, N items in the catalogue, R recommendation width, X items a user has had.

``unmasked`` ranks every item; ``masked`` takes out what the user has had already. A target that
the user has had is out too and counts as a miss: a list without it cannot recommend it.

The catalogue is scored in chunks and ranks are counts: B times a chunk is all that is held.
"""

import torch
from torch import Tensor

from .scores import DotProducts, Scores

PROTOCOLS = ("unmasked", "masked")
MISS = 2**31 - 1  # the rank of what is not in the list at all, beyond every cutoff
CHUNK_ITEMS = 8192


def ranks_of_targets(
    user_vectors: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    seen: Tensor,
    *,
    chunk_items: int = CHUNK_ITEMS,
) -> Tensor:
    """Ranks by dot product; see :func:`ranks_of_scores`.

    Args:
        user_vectors: ``(B, R)`` float.
        item_vectors: ``(N, R)`` float.
        targets: ``(B,)`` int64 item ids in ``1..N``.
        seen: ``(B, X)`` int64 item ids, 0 = padding.
        chunk_items: how many items are scored at a time; ranks do not depend on it.

    Returns:
        ``(B, 2)`` int64, a column for each of :data:`PROTOCOLS`.

    Raises:
        ValueError: if a score is not a finite number.
    """
    scores = DotProducts(user_vectors, item_vectors)
    return ranks_of_scores(scores, len(item_vectors), targets, seen, chunk_items=chunk_items)


@torch.no_grad()
def ranks_of_scores(
    scores: Scores,
    num_items: int,
    targets: Tensor,
    seen: Tensor,
    *,
    chunk_items: int = CHUNK_ITEMS,
) -> Tensor:
    """Counts the items that are not placed after each user's target.

    A tie with the target counts against it.

    Args:
        scores: of B users.
        num_items: items N in the catalogue.
        targets: ``(B,)`` int64 item ids in ``1..N``.
        seen: ``(B, X)`` int64 item ids, 0 = padding; an item may come twice.
        chunk_items: how many items are scored at a time; ranks do not depend on it.

    Returns:
        ``(B, 2)`` int64 in ``0..N-1``, a column for each of :data:`PROTOCOLS`, 0 = first;
        :data:`MISS` where the target itself is masked out.

    Raises:
        ValueError: if a score is not a finite number: it would compare as smaller than nothing.
    """
    target_scores = scores.of_items(targets)[:, None]  # (B, 1)
    device = target_scores.device
    targets, seen = targets.to(device), seen.to(device)
    # What does not compete: the target with itself in either protocol, the seen items in `masked`.
    excluded = torch.cat([targets[:, None], _each_once(seen)], dim=1)  # (B, 1 + X)
    ranks = torch.zeros(len(targets), 2, dtype=torch.int64, device=device)
    for start in range(0, num_items, chunk_items):
        chunk = scores.of_range(start, min(start + chunk_items, num_items))
        if not all(bound.isfinite() for bound in chunk.aminmax()):  # of a NaN both are NaN
            raise ValueError("scores must be finite, got NaN or infinity; has training diverged?")
        not_after = chunk >= target_scores  # (B, chunk)
        out = _picked(not_after, excluded - 1 - start)
        competing = not_after.sum(1, dtype=torch.int32) - out[:, 0].int()
        ranks += torch.stack([competing, competing - out[:, 1:].sum(1)], dim=1)
    ranks[:, 1].masked_fill_((seen == targets[:, None]).any(1), MISS)
    return ranks


def _each_once(seen: Tensor) -> Tensor:
    """Replaces repeated ids of a row by 0, so that none is subtracted twice."""
    ordered = seen.sort(dim=1).values
    repeats = ordered[:, 1:] == ordered[:, :-1]
    ordered[:, 1:].masked_fill_(repeats, 0)
    return ordered


def _picked(values: Tensor, columns: Tensor) -> Tensor:
    """Reads ``(B, X)`` values at columns; False where a column is not in this chunk."""
    inside = (columns >= 0) & (columns < values.size(1))
    return values.gather(1, columns.clamp(0, values.size(1) - 1)) & inside
