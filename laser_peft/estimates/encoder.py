"""What the training of a SASRec may take."""

import math

import numpy as np
import torch

from laser_peft.collaborative import SASRecModel
from laser_peft.data import PaddingCollator, Split
from laser_peft.evaluation import ranks_of_targets
from laser_peft.training import HistoryDataset, NextItemDataset, SASRecSettings
from laser_peft.training.sasrec import MAX_VALIDATIONS

from .measuring import measure, random_state_kept
from .memory import device_of_training, held_bytes, process_bytes
from .words import StageEstimate, say_count

RANKED_AT_ONCE = 256


def estimate_encoder(
    split: Split, num_items: int, settings: SASRecSettings, *, max_items: int, done_steps: int = 0
) -> StageEstimate:
    """Times steps of a new SASRec on users of the log; all its epochs, though it may stop early.

    Args:
        split: what it will learn from.
        num_items: items in the catalogue.
        settings: sizes and schedule.
        max_items: longest history in items.
        done_steps: optimizer steps that an interrupted run has taken.
    """
    train = NextItemDataset(split.train_histories, max_items)
    epochs, batch_size = settings.num_epochs(len(train)), settings.batch_size
    steps = epochs * math.ceil(len(train) / batch_size)
    left = max(1 - done_steps / steps, 0.0)
    device = device_of_training()
    held = process_bytes(device)
    with random_state_kept():
        config = settings.model_config(num_items=num_items, max_items=max_items)
        model = SASRecModel(config).to(device)
        size = min(batch_size, len(train))
        step = measure(_Learning(model, train, settings), size, model)
        validation = HistoryDataset(split.validation, max_items)
        ranked = min(RANKED_AT_ONCE, len(validation))
        ranking = measure(_Ranking(model, validation), ranked, model)
    seconds_a_user = ranking.seconds / ranked
    validations = min(epochs, MAX_VALIDATIONS)
    return StageEstimate(
        name="SASRec",
        work=f"{say_count(len(train), 'user')} x {say_count(epochs, 'epoch')}; "
        f"{size / step.seconds:,.0f} users/s measured",
        training_seconds=left * steps * step.seconds,
        validations=math.ceil(left * validations),
        validation_seconds=left * validations * len(validation) * seconds_a_user,
        test_seconds=len(split.test) * seconds_a_user,
        memory_bytes=round(held + held_bytes(model) + step.step_bytes),
        stops_early=True,
    )


class _Learning:
    """An optimizer step on users drawn at random."""

    def __init__(
        self, model: SASRecModel, dataset: NextItemDataset, settings: SASRecSettings
    ) -> None:
        self.model = model.train()
        self.dataset = dataset
        self.num_negatives = settings.num_negatives
        self.optimizer = torch.optim.AdamW(model.parameters())
        self.random = np.random.default_rng(0)

    def __call__(self, size: int) -> None:
        drawn = self.random.integers(len(self.dataset), size=size).tolist()
        batch = PaddingCollator()([self.dataset[place] for place in drawn])
        device = self.model.device
        inputs = {name: values.to(device) for name, values in batch.items()}
        if self.num_negatives:
            num_items = self.model.config.num_items
            drawn = self.random.integers(1, num_items + 1, size=self.num_negatives)
            inputs["negatives"] = torch.as_tensor(drawn, device=device)
        self.model(**inputs).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Ranking:
    """The ranking of users drawn at random, as a validation or a test does it."""

    def __init__(self, model: SASRecModel, dataset: HistoryDataset) -> None:
        self.model = model
        self.dataset = dataset
        self.random = np.random.default_rng(0)

    @torch.no_grad()
    def __call__(self, size: int) -> None:
        drawn = self.random.integers(len(self.dataset), size=size).tolist()
        batch = PaddingCollator()([self.dataset[place] for place in drawn])
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        targets, seen = batch.pop("labels"), batch.pop("seen")
        users = self.model.eval()(**batch).user_vectors
        ranks_of_targets(users, self.model.item_vectors(), targets, seen)
