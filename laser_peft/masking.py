"""Reading padded histories without letting padding vote.

Axes: B users, L items in a history, C width. Masks are True where an item is real.
"""

import torch
from torch import Tensor


def newest_state(states: Tensor, mask: Tensor) -> Tensor:
    """Picks each user's state at the newest real item, whatever side the padding is on.

    Args:
        states: ``(B, L, C)`` float, oldest item first.
        mask: ``(B, L)`` bool, True where an item is real.

    Returns:
        ``(B, C)`` float; zero where a user has no item.
    """
    if states.size(1) == 0:
        return states.new_zeros(states.size(0), states.size(2))
    positions = torch.arange(states.size(1), device=states.device)
    newest = torch.where(mask, positions, 0).amax(1)  # (B,)
    picked = states[torch.arange(states.size(0), device=states.device), newest]
    return picked.masked_fill(~mask.any(1, keepdim=True), 0)


def mean_over_real(values: Tensor, mask: Tensor) -> Tensor:
    """Averages each user's values over real items.

    Args:
        values: ``(B, L, C)`` float.
        mask: ``(B, L)`` bool, True where an item is real.

    Returns:
        ``(B, C)`` float; zero where a user has no item.
    """
    real = values.masked_fill(~mask.unsqueeze(-1), 0)
    return real.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
