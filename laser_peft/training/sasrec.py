"""Trains the SASRec that an adapter reads."""

from dataclasses import dataclass
from pathlib import Path

from transformers import EarlyStoppingCallback, set_seed

from laser_peft.collaborative import SASRecConfig, SASRecModel
from laser_peft.data import Split

from .datasets import HistoryDataset, NextItemDataset
from .ranking_trainer import RankingTrainer, best_checkpoint_arguments, ranking_arguments
from .settings import check_at_least_one


@dataclass(frozen=True)
class SASRecSettings:
    """How to train a SASRec.

    Args:
        hidden_size: width of item vectors and states.
        num_hidden_layers: blocks.
        num_attention_heads: heads a block.
        dropout: dropout probability.
        epochs: at most so many passes over the users.
        patience: epochs without a better validation NDCG@10 before stopping.
        batch_size: users a step.
        learning_rate: of AdamW, constant.
        weight_decay: of AdamW.
    """

    hidden_size: int = 64
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    dropout: float = 0.4
    epochs: int = 40
    patience: int = 4
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one(self, "epochs", "patience", "batch_size")


def train_sasrec(
    split: Split,
    num_items: int,
    output_dir: str | Path,
    settings: SASRecSettings,
    *,
    max_items: int = 50,
    seed: int = 0,
    resume_from_checkpoint: str | None = None,
) -> SASRecModel:
    """Trains with a full-catalogue softmax and returns the best epoch by validation NDCG@10.

    Args:
        split: what to learn from; validation examples choose the epoch, test ones are not read.
        num_items: items in the catalogue.
        output_dir: folder of the Trainer's checkpoints.
        settings: sizes and schedule.
        max_items: longest history in items; the newest are kept.
        seed: of the initial weights and of the order of users.
        resume_from_checkpoint: a checkpoint folder of an interrupted run.
    """
    set_seed(seed)
    model = SASRecModel(
        SASRecConfig(
            num_items=num_items,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_hidden_layers,
            num_attention_heads=settings.num_attention_heads,
            max_position_embeddings=max_items,
            dropout=settings.dropout,
        )
    )
    args = ranking_arguments(
        output_dir,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=256,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="constant",
        # Not grouped by length: the loss is a mean over a batch's positions, and batches of short
        # histories would give each of their few positions too much weight (docs/lab.md).
        train_sampling_strategy="random",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        seed=seed,
        **best_checkpoint_arguments(),
    )
    trainer = RankingTrainer(
        model,
        args,
        train_dataset=NextItemDataset(split.train_histories, max_items),
        eval_dataset=HistoryDataset(split.validation, max_items),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.patience)],
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return model
