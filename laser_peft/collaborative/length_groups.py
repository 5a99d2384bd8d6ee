"""Histories of like length together: attention costs the square of the longest of them.

Axes: B users, L items in a history, n real items of a group.
"""

import torch
from torch import Tensor

SHORT = 8  # items; the length up to which histories are together
Group = tuple[Tensor, Tensor, tuple[int, int]]


def group_by_length(real: Tensor) -> list[Group]:
    """Puts histories of a batch together that are short, or differ by a factor of 2 at most.

    Args:
        real: ``(B, L)`` bool, True where an item is real.

    Returns:
        ``items (n,)``, where the items of a group are in the flat batch; ``slots (n,)``, where they
        are laid out, flat, with the padding on the right; rows and columns of that layout.
    """
    lengths = real.sum(1)
    limits = SHORT * 2 ** torch.arange(real.size(1).bit_length(), device=real.device)
    kinds = torch.bucketize(lengths, limits)
    groups = []
    for kind in kinds[lengths > 0].unique().tolist():
        alike = kinds == kind
        rows, columns = int(alike.sum()), int(lengths[alike].max())
        items = (real & alike[:, None]).flatten().nonzero()[:, 0]
        slots = (alike.cumsum(0)[:, None] - 1) * columns + real.cumsum(1) - 1
        groups.append((items, slots.flatten()[items], (rows, columns)))
    return groups
