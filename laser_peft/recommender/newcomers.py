"""What to recommend to users of whom nothing is known: what was had most often.

Axes: B users in a batch, N items in the catalogue, R recommendation width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .best import Shelf, best_items


def best_or_most_had(
    users: Tensor,
    shelf: Shelf,
    k: int,
    *,
    left_out: Sequence[np.ndarray] | None,
    events: Callable[[], Tensor | None],
) -> list[list[tuple[int, float]]]:
    """Finds each user's k best items; where a user's vector says nothing, those had most often.

    Args:
        users: ``(B, R)`` float; of zeros where nothing is known, as of an empty history where the
            language model's reading counts nothing.
        shelf: what may be found.
        k: how many, at least 1.
        left_out: for each user dense ids that must not be found; None: nothing.
        events: gives ``(N,)`` int64, how often each item was had; None where nobody counted.

    Returns:
        As :func:`best_items`; the score of an item that was found for its events is their number.

    Raises:
        ValueError: if a score is not a finite number.
    """
    is_blank = ~users.any(1)
    counts = events() if is_blank.any() else None
    if counts is None:
        return best_items(users, shelf, k, left_out=left_out)
    counts = counts.to(shelf.vectors.device)
    counts = counts if shelf.ids is None else counts[shelf.ids - 1]
    most_had = replace(shelf, vectors=counts.float()[:, None], index=None)
    found: list[list[tuple[int, float]]] = [[]] * len(users)
    for chosen, asked, offered in (
        (~is_blank, users, shelf),
        (is_blank, torch.ones(len(users), 1, device=users.device), most_had),
    ):
        rows = chosen.nonzero()[:, 0].tolist()
        if rows:
            others = None if left_out is None else [left_out[row] for row in rows]
            best = best_items(asked[rows], offered, k, left_out=others)
            for row, items in zip(rows, best, strict=True):
                found[row] = items
    return found
