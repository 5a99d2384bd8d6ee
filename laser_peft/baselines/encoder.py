"""A trained ID encoder under the same judge, a SASRec above all.

Axes: B users, L items in a history, N items in the catalogue, C width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from laser_peft import collaborative as _collaborative  # noqa: F401  (registers SASRec)
from laser_peft.data import PaddingCollator
from laser_peft.evaluation import DotProducts, Scores
from laser_peft.masking import newest_state


class Encoder:
    """Scores an item by the dot product of its vector with the state at the newest item.

    Args:
        model: as :mod:`laser_peft.collaborative` says an encoder is; put in eval mode.
        num_items: items N in the catalogue.
        max_items: how many of the newest items it reads; None: as many as it has positions.

    Raises:
        ValueError: if the encoder knows another number of items.
    """

    def __init__(
        self, model: PreTrainedModel, num_items: int, *, max_items: int | None = None
    ) -> None:
        known = model.get_input_embeddings().num_embeddings - 1
        if known != num_items:
            raise ValueError(
                f"the encoder knows {known} items and the catalogue has {num_items}; give the "
                "items that it was trained with"
            )
        self.model = model.eval()
        self.num_items = num_items
        self.max_items = max_items or getattr(model.config, "max_position_embeddings", None)

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_items: int) -> "Encoder":
        """Loads an encoder from a folder or the Hub.

        Raises:
            OSError: if there is none.
            ValueError: if it knows another number of items.
        """
        model = AutoModel.from_pretrained(str(folder))
        if torch.accelerator.is_available():
            model = model.to(torch.accelerator.current_accelerator())
        return cls(model, num_items)

    @torch.inference_mode()
    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`.ranking.Baseline.scores`."""
        longest = self.max_items
        newest = [history[-longest:] if longest else history for history in histories]
        batch = PaddingCollator()([{"input_ids": history} for history in newest])
        inputs = {name: values.to(self.model.device) for name, values in batch.items()}
        states = self.model(**inputs).last_hidden_state  # (B, L, C)
        users = newest_state(states, inputs["attention_mask"])
        return DotProducts(users, self.model.get_input_embeddings().weight[1:])
