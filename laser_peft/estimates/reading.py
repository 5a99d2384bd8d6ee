"""What the text reader's own training may take."""

import numpy as np
import torch
from peft import PeftModel

from laser_peft.data import PaddingCollator, Split
from laser_peft.training import NextItemDataset
from laser_peft.training.reading import BATCH_SIZE, Reading, negatives_of

from .measuring import measure


def seconds_of_a_step(model: PeftModel, split: Split, *, max_items: int) -> float:
    """Times an optimizer step of the active adapter's text reader.

    Args:
        model: with fused item vectors, its text vectors set.
        split: what it will learn from.
        max_items: longest history in items.
    """
    adapter = model.base_model.layer.bituning_adapters[model.active_adapter]
    reading = Reading(adapter.text_reader, adapter.items.of_text())
    dataset = NextItemDataset(split.train_histories, max_items)
    size = min(BATCH_SIZE, len(dataset))
    return measure(_Learning(reading, dataset), size, reading).seconds


class _Learning:
    """An optimizer step on users drawn at random."""

    def __init__(self, model: Reading, dataset: NextItemDataset) -> None:
        self.model = model.train()
        self.dataset = dataset
        self.optimizer = torch.optim.AdamW(model.parameters())
        self.random = np.random.default_rng(0)

    def __call__(self, size: int) -> None:
        drawn = self.random.integers(len(self.dataset), size=size).tolist()
        batch = PaddingCollator()([self.dataset[place] for place in drawn])
        device, num_items = self.model.texts.device, len(self.model.texts)
        inputs = {name: values.to(device) for name, values in batch.items()}
        if count := negatives_of(num_items):
            drawn = self.random.integers(1, num_items + 1, size=count)
            inputs["negatives"] = torch.as_tensor(drawn, device=device)
        self.model(**inputs)["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
