"""Where the target stands in the whole catalogue, under both protocols at once.

Axes: B users, N items in the catalogue, R recommendation width, X items a user has had.

``unmasked`` ranks every item; ``masked`` takes out what the user has had already. A target that
the user has had is out too and counts as a miss: a list without it cannot recommend it.
"""

import torch
from torch import Tensor

PROTOCOLS = ("unmasked", "masked")
MISS = 2**31 - 1  # the rank of what is not in the list at all, beyond every cutoff


@torch.no_grad()
def ranks_of_targets(
    user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, seen: Tensor
) -> Tensor:
    """Counts the items that are not placed after each user's target.

    A tie with the target counts against it.

    Args:
        user_vectors: ``(B, R)`` float.
        item_vectors: ``(N, R)`` float.
        targets: ``(B,)`` int64 item ids in ``1..N``.
        seen: ``(B, X)`` int64 item ids, 0 = padding.

    Returns:
        ``(B, 2)`` int64 in ``0..N-1``, a column for each of :data:`PROTOCOLS`, 0 = first;
        :data:`MISS` where the target itself is masked out.

    Raises:
        ValueError: if a score is not a finite number: it would compare as smaller than nothing.
    """
    scores = user_vectors.float() @ item_vectors.float().T  # (B, N)
    if not torch.isfinite(scores).all():
        raise ValueError("scores must be finite, got NaN or infinity; has training diverged?")
    unmasked = _count_not_after(scores, targets)
    # Column 0 takes the padding of `seen`, so that it hides no item.
    hidden = torch.zeros(scores.size(0), scores.size(1) + 1, dtype=torch.bool, device=scores.device)
    hidden.scatter_(1, seen, True)
    masked = _count_not_after(scores.masked_fill(hidden[:, 1:], float("-inf")), targets)
    masked = masked.masked_fill(hidden.gather(1, targets[:, None])[:, 0], MISS)
    return torch.stack([unmasked, masked], dim=1)


def _count_not_after(scores: Tensor, targets: Tensor) -> Tensor:
    target_scores = scores.gather(1, targets[:, None] - 1)
    return (scores >= target_scores).sum(1) - 1  # the target is not before itself
