r"""Times one training epoch of our SASRec against those of its peers, in turns, in one process.

    python examples/benchmarks/sasrec_epoch.py --users 1000 --rounds 3
    python examples/benchmarks/sasrec_epoch.py --interactions interactions.csv.gz --only ours
    pip install -e ".[rectools]"     # for the row of RecTools

Without ``--interactions`` the log is generated, of the shape of Amazon Beauty: 22,363 users with 5
events or more, 12,101 items, about 198,500 events. All read the same training histories (the last
two events of everyone are held out), 50 positions, the same width, blocks, heads and dropout,
float32. Ours, RecTools and RecBole's scheme score the whole catalogue, the binary loss two items a
position; a step is so many users, of RecBole's scheme 2,048 targets, as is its own default. Ours
leaves no items out here, so that all learn the same pairs, unless ``--item-dropout`` says so; that
only makes the epoch shorter. Every epoch is the first one of a fresh model.

What is timed is each trainer's own epoch, from its begin to its end: batches, forward, loss,
backward and optimizer. Reading and preparing the log, building the model, evaluation and
checkpoints are outside. On a machine that others use too, the seconds of processors say more than
those by the wall.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import polars as pl
from interleaved import Clock, Seconds, Variant, common_parser, finish, in_turns, start
from sasrec_plain import binary_epoch, targets_epoch
from transformers import TrainerCallback, set_seed

from laser_peft import SASRecModel
from laser_peft.data import Catalogue, Histories, Split, leave_one_out, read_interactions
from laser_peft.training import SASRecSettings
from laser_peft.training.sasrec import sasrec_trainer

BEAUTY_USERS, BEAUTY_ITEMS = 22_363, 12_101
POSITIONS, DROPOUT = 50, 0.2
PEERS = ("ours", "binary", "RecBole's", "RecTools")


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


def our_epoch(
    split: Split, num_items: int, seed: int, *, batch_size: int, item_dropout: float, **sizes: Any
) -> Clock:
    """Trains our SASRec for one epoch."""
    clock = Clock()
    settings = SASRecSettings(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["blocks"],
        num_attention_heads=sizes["heads"],
        dropout=sizes["dropout"],
        epochs=1,
        batch_size=batch_size,
        item_dropout=item_dropout,
    )
    set_seed(seed)
    model = SASRecModel(settings.model_config(num_items=num_items, max_items=POSITIONS))
    with tempfile.TemporaryDirectory() as folder:
        sasrec_trainer(
            model,
            split,
            num_items,
            folder,
            settings,
            max_items=POSITIONS,
            callbacks=[OurClock(clock)],
            seed=seed,
        ).train()
    return clock


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
    catalogue = Catalogue(pl.DataFrame({"item_id": log.item_ids}))
    return Histories.from_interactions(log, catalogue), len(catalogue)


def draw_users(split: Split, count: int | None, random: np.random.Generator) -> Split:
    """Keeps some users to train on, and one to validate on: evaluation is not what is timed."""
    histories = split.train_histories
    if count is not None and count < len(histories):
        histories = [histories[user] for user in random.permutation(len(histories))[:count]]
    return replace(split, train_histories=histories, validation=split.validation[:1])


def epochs_of(
    split: Split, num_items: int, arguments: argparse.Namespace
) -> dict[str, Callable[[int], Clock]]:
    """Returns, by name, what trains for an epoch with a seed; without RecTools if it is missing."""
    sizes: dict[str, Any] = {
        "positions": POSITIONS,
        "width": arguments.width,
        "blocks": arguments.blocks,
        "heads": arguments.heads,
        "dropout": DROPOUT,
    }
    users = {"batch_size": arguments.batch_size}
    histories = split.train_histories
    epochs: dict[str, Callable[[int], Clock]] = {
        "ours": partial(
            our_epoch, split, num_items, item_dropout=arguments.item_dropout, **users, **sizes
        ),
        "binary": partial(binary_epoch, histories, num_items, **users, **sizes),
        "RecBole's": partial(
            targets_epoch, histories, num_items, feed_forward=arguments.feed_forward, **sizes
        ),
    }
    if find_spec("rectools"):
        from sasrec_rectools import rectools_epoch

        epochs["RecTools"] = partial(rectools_epoch, split, num_items, **users, **sizes)
    return {name: epoch for name, epoch in epochs.items() if name in arguments.only}


def taken_by(epoch: Callable[[int], Clock], seed: int) -> Variant:
    """Makes a variant of an epoch: each round has a seed of its own, and hides what it prints."""

    def run(place: int) -> Seconds:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return epoch(seed + place).taken

    return run


def rectools_version() -> str:
    """Returns RecTools with its version, or how its row is missing."""
    try:
        return f"rectools {version('rectools')}"
    except PackageNotFoundError:
        return 'no rectools (pip install -e ".[rectools]")'


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument("--interactions", help="a log to read instead of the generated one")
    parser.add_argument("--time-column", default="timestamp", help="'' if rows are in order")
    parser.add_argument("--users", type=int, help="train on so many, drawn at random")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, help="who takes turns")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument(
        "--feed-forward", type=int, default=64, help="of RecBole's blocks; 256 is its own default"
    )
    parser.add_argument("--batch-size", type=int, default=128, help="users a step")
    parser.add_argument("--item-dropout", type=float, default=0.0, help="of ours")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    arguments = parse()
    start(arguments)
    warnings.simplefilter("ignore")
    random = np.random.default_rng(arguments.seed)
    if arguments.interactions:
        histories, num_items = read_histories(arguments.interactions, arguments.time_column)
    else:
        histories, num_items = make_histories(random), BEAUTY_ITEMS
    everyone = leave_one_out(histories)
    split = draw_users(everyone, arguments.users, random)
    print(
        f"{rectools_version()}; {len(split.train_histories)} of {len(everyone.train_histories)} "
        f"users, {num_items} items, {split.num_training_pairs} training pairs"
    )
    few = draw_users(split, 2 * arguments.batch_size, random)
    for epoch in epochs_of(few, num_items, arguments).values():
        taken_by(epoch, 0)(0)  # what happens once a process is not what is timed
    variants = {
        name: taken_by(epoch, arguments.seed)
        for name, epoch in epochs_of(split, num_items, arguments).items()
    }
    taken = in_turns(variants, arguments.rounds, warm_up=0)
    finish(arguments, taken, next(iter(taken)), "epoch")


if __name__ == "__main__":
    main()
