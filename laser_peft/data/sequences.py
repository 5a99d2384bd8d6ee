"""One history per user in flat arrays, and what a split of them makes: examples, seen lazily.

No Python object is kept for an event or an example; each is made when it is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import overload

import numpy as np

from .catalogue import Catalogue
from .interactions import Interactions


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
    def from_interactions(cls, log: Interactions, catalogue: Catalogue) -> "Histories":
        """Groups what :func:`.interactions.read_interactions` returned.

        Raises:
            ValueError: if the log names an item that the catalogue does not have.
        """
        dense = catalogue.dense_array(log.item_ids)
        lengths = np.bincount(log.users, minlength=len(log.user_ids))
        return cls(dense[log.items], _offsets(lengths), log.user_ids.to_list(), log.times)

    def where(self, keep: np.ndarray) -> "Histories":
        """Returns the same users with those events only where ``keep (events,)`` is True."""
        before = np.concatenate([[0], np.cumsum(keep)])
        times = None if self.times is None else self.times[keep]
        return Histories(self.items[keep], before[self.offsets], self.user_ids, times)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, user: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, user: slice) -> list[np.ndarray]: ...
    def __getitem__(self, user: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(user, slice):
            return [self[place] for place in range(*user.indices(len(self)))]
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


class Examples(Sequence[Example]):
    """Events as targets, each with all that its user had before it.

    Args:
        histories: whose events they are.
        users: ``(examples,)`` int64 places in the histories.
        targets: ``(examples,)`` int64 places in ``histories.items``.
    """

    def __init__(self, histories: Histories, users: np.ndarray, targets: np.ndarray) -> None:
        self.histories = histories
        self.users = users
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> "Examples": ...
    def __getitem__(self, place: int | slice) -> "Example | Examples":
        if isinstance(place, slice):
            return Examples(self.histories, self.users[place], self.targets[place])
        user, target = int(self.users[place]), int(self.targets[place])
        items = self.histories.items
        history = items[self.histories.offsets[user] : target]
        return Example(history, int(items[target]), user)

    def __iter__(self) -> Iterator[Example]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True)
class Split:
    """What to learn from, and what to choose and to judge by.

    Args:
        train_histories: one a user of the log, without the held-out items; may be empty.
        validation: what chooses.
        test: what judges.
        left_out: how many users or events have no place in the three, by reason.
    """

    train_histories: Sequence[np.ndarray]
    validation: Sequence[Example]
    test: Sequence[Example]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_training_pairs(self) -> int:
        """How many items follow another within the training part."""
        lengths = np.diff(self.training.offsets)
        return int(np.maximum(lengths - 1, 0).sum())

    def training_examples(self, *, every_prefix: bool) -> Examples:
        """Returns what to learn from.

        Args:
            every_prefix: one example for every item that follows another; else one a user, the
                last item of the training part.
        """
        histories = self.training
        starts, ends = histories.offsets[:-1], histories.offsets[1:]
        if not every_prefix:
            users = np.flatnonzero(ends - starts > 1)
            return Examples(histories, users, ends[users] - 1)
        follows = np.ones(len(histories.items), dtype=bool)
        follows[starts[ends > starts]] = False
        users = np.repeat(np.arange(len(histories)), ends - starts)
        return Examples(histories, users[follows], np.flatnonzero(follows))

    def before_last(self) -> "Split":
        """Returns the same without each user's last training item, where there are two or more."""
        histories = self.training
        starts, ends = histories.offsets[:-1], histories.offsets[1:]
        keep = np.ones(len(histories.items), dtype=bool)
        keep[ends[ends - starts > 1] - 1] = False
        return replace(self, train_histories=histories.where(keep))

    @cached_property
    def training(self) -> Histories:
        """The training histories in flat arrays."""
        return in_flat_arrays(self.train_histories)


def in_flat_arrays(histories: Sequence[np.ndarray]) -> Histories:
    """Returns histories of dense item ids as one array, which costs nothing if they are so."""
    if isinstance(histories, Histories):
        return histories
    items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
    offsets = _offsets(np.array([len(row) for row in histories], dtype=np.int64))
    return Histories(items, offsets, [str(user) for user in range(len(histories))])


def training_events(train_histories: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Counts how often anyone had each item.

    Returns:
        ``(N + 1,)`` int64 by dense id; place 0 is padding.
    """
    return np.bincount(in_flat_arrays(train_histories).items, minlength=num_items + 1)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
