"""Trains an adapter's text reader by itself: what a history's texts say of the next item's text.

Axes: B users, L items in a history, N items in the catalogue, X width of text vectors.

Every position of every history is an example, and the language model, which wrote the text
vectors, is not read again: an epoch takes seconds where the adapter's takes minutes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed

from laser_peft.data import Split
from laser_peft.losses import sampled_cross_entropy
from laser_peft.tuner.text_reader import TextReader

from .datasets import NextItemDataset
from .item_dropout import IGNORE_INDEX
from .next_item_trainer import NextItemTrainer
from .ranking_trainer import ranking_arguments

BATCH_SIZE = 128  # users a step
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.1
CHECKPOINTS = 10
MANY_ITEMS, NUM_NEGATIVES = 4096, 2048  # of larger catalogues a step sees a sample


def negatives_of(num_items: int) -> int:
    """Returns how many negatives a step draws; 0 for a softmax over the whole catalogue."""
    return NUM_NEGATIVES if num_items > MANY_ITEMS else 0


class Reading(nn.Module):
    """A text reader with the text vectors that it reads and is scored by.

    Items of the history compete with no label: texts like their own are what a reader is to find,
    and to keep the items themselves from the top it would have to unlearn that.

    Args:
        reader: what learns.
        texts: ``(N, X)`` float, the items' own.
    """

    def __init__(self, reader: TextReader, texts: Tensor) -> None:
        super().__init__()
        self.reader = reader
        self.texts: Tensor
        self.register_buffer("texts", texts, persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Computes the loss of all positions.

        Args:
            input_ids: ``(B, L)`` int64 item ids, 0 = padding anywhere.
            attention_mask: not needed beside the ids.
            labels: ``(B, L)`` int64, the item after each position, -100 to skip it.
            negatives: ``(K,)`` int64 item ids that stand for all others; None: the catalogue.

        Returns:
            ``loss``, a scalar in nats, 0 where there is no label.
        """
        assert labels is not None
        real = input_ids != 0
        texts = self.texts[(input_ids - 1).clamp(min=0)] * real.unsqueeze(-1)
        wanted = labels != IGNORE_INDEX
        read = self.reader(texts, real, wanted)
        if not len(read):
            return {"loss": read.sum() * 0}
        if negatives is None:
            negatives = torch.arange(1, len(self.texts) + 1, device=input_ids.device)
        seen = items_up_to_each(input_ids)[wanted]
        return {"loss": sampled_cross_entropy(read, self.texts, labels[wanted], negatives, seen)}


def items_up_to_each(input_ids: Tensor) -> Tensor:
    """Returns ``(B, L, L)`` int64: for each position the ids of it and those before it, else 0.

    Args:
        input_ids: ``(B, L)`` int64.
    """
    return input_ids[:, None].expand(-1, input_ids.size(1), -1).tril()


def train_reading(
    model: PeftModel,
    split: Split,
    output_dir: str | Path,
    epochs: int,
    *,
    max_items: int,
    seed: int = 0,
    resume_from_checkpoint: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Trains the text reader of the active adapter in place.

    Args:
        model: a causal LM with a Bi-Tuning adapter of fused item vectors and a text skip, whose
            text vectors are set.
        split: what to learn from; neither validation nor test examples are read.
        output_dir: folder of the Trainer's checkpoints; the newest is kept.
        epochs: passes over the users.
        max_items: longest history in items.
        seed: of the order of users, dropout and what is drawn.
        resume_from_checkpoint: a checkpoint folder of an interrupted run.
        callbacks: of the Trainer, beside its own.
    """
    adapter = model.base_model.layer.bituning_adapters[model.active_adapter]
    texts = adapter.items.of_text()
    dataset = NextItemDataset(split.train_histories, max_items)
    every = math.ceil(len(dataset) / BATCH_SIZE) * math.ceil(epochs / CHECKPOINTS)
    set_seed(seed)
    args = ranking_arguments(
        output_dir,
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="linear",
        train_sampling_strategy="random",
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        restore_callback_states_from_checkpoint=True,
        logging_steps=every,
        seed=seed,
    )
    trainer = NextItemTrainer(
        Reading(adapter.text_reader, texts),
        args,
        train_dataset=dataset,
        callbacks=list(callbacks),
        num_items=len(texts),
        num_negatives=negatives_of(len(texts)),
        split_batches=True,
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)


@contextmanager
def kept_as_it_is(model: PeftModel) -> Iterator[None]:
    """Freezes the text reader of the active adapter within; it then leaves nothing out either."""
    reader = model.base_model.layer.bituning_adapters[model.active_adapter].text_reader
    learning = [parameter for parameter in reader.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    dropout, reader.dropout.p = reader.dropout.p, 0.0
    try:
        yield
    finally:
        reader.dropout.p = dropout
        for parameter in learning:
            parameter.requires_grad_(True)
