"""Trains a Bi-Tuning adapter on a frozen language model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import TrainerCallback, TrainingArguments, set_seed

from laser_peft.data import PromptBuilder, Split
from laser_peft.tuner import BiTuningConfig
from laser_peft.tuner.trying import is_compiled

from .datasets import PlacesCollator, PlacesDataset, PromptDataset
from .laser_trainer import LaserTrainer
from .ranking_trainer import best_checkpoint_arguments, by_length, ranking_arguments
from .reading import BATCH_SIZE
from .settings import check_above_zero, check_at_least_one, check_not_below_zero

MIN_READING_EPOCHS, MIN_READING_STEPS = 4, 640


@dataclass(frozen=True)
class LaserSettings:
    """How to train an adapter.

    Args:
        epochs: passes over the training examples; with ``item_vectors="text"`` those of the second
            phase, in which the table of item vectors stays as it is. 0: the adapter stays as it
            is, and only the weights of its parts are chosen.
        item_epochs: with ``item_vectors="text"``: passes of a first phase, before each of which
            the adapter reads the table of item vectors anew (:func:`train_in_phases`); 0 for no
            such phase, the table being the bare language model's. Without effect on other item
            vectors, which no training changes: those of the encoder, and beside them with
            ``"fused"`` the bare language model's.
        reading_epochs: with ``item_vectors="fused"``: passes of a first phase, in which the text
            reader learns by itself from every position of all histories (:func:`train_reading`);
            in the second it stays as it is. None: 4, or as many as make 640 steps where users are
            few; 0: no such phase, it learns along with the adapter.
        twin: where the adapter can have one (:func:`laser_peft.training.twin.twin_settings`), it
            learns beside a twin of its encoder and of its text reader that have not seen the items
            it learns from, the last training item of each user. Else, and with ``every_prefix``,
            beside its own, which have.
        every_prefix: one example for every item that follows another; else one a user. Where
            positions share a text (:func:`training_dataset`) those of a history are one example,
            and of histories longer than a prompt the early ones are left out.
        batch_size: examples a step; histories, with all their positions, where these share a text.
        learning_rate: of AdamW at its highest; warms up over 5 % of the steps, then falls
            linearly to zero.
        weight_decay: of AdamW.
        validation_users: users, drawn once, on whom the best step is chosen; 0 for all.
        evaluations_per_epoch: how often validation is measured.
        num_negatives: 0 for a softmax over the whole catalogue; else over the next item and so
            many others, drawn uniformly for every step, for catalogues too large for the former.
        bf16: compute in bfloat16 where autocast allows; adapter weights stay float32.

    Raises:
        ValueError: if a count is below one (``epochs``, ``validation_users``, ``num_negatives``,
            ``item_epochs`` and ``reading_epochs``: below zero), the learning rate not above 0, the
            weight decay below 0, or one of them no finite number.
    """

    epochs: int = 1
    item_epochs: int = 1
    reading_epochs: int | None = None
    twin: bool = True
    every_prefix: bool = False
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    validation_users: int = 2000
    evaluations_per_epoch: int = 2
    num_negatives: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        check_at_least_one(self, "batch_size", "evaluations_per_epoch")
        check_above_zero(self, "learning_rate")
        check_not_below_zero(
            self, "epochs", "weight_decay", "validation_users", "num_negatives", "item_epochs"
        )
        if self.reading_epochs is not None:
            check_not_below_zero(self, "reading_epochs")

    def wants_twin(self, config: BiTuningConfig) -> bool:
        """Tells whether an adapter is to learn beside a twin, if there can be one."""
        has_skip = config.collaborative_skip is not False and config.user_projection
        corrects = config.has_text_skip and has_skip
        return self.twin and self.epochs > 0 and not self.every_prefix and corrects

    def item_epochs_of(self, item_vectors: str) -> int:
        """Returns the epochs that read items anew, by the ``item_vectors`` of an adapter."""
        return self.item_epochs if item_vectors == "text" else 0

    def reading_epochs_of(self, reads_texts: bool, num_users: int) -> int:
        """Returns the epochs of the text reader by itself.

        Args:
            reads_texts: whether the adapter has a text reader.
            num_users: users to learn from.

        Example:
            >>> LaserSettings().reading_epochs_of(True, 22_363)
            4
            >>> LaserSettings().reading_epochs_of(True, 2_000)
            40
        """
        if not reads_texts:
            return 0
        if self.reading_epochs is not None:
            return self.reading_epochs
        steps_an_epoch = math.ceil(num_users / BATCH_SIZE)
        return max(MIN_READING_EPOCHS, math.ceil(MIN_READING_STEPS / max(steps_an_epoch, 1)))


def train_laser(
    model: PeftModel,
    split: Split,
    prompts: PromptBuilder,
    output_dir: str | Path,
    settings: LaserSettings,
    *,
    max_items: int,
    seed: int = 0,
    resume_from_checkpoint: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Trains the active adapter in place and leaves it at its best by validation NDCG@10.

    It does so in one phase, with the item vectors that there are (:func:`train_in_phases`).

    The mean of both protocols chooses. Text vectors, where the adapter uses them, must be set.

    Args:
        model: a causal LM with a Bi-Tuning adapter that has a collaborative encoder.
        split: what to learn from; test examples are not read.
        prompts: says histories in tokens.
        output_dir: folder of the Trainer's checkpoints.
        settings: schedule.
        max_items: longest history of the encoder in items.
        seed: of the order of examples, dropout and the validation users.
        resume_from_checkpoint: a checkpoint folder of an interrupted run.
        callbacks: of the Trainer, beside its own.
    """
    dataset = training_dataset(model, split, prompts, settings, max_items=max_items)
    validation = split.validation
    if 0 < settings.validation_users < len(validation):
        drawn = np.random.default_rng(seed).choice(
            len(validation), settings.validation_users, replace=False
        )
        validation = [validation[user] for user in drawn]
    set_seed(seed)
    trainer = LaserTrainer(
        model,
        laser_arguments(
            output_dir,
            settings,
            len(dataset),
            seed=seed,
            **best_checkpoint_arguments("ndcg@10"),
        ),
        data_collator=PlacesCollator(prompts.ending),
        train_dataset=dataset,
        eval_dataset=by_length(
            PromptDataset(validation, prompts, max_items=max_items, ranked=True)
        ),
        callbacks=list(callbacks),
        num_negatives=settings.num_negatives,
        split_batches=True,
    )
    if settings.epochs == 0:
        trainer.evaluate()  # which weighs
        model.eval()
        return
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)


def laser_arguments(
    output_dir: str | Path,
    settings: LaserSettings,
    num_examples: int,
    *,
    seed: int,
    **arguments: Any,
) -> TrainingArguments:
    """Returns the Trainer's arguments of a schedule.

    Args:
        output_dir: folder of the Trainer's checkpoints.
        settings: the schedule.
        num_examples: of an epoch.
        seed: of the order of examples and dropout.
        **arguments: further ones.
    """
    steps_per_epoch = -(-num_examples // settings.batch_size)
    every = -(-steps_per_epoch // settings.evaluations_per_epoch)
    return ranking_arguments(
        output_dir,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=round(0.05 * steps_per_epoch * settings.epochs),
        bf16=settings.bf16,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        logging_steps=max(every // 10, 1),
        seed=seed,
        **arguments,
    )


def training_dataset(
    model: PeftModel,
    split: Split,
    prompts: PromptBuilder,
    settings: LaserSettings,
    *,
    max_items: int,
) -> PlacesDataset | PromptDataset:
    """Returns what an adapter learns from: texts that all positions share, where they can.

    Elsewhere every position would be a row of its own in the batch of its history.

    Args:
        model: see :func:`train_laser`.
        split: see there.
        prompts: see there.
        settings: see there.
        max_items: see there.
    """
    if settings.every_prefix:
        together = PlacesDataset(split.train_histories, prompts, max_items=max_items)
        sizes, num_ending = together.longest(), len(prompts.ending)
        if not is_compiled(model) and model.can_share_texts(*sizes, num_ending=num_ending):
            return together
    examples = split.training_examples(every_prefix=settings.every_prefix)
    return PromptDataset(examples, prompts, max_items=max_items)
