"""One history per user, and the leave-one-out split of it.

Leave-one-out: a user's last item is the test target, the one before it the validation target, the
rest is for training. The test history includes the validation item.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from .catalogue import Catalogue
from .interactions import ITEM, USER


class Histories(Sequence[np.ndarray]):
    """Ragged histories of dense item ids, oldest first, in one flat array.

    Args:
        items: ``(events,)`` int64 dense ids, user after user.
        offsets: ``(users + 1,)`` int64; user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``.
        user_ids: the users' own ids.
        times: ``(events,)`` float64 seconds, one an item; None where the log has no times.
    """

    def __init__(
        self,
        items: np.ndarray,
        offsets: np.ndarray,
        user_ids: Sequence[str],
        times: np.ndarray | None = None,
    ) -> None:
        self.items = items
        self.offsets = offsets
        self.user_ids = user_ids
        self.times = times

    @classmethod
    def from_interactions(cls, interactions: pl.DataFrame, catalogue: Catalogue) -> "Histories":
        """Groups what :func:`.interactions.read_interactions` returned.

        Raises:
            ValueError: if the log names an item that the catalogue does not have.
        """
        items = np.asarray(catalogue.dense_ids(interactions[ITEM].to_list()), dtype=np.int64)
        users = interactions[USER].rle().struct.unnest()
        offsets = np.concatenate([[0], users["len"].to_numpy().cumsum()]).astype(np.int64)
        return cls(items, offsets, users["value"].to_list())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= user < len(self):
            raise IndexError(f"user {user} of {len(self)}")
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[user] for user in range(len(self)))


@dataclass(frozen=True)
class Example:
    """What was known of a user, and what came next."""

    history: np.ndarray  # (L,) int64 dense ids, oldest first
    target: int  # dense id
    user: int  # whose, as a place in the Histories


@dataclass(frozen=True)
class Split:
    """What to learn from, and what to choose and to judge by."""

    train_histories: list[np.ndarray]  # one a user of the log, without the held-out items
    validation: list[Example]
    test: list[Example]

    @property
    def num_training_pairs(self) -> int:
        """How many items follow another within the training part."""
        return sum(max(len(history) - 1, 0) for history in self.train_histories)

    def training_examples(self, *, every_prefix: bool) -> list[Example]:
        """Returns what to learn from.

        Args:
            every_prefix: one example for every item that follows another; else one a user, the
                last item of the training part.
        """
        return [
            Example(history[:place], int(history[place]), user)
            for user, history in enumerate(self.train_histories)
            for place in range(1 if every_prefix else max(len(history) - 1, 1), len(history))
        ]


def leave_one_out(histories: Histories) -> Split:
    """Splits every user's history.

    Raises:
        ValueError: if no user has three events or more.
    """
    train, validation, test = [], [], []
    for user, history in enumerate(histories):
        if len(history) < 3:
            train.append(history)
            continue
        train.append(history[:-2])
        validation.append(Example(history[:-2], int(history[-2]), user))
        test.append(Example(history[:-1], int(history[-1]), user))
    if not test:
        raise ValueError(
            f"leave-one-out needs users with at least 3 events, and none of {len(histories)} has; "
            "is the user column the right one?"
        )
    return Split(train, validation, test)
