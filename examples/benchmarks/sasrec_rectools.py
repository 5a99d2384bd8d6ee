"""RecTools' SASRec for one epoch; importing this needs ``pip install -e ".[rectools]"``."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
from interleaved import Clock
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

from laser_peft.data import Split

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class TheirClock(lightning.Callback):
    """Reads the clock where Lightning begins and ends an epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts it."""
        self.clock.start()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stops it."""
        self.clock.stop()


def rectools_epoch(
    split: Split, num_items: int, seed: int, *, batch_size: int, **sizes: Any
) -> Clock:
    """Trains RecTools' SASRec for one epoch, without logging, checkpoints and progress.

    Args:
        split: whose training histories are learnt from.
        num_items: N; all are scored, those too that training does not read.
        seed: of everything that is drawn.
        batch_size: users a step.
        **sizes: ``positions``, ``width``, ``blocks``, ``heads``, ``dropout``.

    Raises:
        ValueError: if another number of items was scored.
    """
    lightning.seed_everything(seed, verbose=False)
    model = SASRecModel(
        n_factors=sizes["width"],
        n_blocks=sizes["blocks"],
        n_heads=sizes["heads"],
        dropout_rate=sizes["dropout"],
        session_max_len=sizes["positions"],
        batch_size=batch_size,
        loss="softmax",
        lr=1e-3,
        data_preparator_type=_with_all_items(split, num_items, sizes["positions"]),
        get_trainer_func=lambda: lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[TheirClock(Clock())],
        ),
    )
    model.fit(_dataset(split))
    rows = model.torch_model.item_model.n_items
    if rows != num_items + 1:
        raise ValueError(f"RecTools scored {rows - 1} items, and {num_items} were meant")
    # fit() trains with a copy of the trainer, clock and all.
    return next(c.clock for c in model.fit_trainer.callbacks if isinstance(c, TheirClock))


def _dataset(split: Split) -> Dataset:
    """Gives the training histories to RecTools, in order of time."""
    histories = split.train_histories
    lengths = [len(history) for history in histories]
    days = np.concatenate([np.arange(length) for length in lengths])
    frame = {
        Columns.User: np.repeat(np.arange(len(histories)), lengths),
        Columns.Item: np.concatenate(histories),
        Columns.Weight: 1.0,
        Columns.Datetime: pd.Timestamp(2024, 1, 1) + pd.to_timedelta(days, unit="D"),
    }
    return Dataset.construct(pd.DataFrame(frame))


def _with_all_items(split: Split, num_items: int, positions: int) -> type[SASRecDataPreparator]:
    """Returns a preparator whose table also has the items that training does not read."""
    read = [history[-(positions + 1) :] for history in split.train_histories if len(history) > 1]
    absent = np.setdiff1d(np.arange(1, num_items + 1), np.unique(np.concatenate(read)))

    class AllItems(SASRecDataPreparator):
        item_extra_tokens = ("PAD", *(f"absent {item}" for item in absent))

    return AllItems
