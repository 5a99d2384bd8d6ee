"""Ranks of a test under anything that scores histories.

Axes: B users, N items in the catalogue.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from laser_peft.data import PaddingCollator
from laser_peft.data.sequences import Example
from laser_peft.evaluation import PROTOCOLS, Scores, ranks_of_scores
from laser_peft.portions import portions
from laser_peft.processes import own_share, summed

EVENTS_A_BATCH = 2**20  # padding included; bounds the memory of a batch of endless histories


class Baseline(Protocol):
    """Scores histories over the catalogue; a history may be empty."""

    num_items: int  # N

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch.

        Args:
            histories: B times ``(L,)`` int64 dense ids, oldest first.
        """


def rank_examples(
    baseline: Baseline, examples: Sequence[Example], *, batch_size: int = 256
) -> np.ndarray:
    """Ranks every target over the whole catalogue; several processes share the users.

    Args:
        baseline: what scores.
        examples: histories and targets.
        batch_size: users at a time, fewer where histories are very long.

    Returns:
        ``(users, 2)`` int64 in the order of the examples, a column for each of
        :data:`laser_peft.evaluation.PROTOCOLS`.

    Raises:
        ValueError: if a score is not a finite number.
    """
    ranks = torch.zeros(len(examples), len(PROTOCOLS), dtype=torch.int64)
    # Histories of like length pad each other little.
    lengths = [len(example.history) for example in examples]
    cut = portions(lengths, most_tokens=EVENTS_A_BATCH, most_rows=batch_size)
    for places in own_share(list(cut)):
        histories = [examples[place].history for place in places]
        seen = PaddingCollator()([{"seen": history} for history in histories])["seen"]
        targets = torch.tensor([examples[place].target for place in places])
        scores = baseline.scores(histories)
        found = ranks_of_scores(scores, baseline.num_items, targets, seen)
        ranks[torch.tensor(places)] = found.cpu()
    return summed(ranks).numpy()
