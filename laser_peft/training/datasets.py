"""Examples as the columns that each model's forward takes; padding is the collator's work.

Axes: B texts, L items in a history, T text tokens, E tokens of an ending, K positions of a history,
n users of all texts of a batch.

A target is in ``labels`` and nowhere else; ``seen`` is for ranking only and reaches no model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from laser_peft.data import PaddingCollator, PromptBuilder
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


class PlacesDataset(Dataset):
    """Whole histories to train a Bi-Tuning model with, every position of each at once.

    An example is a history, so a batch of so many has more positions. Of a history that is longer
    than a prompt only the positions of the newest items that fit are learnt from; one by one
    (``PromptDataset``) the early ones would be too.

    Args:
        histories: dense ids, oldest first; those with fewer than two items teach nothing.
        prompts: says a history in tokens.
        max_items: how many of the newest items the collaborative encoder reads at a position.
    """

    def __init__(
        self, histories: Sequence[np.ndarray], prompts: PromptBuilder, *, max_items: int
    ) -> None:
        self.histories = [history for history in histories if len(history) > 1]
        self.prompts = prompts
        self.max_items = max_items

    def __len__(self) -> int:
        return len(self.histories)

    def longest(self) -> tuple[int, int]:
        """Returns the tokens of the longest text and the most positions of one; 0 without any."""
        places = [self.prompts.with_places(history[:-1]) for history in self.histories]
        tokens = max((len(tokens) for tokens, _ in places), default=0)
        return tokens, max((len(lengths) for _, lengths in places), default=0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a text of one shopper and, for K positions in it, what comes next.

        ``input_ids (T,)``, the prompt without its ending; ``text_lengths (K,)``, where in it each
        position is; ``history``, K arrays of items; ``labels (K,)``, the items that follow.
        """
        history = self.histories[index]
        tokens, lengths = self.prompts.with_places(history[:-1])
        first = len(history) - len(lengths)
        places = range(first, len(history))
        return {
            "input_ids": tokens,
            "text_lengths": lengths,
            "history": [history[max(place - self.max_items, 0) : place] for place in places],
            "labels": history[first:],
        }


class PlacesCollator:
    """Makes one batch of what :class:`PlacesDataset` returns: B texts, and n users of them.

    Other examples, as those that are ranked, it pads as ``PaddingCollator`` does.

    Args:
        ending: ``(E,)``, the tokens that follow each position (``PromptBuilder.ending``).
    """

    def __init__(self, ending: Sequence[int] = ()) -> None:
        self.ending = torch.tensor(ending, dtype=torch.int64)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Returns int64 tensors and bool masks, see ``BiTuningModel.forward``.

        ``input_ids (B, T)``, ``text_rows (n,)``, ``text_lengths (n,)``, ``history (n, L)``,
        ``labels (n,)``, two masks, and ``ending_ids`` if there is an ending.
        """
        if "text_lengths" not in examples[0]:
            return PaddingCollator()(examples)
        texts = PaddingCollator()([{"input_ids": example["input_ids"]} for example in examples])
        users = PaddingCollator()(
            [
                {"text_rows": row, "text_lengths": length, "history": history, "labels": label}
                for row, example in enumerate(examples)
                for length, history, label in zip(
                    example["text_lengths"], example["history"], example["labels"], strict=True
                )
            ]
        )
        return texts | users | ({"ending_ids": self.ending} if len(self.ending) else {})
