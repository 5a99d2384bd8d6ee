"""Trains the SASRec that an adapter reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from laser_peft.collaborative import SASRecConfig, SASRecModel
from laser_peft.data import Split

from .datasets import HistoryDataset, NextItemDataset
from .next_item_trainer import NextItemTrainer
from .ranking_trainer import best_checkpoint_arguments, ranking_arguments
from .settings import check_above_zero, check_at_least_one, check_not_below_zero

MIN_EPOCHS, MIN_STEPS = 24, 1500
MAX_VALIDATIONS = 20


@dataclass(frozen=True)
class SASRecSettings:
    """How to train a SASRec.

    Args:
        hidden_size: width of item vectors and states.
        num_hidden_layers: blocks.
        num_attention_heads: heads a block.
        dropout: dropout probability.
        epochs: at most so many passes over the users; None: 24, or as many as make 1,500 steps
            where users are few.
        patience: validations without a better NDCG@10 before stopping; there is one an epoch, but
            at most 20 in all.
        batch_size: users a step.
        learning_rate: of AdamW at the start; falls to zero along a half cosine.
        weight_decay: of AdamW, on every parameter.
        item_dropout: probability with which an item is left out of a history for one pass, so that
            its neighbours follow each other; see :func:`leave_items_out`.
        num_negatives: 0 for a softmax over the whole catalogue; else over the next item and so
            many others, drawn uniformly for every step, for catalogues too large for the former.
    """

    hidden_size: int = 64
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    dropout: float = 0.4
    epochs: int | None = None
    patience: int = 4
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    item_dropout: float = 0.2
    num_negatives: int = 0

    def __post_init__(self) -> None:
        self.model_config(num_items=1, max_items=1)  # checks the sizes
        check_at_least_one(self, "patience", "batch_size")
        if self.epochs is not None:
            check_at_least_one(self, "epochs")
        check_above_zero(self, "learning_rate")
        check_not_below_zero(self, "weight_decay", "num_negatives", "item_dropout")
        if not 0 <= self.item_dropout < 1:
            raise ValueError(
                f"SASRecSettings: item_dropout must lie in [0, 1), got {self.item_dropout}"
            )

    def num_epochs(self, num_users: int) -> int:
        """Returns the passes over so many users.

        Example:
            >>> SASRecSettings().num_epochs(22_363), SASRecSettings().num_epochs(2_000)
            (24, 94)
        """
        if self.epochs is not None:
            return self.epochs
        return max(MIN_EPOCHS, math.ceil(MIN_STEPS / math.ceil(num_users / self.batch_size)))

    def model_config(self, *, num_items: int, max_items: int) -> SASRecConfig:
        """Returns the model's own configuration.

        Args:
            num_items: items in the catalogue.
            max_items: longest history in items.
        """
        return SASRecConfig(
            num_items=num_items,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=max_items,
            dropout=self.dropout,
        )


def train_sasrec(
    split: Split,
    num_items: int,
    output_dir: str | Path,
    settings: SASRecSettings,
    *,
    max_items: int = 50,
    seed: int = 0,
    resume_from_checkpoint: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> SASRecModel:
    """Trains with a softmax over items and returns the best epoch by validation NDCG@10.

    Args:
        split: what to learn from; validation examples choose the epoch, test ones are not read.
        num_items: items in the catalogue.
        output_dir: folder of the Trainer's checkpoints.
        settings: sizes and schedule.
        max_items: longest history in items; the newest are kept.
        seed: of the initial weights and of the order of users.
        resume_from_checkpoint: a checkpoint folder of an interrupted run.
        callbacks: of the Trainer, beside its own.
    """
    set_seed(seed)
    model = SASRecModel(settings.model_config(num_items=num_items, max_items=max_items))
    trainer = sasrec_trainer(
        model,
        split,
        num_items,
        output_dir,
        settings,
        max_items=max_items,
        callbacks=callbacks,
        seed=seed,
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return model


def sasrec_trainer(
    model: nn.Module,
    split: Split,
    num_items: int,
    output_dir: str | Path,
    settings: SASRecSettings,
    *,
    max_items: int,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> NextItemTrainer:
    """Returns the Trainer of :func:`train_sasrec` for a model, which may have been changed.

    Args:
        model: a SASRec.
        split: see there, and the following ones.
        num_items: see there.
        output_dir: see there.
        settings: see there.
        max_items: see there.
        callbacks: see there.
        **arguments: further ones of the Trainer, ``seed`` among them.
    """
    train_dataset = NextItemDataset(split.train_histories, max_items)
    epochs = settings.num_epochs(len(train_dataset))
    steps_an_epoch = math.ceil(len(train_dataset) / settings.batch_size)
    every = steps_an_epoch * math.ceil(epochs / MAX_VALIDATIONS)
    args = ranking_arguments(
        output_dir,
        num_train_epochs=epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=256,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        # Not grouped by length: the loss is a mean over a batch's positions, and batches of short
        # histories would give each of their few positions too much weight (docs/lab.md).
        train_sampling_strategy="random",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        logging_steps=every,
        **best_checkpoint_arguments(),
        **arguments,
    )
    return NextItemTrainer(
        model,
        args,
        num_items=num_items,
        train_dataset=train_dataset,
        eval_dataset=HistoryDataset(split.validation, max_items),
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
            *callbacks,
        ],
        num_negatives=settings.num_negatives,
        item_dropout=settings.item_dropout,
        split_batches=True,
    )
