"""The same list for everyone: what was had most often."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from laser_peft.data.sequences import training_events
from laser_peft.evaluation import Scores


class Popularity:
    """Scores an item by its number of events in the training part.

    Many items have the same number; a tie counts against the target, so no order of the catalogue
    helps.

    Args:
        train_histories: dense ids of every user's training part.
        num_items: items N in the catalogue.
    """

    def __init__(self, train_histories: Sequence[np.ndarray], num_items: int) -> None:
        self.num_items = num_items
        self.counts = torch.from_numpy(training_events(train_histories, num_items))

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`.ranking.Baseline.scores`."""
        return _SameForAll(self.counts, len(histories))


class _SameForAll:
    def __init__(self, counts: Tensor, num_users: int) -> None:
        self.counts = counts
        self.num_users = num_users

    def of_range(self, start: int, stop: int) -> Tensor:
        return self.counts[1 + start : 1 + stop].expand(self.num_users, -1)

    def of_items(self, items: Tensor) -> Tensor:
        return self.counts[items]
