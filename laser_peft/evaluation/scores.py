"""A batch of users' scores over the catalogue, asked for piece by piece.

Axes: B users, N items in the catalogue, R recommendation width.
"""

from typing import Protocol

import torch
from torch import Tensor


class Scores(Protocol):
    """What a batch of users gives to items ``1..N``.

    Both methods give the same number for the same user and item: what is a tie in one is a tie in
    the other.
    """

    def of_range(self, start: int, stop: int) -> Tensor:
        """Scores the items ``start + 1 .. stop``.

        Returns:
            ``(B, stop - start)`` float.
        """

    def of_items(self, items: Tensor) -> Tensor:
        """Scores one item a user.

        Args:
            items: ``(B,)`` int64 item ids in ``1..N``.

        Returns:
            ``(B,)`` float.
        """


class DotProducts:
    """Scores of user vectors with item vectors, which do not depend on how they are cut up.

    A float32 product of matrices differs in its last bit with the shape of the matrices, and so
    makes and breaks ties. Products are therefore summed in float64 and rounded to float32: the
    order of the sum is then lost in the rounding, but for about one score in 10^8.

    Args:
        user_vectors: ``(B, R)`` float.
        item_vectors: ``(N, R)`` float, row ``j`` is item id ``j + 1``; on the same device.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor) -> None:
        if user_vectors.device.type == "mps":  # has no float64
            user_vectors, item_vectors = user_vectors.cpu(), item_vectors.cpu()
        self.user_vectors = user_vectors.detach().double()
        self.item_vectors = item_vectors.detach()

    def of_range(self, start: int, stop: int) -> Tensor:
        """See :meth:`Scores.of_range`."""
        # float64 is also what autocast leaves alone.
        return (self.user_vectors @ self.item_vectors[start:stop].double().T).float()

    def of_items(self, items: Tensor) -> Tensor:
        """See :meth:`Scores.of_items`."""
        own = self.item_vectors[items.to(self.item_vectors.device) - 1].double()  # (B, R)
        return (self.user_vectors * own).sum(1).to(torch.float32)
