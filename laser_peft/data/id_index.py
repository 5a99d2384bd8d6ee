"""Finds the rows of ids: 12 bytes an item, where a dictionary of texts takes some 150."""

import numpy as np
import polars as pl

FEW = 64  # ids, up to which they are compared one by one


class IdIndex:
    """Which row each id stands in, by sorted hashes.

    Args:
        ids: ``(N,)`` texts without nulls, fewer than 2**32.
    """

    def __init__(self, ids: pl.Series) -> None:
        self.ids = ids
        hashes = ids.hash().to_numpy()
        rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[rows]  # (N,) uint64, rising
        self._rows = rows.astype(np.uint32)

    def has_repeats(self) -> bool:
        """Says whether an id stands in two rows."""
        equal = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if not len(equal):
            return False
        rows = np.unique(self._rows[np.concatenate([equal, equal + 1])])
        return bool(self.ids.gather(rows).is_duplicated().any())

    def rows(self, ids: pl.Series) -> np.ndarray:
        """Looks ids up.

        Args:
            ids: ``(n,)`` texts without nulls.

        Returns:
            ``(n,)`` int64 rows from 0, -1 of what is in none.
        """
        hashes = ids.hash().to_numpy()
        found = np.full(len(ids), -1, dtype=np.int64)
        # Neighbours in the order of their hashes are near each other in memory.
        open_ids = np.argsort(hashes)
        places = np.searchsorted(self._hashes, hashes[open_ids])
        while len(open_ids):  # more than once only where two ids share a hash
            there = places < len(self._hashes)
            there[there] = self._hashes[places[there]] == hashes[open_ids[there]]
            open_ids, places = open_ids[there], places[there]
            rows = self._rows[places]
            same = self._are(rows, ids, open_ids)
            found[open_ids[same]] = rows[same]
            open_ids, places = open_ids[~same], places[~same] + 1
        return found

    def extended(self, more: pl.Series, ids: pl.Series) -> "IdIndex":
        """Returns an index of further ids too, at the cost of one copy.

        Args:
            more: the further ids, in the rows behind those there are.
            ids: all of them.
        """
        other, added = IdIndex.__new__(IdIndex), IdIndex(more)
        places = np.searchsorted(self._hashes, added._hashes)
        other.ids = ids
        other._hashes = np.insert(self._hashes, places, added._hashes)
        other._rows = np.insert(self._rows, places, added._rows + np.uint32(len(self.ids)))
        return other

    def _are(self, rows: np.ndarray, ids: pl.Series, places: np.ndarray) -> np.ndarray:
        """Says whether in ``(n,)`` rows are the ids of ``(n,)`` places."""
        if len(rows) > FEW:
            return (self.ids.gather(rows) == ids.gather(places)).to_numpy()
        pairs = zip(rows.tolist(), places.tolist(), strict=True)
        return np.array([self.ids[row] == ids[place] for row, place in pairs], dtype=bool)
