"""Examples as the columns that each model's forward takes; padding is the collator's work.

Axes: L items in a history, T text tokens.

A target is in ``labels`` and nowhere else; ``seen`` is for ranking only and reaches no model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from laser_peft.data import PromptBuilder
from laser_peft.data.sequences import Example


class NextItemDataset(Dataset):
    """Histories for a SASRec to learn from, all positions of a history at once.

    Args:
        histories: dense ids, oldest first; those with fewer than two items teach nothing.
        max_items: how many of the newest items are used as input.
    """

    def __init__(self, histories: Sequence[np.ndarray], max_items: int) -> None:
        self.histories = [history for history in histories if len(history) > 1]
        self.max_items = max_items

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``input_ids (L,)`` and ``labels (L,)``, the item after each."""
        history = self.histories[index][-(self.max_items + 1) :]
        return {"input_ids": history[:-1], "labels": history[1:]}


class HistoryDataset(Dataset):
    """Examples to rank with an ID encoder.

    Args:
        examples: histories and targets.
        max_items: how many of the newest items the encoder reads.
    """

    def __init__(self, examples: Sequence[Example], max_items: int) -> None:
        self.examples = examples
        self.max_items = max_items

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``input_ids (L,)``, the whole history as ``seen``, and ``labels``, an int."""
        example = self.examples[index]
        return {
            "input_ids": example.history[-self.max_items :],
            "seen": example.history,
            "labels": example.target,
        }


class PromptDataset(Dataset):
    """Examples to train or rank a Bi-Tuning model with.

    Args:
        examples: histories and targets.
        prompts: says a history in tokens.
        max_items: how many of the newest items the collaborative encoder reads.
        ranked: also return what the user has had, for masked ranking.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        prompts: PromptBuilder,
        *,
        max_items: int,
        ranked: bool = False,
    ) -> None:
        self.examples = examples
        self.prompts = prompts
        self.max_items = max_items
        self.ranked = ranked

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``input_ids (T,)``, ``history (L,)``, ``labels``, and ``seen`` if ranked."""
        example = self.examples[index]
        columns = {
            "input_ids": self.prompts(example.history),
            "history": example.history[-self.max_items :],
            "labels": example.target,
        }
        return columns | ({"seen": example.history} if self.ranked else {})
