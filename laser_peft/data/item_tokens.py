"""Tokens of many items: made when an item is first asked for, kept in one flat array.

Python lists of the tokens of a million short titles take some 500 MB, and tokenising them takes
most of a minute, though few of them may ever be named by a history.
"""

import threading
from array import array
from collections.abc import Callable

import numpy as np

AT_ONCE = 4096  # items, whose tokens are Python lists for a moment
# Says rows of a catalogue, ``(n,)`` int64 from 0, in tokens.
Tokenise = Callable[[np.ndarray], list[list[int]]]
# One for all, and of the module: what holds a lock cannot be sent to a worker's process.
_LOCK = threading.Lock()


class ItemTokens:
    """The tokens of items by dense id; those of id 0, padding, are none.

    Args:
        tokenise: says rows of the catalogue.
        num_items: how many rows it has.
        longest: of an item that has more tokens the rest is cut.
    """

    def __init__(self, tokenise: Tokenise, num_items: int, longest: int) -> None:
        self._tokenise = tokenise
        self._longest = longest
        self._flat = array("i")
        self._starts = np.full(num_items + 1, -1, dtype=np.int64)  # -1: not tokenised
        self._lengths = np.zeros(num_items + 1, dtype=np.int32)
        self._starts[0] = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, item: int) -> list[int]:
        """Returns the tokens of an item that is ready."""
        start = self._starts[item]
        return self._flat[start : start + self._lengths[item]].tolist()

    def get_ready(self, items: np.ndarray) -> int:
        """Tokenises those of ``(n,)`` dense ids that are not yet; returns how many were cut.

        Raises:
            IndexError: if an id is none of the catalogue.
        """
        if (self._starts[items] >= 0).all():
            return 0
        with _LOCK:
            items = np.unique(items)
            items = items[self._starts[items] < 0]
            return sum(
                self._put(items[start : start + AT_ONCE]) for start in range(0, len(items), AT_ONCE)
            )

    def with_more(self, tokens: list[list[int]]) -> "ItemTokens":
        """Returns the tokens of a catalogue that has further items, of these tokens, behind."""
        num_known = len(self) - 1
        more = ItemTokens(lambda rows: [tokens[row - num_known] for row in rows], 0, self._longest)
        with _LOCK:
            more._flat = self._flat[:]
            added = np.zeros(len(tokens), dtype=np.int32)
            more._starts = np.concatenate([self._starts, added - 1])
            more._lengths = np.concatenate([self._lengths, added])
        more.get_ready(np.arange(len(self), len(more)))
        more._tokenise = self._tokenise
        return more

    def _put(self, items: np.ndarray) -> int:
        said = self._tokenise(items - 1)
        lengths = np.array([min(len(tokens), self._longest) for tokens in said], dtype=np.int32)
        starts = len(self._flat) + np.cumsum(lengths, dtype=np.int64) - lengths
        for tokens in said:
            self._flat.extend(tokens[: self._longest])
        self._lengths[items] = lengths
        self._starts[items] = starts  # last: what has a start is whole
        return sum(len(tokens) > self._longest for tokens in said)
