"""Weighs the parts of fused vectors: scores every weighing of a batch in one go.

Axes: B users, N items in the catalogue, W weighings.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from laser_peft.evaluation import Scores, ndcg_at, ranks_of_scores
from laser_peft.tuner.fusing import ViewWeights

# Of the text part, where the collaborative part counts one; each but the first is the root of two
# times the one before.
TEXT_WEIGHTS = (0.0, *(2 ** (power / 2) for power in range(-6, 5)))
CORRECTIONS = (0.0, 0.5, 1.0)  # where the head has learnt nothing that helps, it takes nothing


def rarity_beside(text: float) -> float:
    """Returns how much more the text of an item counts that the encoder never saw.

    That is not for validation to choose: what is sold tomorrow is newer than what its users had.
    The text of such an item counts once more, or, where texts count less than the collaborative
    part, as much more as that part does: of such an item there is only a guess of it.

    Args:
        text: factor of the text part, where the collaborative part counts one.

    Example:
        >>> rarity_beside(2.0), rarity_beside(0.5)
        (1.0, 2.0)
    """
    return max(1.0, 1 / text) if text else 1.0


WEIGHINGS = tuple(
    ViewWeights(1.0, text, rarity_beside(text), correction)
    for correction, text in itertools.product(CORRECTIONS, TEXT_WEIGHTS)
)
# For what has no text reader: there is nothing to correct.
WEIGHINGS_OF_TWO = tuple(weighing for weighing in WEIGHINGS if weighing.correction == 1)
CHUNK_ITEMS = 1024  # at a time under every weighing


class WeighedScores:
    """Scores of the same users under every weighing, one weighing after another: W * B rows.

    Args:
        collaborative: scores of B users by the collaborative part alone.
        texts: by what the text reader says alone, each text counting once.
        corrections: by what the head adds to that, each text counting once; None: nothing.
        rare: ``(N,)`` float in ``(0, 1]``, how rare each item is (``ItemVectors.rare``).
        weighings: what is tried.
    """

    def __init__(
        self,
        collaborative: Scores,
        texts: Scores,
        corrections: Scores | None,
        rare: Tensor,
        weighings: Sequence[ViewWeights],
    ) -> None:
        self.parts = [part for part in (collaborative, texts, corrections) if part is not None]
        self.rare = rare
        self.weights = torch.tensor(weighings, device=rare.device)  # (W, 4)

    def of_range(self, start: int, stop: int) -> Tensor:
        """See :meth:`Scores.of_range`."""
        parts = [part.of_range(start, stop) for part in self.parts]
        return self._weighed(*parts, rare=self.rare[start:stop])

    def of_items(self, items: Tensor) -> Tensor:
        """See :meth:`Scores.of_items`; takes and gives W * B rows, as ``repeat`` makes them."""
        own = items[: len(items) // len(self.weights)]
        parts = [part.of_items(own)[:, None] for part in self.parts]
        rare = self.rare[own.to(self.rare.device) - 1]
        return self._weighed(*parts, rare=rare[:, None])[:, 0]

    def _weighed(
        self, collaborative: Tensor, texts: Tensor, *corrections: Tensor, rare: Tensor
    ) -> Tensor:
        """Weighs scores ``(B, n)`` of items as rare as ``(n,)`` or ``(B, n)``: ``(W * B, n)``."""
        weights = self.weights.to(collaborative)[:, :, None, None]
        rare = rare.to(collaborative)
        for correction in corrections:
            texts = texts + weights[:, 3] * correction
        text = weights[:, 1] * (1 + weights[:, 2] * rare) * texts
        return (weights[:, 0] * collaborative + text).flatten(0, 1)

    def ranks(self, targets: Tensor, seen: Tensor) -> Tensor:
        """Ranks the targets under every weighing.

        Args:
            targets: ``(B,)`` int64 item ids.
            seen: ``(B, L)`` int64, what each user has had, 0 = padding.

        Returns:
            ``(B, 2 W)`` int64, for each weighing a column of each protocol.
        """
        tried = len(self.weights)
        repeated = targets.repeat(tried), seen.repeat(tried, 1)
        ranks = ranks_of_scores(self, len(self.rare), *repeated, chunk_items=CHUNK_ITEMS)
        return ranks.view(tried, len(targets), 2).transpose(0, 1).flatten(1)


def best_weighing(ranks: np.ndarray) -> tuple[int, np.ndarray]:
    """Picks the weighing of the highest NDCG@10, the mean of both protocols.

    Args:
        ranks: ``(users, 2 W)`` int64, as :meth:`WeighedScores.ranks` makes them.

    Returns:
        Its place, of equal ones the first, and the ranks ``(users, 2)`` under it.
    """
    by_weighing = ranks.reshape(len(ranks), -1, 2)
    place = int(ndcg_at(10, by_weighing).mean((0, 2)).argmax())
    return place, by_weighing[:, place]
