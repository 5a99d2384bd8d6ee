r"""Times one full-softmax training epoch of our SASRec against RecTools', in turns, in one process.

    pip install -e ".[rectools]"
    python examples/benchmarks/sasrec_epoch.py --users 2000 --repeats 3
    python examples/benchmarks/sasrec_epoch.py --interactions interactions.csv.gz

Without ``--interactions`` the log is generated, of the shape of Amazon Beauty: 22,363 users with 5
events or more, 12,101 items, about 198,500 events. Both read the same training histories (the last
two events of everyone are held out), 50 positions, the same width, blocks, heads, dropout and
users a step, float32, and score the same number of items: those that training does not read are
rows in RecTools' table too. Every epoch is the first one of a fresh model.

What is timed is each trainer's own epoch, from its begin to its end: batches, forward, loss,
backward and optimizer. Reading and preparing the log, building the model, evaluation and
checkpoints are outside; ``call`` is the whole call with them. On a machine that others use too, the
seconds of processors say more than those by the wall.
"""

import argparse
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from io import StringIO
from unittest.mock import patch

import numpy as np
import pandas as pd
import polars as pl
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator
from transformers import Trainer, TrainerCallback

import laser_peft
from laser_peft.data import Catalogue, Histories, Split, leave_one_out, read_interactions
from laser_peft.training import SASRecSettings, train_sasrec

BEAUTY_USERS, BEAUTY_ITEMS = 22_363, 12_101
POSITIONS, DROPOUT, LEARNING_RATE = 50, 0.2, 1e-3
PACKAGES = ("torch", "transformers", "rectools", "pytorch-lightning", "numpy")


class Clock:
    """Takes the time of an epoch, by the wall and of this process's processors, in seconds."""

    wall = processor = 0.0

    def start(self) -> None:
        """An epoch begins."""
        self.began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """An epoch ends."""
        self.wall = time.perf_counter() - self.began[0]
        self.processor = time.process_time() - self.began[1]


class OurClock(TrainerCallback):
    """Reads the clock where transformers' Trainer begins and ends an epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """Starts it."""
        self.clock.start()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stops it, at last after the last step: before the evaluation and the checkpoint."""
        self.clock.stop()


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


@contextmanager
def clocked_trainer(clock: Clock) -> Iterator[None]:
    """Puts the clock into every Trainer that is made inside."""
    original = Trainer.__init__

    def init(self: Trainer, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        self.add_callback(OurClock(clock))

    with patch.object(Trainer, "__init__", init):
        yield


def make_histories(random: np.random.Generator) -> Histories:
    """Draws a log of Beauty's shape: long tails of users and of items, nothing had twice."""
    lengths = 5 + np.minimum(random.lognormal(0.75, 1.2, BEAUTY_USERS), 195).astype(np.int64)
    popularity = random.lognormal(0.0, 1.0, BEAUTY_ITEMS)
    popularity /= popularity.sum()
    items = [
        random.choice(BEAUTY_ITEMS, length, replace=False, p=popularity) + 1 for length in lengths
    ]
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Histories(np.concatenate(items), offsets, [str(user) for user in range(BEAUTY_USERS)])


def read_histories(path: str, time_column: str) -> tuple[Histories, int]:
    """Reads a log's histories, and how many items are in it; those are the catalogue."""
    log = read_interactions(path, time_column=time_column or None)
    catalogue = Catalogue(log.select(pl.col("item_id").unique(maintain_order=True)))
    return Histories.from_interactions(log, catalogue), len(catalogue)


def draw_users(split: Split, count: int | None, random: np.random.Generator) -> Split:
    """Keeps some users to train on, and one to validate on: evaluation is not what is timed."""
    histories = split.train_histories
    if count is not None and count < len(histories):
        histories = [histories[user] for user in random.permutation(len(histories))[:count]]
    return replace(split, train_histories=histories, validation=split.validation[:1])


def our_epoch(split: Split, num_items: int, sizes: argparse.Namespace, seed: int) -> Clock:
    """Trains our SASRec for one epoch."""
    clock = Clock()
    settings = SASRecSettings(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.heads,
        dropout=DROPOUT,
        epochs=1,
        batch_size=sizes.batch_size,
        learning_rate=LEARNING_RATE,
    )
    with tempfile.TemporaryDirectory() as folder, clocked_trainer(clock):
        train_sasrec(split, num_items, folder, settings, max_items=POSITIONS, seed=seed)
    return clock


def their_dataset(split: Split) -> Dataset:
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


def with_all_items(split: Split, num_items: int) -> type[SASRecDataPreparator]:
    """Returns a preparator whose table also has the items that training does not read."""
    read = [history[-(POSITIONS + 1) :] for history in split.train_histories if len(history) > 1]
    present = np.unique(np.concatenate(read))
    absent = np.setdiff1d(np.arange(1, num_items + 1), present)

    class AllItems(SASRecDataPreparator):
        item_extra_tokens = ("PAD", *(f"absent {item}" for item in absent))

    return AllItems


def their_epoch(
    dataset: Dataset,
    preparator: type[SASRecDataPreparator],
    num_items: int,
    sizes: argparse.Namespace,
    seed: int,
) -> Clock:
    """Trains RecTools' SASRec for one epoch, without logging, checkpoints and progress."""
    lightning.seed_everything(seed, verbose=False)
    model = SASRecModel(
        n_factors=sizes.width,
        n_blocks=sizes.blocks,
        n_heads=sizes.heads,
        dropout_rate=DROPOUT,
        session_max_len=POSITIONS,
        batch_size=sizes.batch_size,
        loss="softmax",
        lr=LEARNING_RATE,
        data_preparator_type=preparator,
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
    model.fit(dataset)
    rows = model.torch_model.item_model.n_items
    if rows != num_items + 1:
        raise ValueError(f"RecTools scored {rows - 1} items, and {num_items} were meant")
    # fit() trains with a copy of the trainer, clock and all.
    return next(c.clock for c in model.fit_trainer.callbacks if isinstance(c, TheirClock))


def measure(epoch: Callable[[int], Clock], seed: int) -> tuple[Clock, float]:
    """Returns the epoch's clock and the seconds of the whole call; hides what the call prints."""
    started = time.perf_counter()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        clock = epoch(seed)
    return clock, time.perf_counter() - started


def summary(name: str, values: Sequence[float], unit: str) -> str:
    """Writes a median and its spread."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{name:26} median {middle:.2f}{unit} ({low:.2f} to {high:.2f})"


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", help="a log to read instead of the generated one")
    parser.add_argument("--time-column", default="timestamp", help="'' if rows are in order")
    parser.add_argument("--users", type=int, help="train on so many, drawn at random")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    random = np.random.default_rng(arguments.seed)
    if arguments.interactions:
        histories, num_items = read_histories(arguments.interactions, arguments.time_column)
    else:
        histories, num_items = make_histories(random), BEAUTY_ITEMS
    everyone = leave_one_out(histories)
    split = draw_users(everyone, arguments.users, random)
    dataset, preparator = their_dataset(split), with_all_items(split, num_items)
    others = [f"{name} {version(name)}" for name in PACKAGES]
    print(", ".join([f"laser_peft {laser_peft.__version__}", *others]))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} used")
    print(
        f"{len(split.train_histories)} of {len(everyone.train_histories)} users, {num_items} "
        f"items, {split.num_training_pairs} training pairs; {arguments.width} wide, "
        f"{arguments.blocks} blocks, {arguments.heads} heads, {POSITIONS} positions, "
        f"{arguments.batch_size} users a step"
    )
    epochs = {
        "ours": partial(our_epoch, split, num_items, arguments),
        "RecTools": partial(their_epoch, dataset, preparator, num_items, arguments),
    }
    few = draw_users(split, 2 * arguments.batch_size, random)
    rows = with_all_items(few, num_items)
    # What happens once a process is not what is timed.
    measure(partial(our_epoch, few, num_items, arguments), 0)
    measure(partial(their_epoch, their_dataset(few), rows, num_items, arguments), 0)
    clocks: dict[str, list[Clock]] = {name: [] for name in epochs}
    for repeat in range(arguments.repeats):
        for name, epoch in epochs.items():
            clock, call = measure(epoch, arguments.seed + repeat)
            clocks[name].append(clock)
            print(
                f"{repeat + 1} {name:8}  epoch {clock.wall:.2f} s, of processors "
                f"{clock.processor:.2f} s; call {call:.2f} s"
            )
    for kind in ("wall", "processor"):
        ours, theirs = ([getattr(clock, kind) for clock in clocks[name]] for name in epochs)
        print(summary(f"{kind:9}  ours", ours, " s"))
        print(summary(f"{kind:9}  RecTools", theirs, " s"))
        ratios = [second / first for first, second in zip(ours, theirs, strict=True)]
        print(summary(f"{kind:9}  RecTools / ours", ratios, "x"))


if __name__ == "__main__":
    main()
