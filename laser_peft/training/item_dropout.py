"""Histories with some items left out, as further histories to learn from.

Axes: B users, L items in a history.

In a sparse log most pairs of neighbours are seen once. With an item left out the ones around it
follow each other, so a model also learns what comes after next; docs/lab.md has what it brings.
"""

import torch
from torch import Tensor

IGNORE_INDEX = -100


def leave_items_out(input_ids: Tensor, labels: Tensor, probability: float) -> dict[str, Tensor]:
    """Draws items to leave out of every history, and sets each label to the next one kept.

    A history of which fewer than two items would be left is kept whole.

    Args:
        input_ids: ``(B, L)`` int64 item ids, 0 = padding on either side.
        labels: ``(B, L)`` int64, the item that follows each position, -100 at padding.
        probability: in ``[0, 1)``, with which each item is left out.

    Returns:
        ``input_ids`` and ``labels`` of the same shape: 0 and -100 at what is left out, and at the
        newest item kept, which nothing follows; where something is left out ``attention_mask``
        too, bool, False there.
    """
    if not probability:
        return {"input_ids": input_ids, "labels": labels}
    real = labels != IGNORE_INDEX
    places = torch.arange(labels.size(1) + 1, device=labels.device)
    last = torch.where(real, places[:-1], -1).amax(1, keepdim=True)  # (B, 1), the newest position
    # The whole history: the newest label stands behind the newest position.
    history = torch.cat([input_ids * real, torch.zeros_like(last)], 1)
    newest = labels.gather(1, last.clamp(min=0)).clamp(min=0)
    history = history.scatter(1, last + 1, newest)  # (B, L + 1)
    is_item = history != 0
    kept = is_item & (torch.rand(history.shape, device=history.device) >= probability)
    kept = torch.where(kept.sum(1, keepdim=True) < 2, is_item, kept)

    beyond = history.size(1)
    place_if_kept = torch.where(kept, places, beyond)
    next_kept = place_if_kept.flip(1).cummin(1).values.flip(1)[:, 1:]  # (B, L), after each position
    has_next = kept[:, :-1] & (next_kept < beyond)
    following = history.gather(1, next_kept.clamp(max=beyond - 1))
    return {
        "input_ids": history[:, :-1] * has_next,
        "attention_mask": has_next,
        "labels": torch.where(has_next, following, IGNORE_INDEX),
    }
