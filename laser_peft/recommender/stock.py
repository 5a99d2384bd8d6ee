"""The vectors of all items, the shelf they stand on, and an index over them.

Axes: N items in the catalogue, R recommendation width.
"""

import warnings

import numpy as np
from peft import PeftModel
from torch import Tensor

from .approximate import FaissIndex
from .best import Shelf
from .vector_cache import VectorCache


class Stock:
    """What a recommender has to offer.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        vectors: ``(N, R)`` float that were computed before; see :class:`VectorCache`.

    Raises:
        ValueError: if such vectors are not those of the adapter.
    """

    def __init__(self, model: PeftModel, vectors: Tensor | None = None) -> None:
        self._cache = VectorCache(model, vectors)
        self._whole_shelf: Shelf | None = None
        self._index: FaissIndex | None = None

    @property
    def vectors(self) -> Tensor:
        """``(N, R)`` as they are now; not to be written to."""
        return self._cache.vectors()

    def use_index(self, factory: str | None, parameters: str | None) -> None:
        """Makes an index of the vectors; see :class:`FaissIndex`. None: there is none any more."""
        made = None if factory is None else FaissIndex(self.vectors, factory, parameters)
        self._index = made

    @property
    def index(self) -> tuple[str, str | None] | None:
        """Factory and parameters of the index; None: there is none."""
        return None if self._index is None else (self._index.factory, self._index.parameters)

    def grow(self, known: Tensor) -> None:
        """Takes in the items that the adapter has just been given, and puts them into the index.

        Args:
            known: :attr:`vectors` as they were before that.
        """
        self._whole_shelf = None  # which holds the old vectors
        grown = self._cache.grow()
        if self._index is not None and self._index.vectors is known:
            self._index.add(grown)

    def shelf(self, allowed: np.ndarray | None) -> Shelf:
        """Returns what may be recommended.

        Args:
            allowed: ``(N,)`` bool; None: all, on a shelf that is kept with what it finds out.
        """
        vectors = self.vectors
        index = self._current_index(vectors)
        if allowed is not None:
            return Shelf.of(vectors, allowed, index)
        kept = self._whole_shelf
        if kept is None or kept.vectors is not vectors or kept.index is not index:
            kept = self._whole_shelf = Shelf(vectors, index=index)
        return kept

    def _current_index(self, vectors: Tensor) -> FaissIndex | None:
        if self._index is not None and self._index.vectors is not vectors:
            warnings.warn(
                "the item vectors have changed since the index was made, and every item is looked "
                "at again; call use_index once more",
                stacklevel=5,
            )
            self._index = None
        return self._index
