"""Item vectors computed once, and again when something that they are made of has changed.

Axes: N items in the catalogue, R recommendation width.
"""

from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from laser_peft.eval_mode import in_eval_mode

ROWS_AT_A_TIME = 2**18  # of vectors that are computed, whose parts are copied together
ROWS_COMPARED = 16
SAME = 2**-7  # of a vector's length: bfloat16 rounds to 2**-9 of it


class _Source(NamedTuple):
    """A tensor as it was: kept, so that no other can come to lie at its address."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Source":
        return cls(tensor.detach(), 0 if tensor.is_inference() else tensor._version)

    def same_as(self, other: "_Source") -> bool:
        mine, theirs = self.tensor, other.tensor
        return (
            self.version == other.version
            and mine.data_ptr() == theirs.data_ptr()
            and mine.shape == theirs.shape
            and mine.dtype == theirs.dtype
            and mine.device == theirs.device
        )


class VectorCache:
    """The item vectors of a model's active adapter.

    A change is seen where torch counts it (optimizers, ``load_state_dict``, moving a model, any
    operation in place); it does not count writing through ``.data`` of a tensor.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        vectors: ``(N, R)`` float that were computed before, maybe of lower precision or mapped
            from a file; None: they are computed here.

    Raises:
        ValueError: if such vectors are not those of the adapter.
    """

    def __init__(self, model: PeftModel, vectors: Tensor | None = None) -> None:
        self._model = model
        self._adapter: str | None = None
        self._sources: list[_Source] = []
        self._vectors = torch.empty(0, 0)
        if vectors is not None:
            _check_made_by(model, vectors)
            self._keep(vectors)

    def vectors(self) -> Tensor:
        """Returns the ``(N, R)`` vectors, without gradients; not to be written to."""
        adapter = self._model.active_adapter
        if adapter != self._adapter or not _all_same(self._current_sources(), self._sources):
            self._keep(_computed(self._model))
        return self._vectors

    def grow(self) -> Tensor:
        """Adds the vectors of items that were added since; those of the others stay.

        Returns:
            What :meth:`vectors` does.
        """
        added = _computed(self._model, first=len(self._vectors)).to(self._vectors.dtype)
        self._keep(torch.cat([self._vectors, added]))
        return self._vectors

    def _keep(self, vectors: Tensor) -> None:
        self._vectors = vectors
        self._adapter, self._sources = self._model.active_adapter, self._current_sources()

    def _current_sources(self) -> list[_Source]:
        """Lists every tensor that the item vectors are made of."""
        tuner = self._model.base_model
        adapter = tuner.layer.bituning_adapters[self._model.active_adapter]
        tensors = [*adapter.items.buffers()]
        if adapter.config.item_vectors == "fused":
            tensors.append(adapter.view_weights)
        encoder = tuner.collaborative_encoder
        if encoder is not None:
            tensors.append(encoder.get_input_embeddings().weight)
        return [_Source.of(tensor) for tensor in tensors]


def _computed(model: PeftModel, first: int = 0) -> Tensor:
    """Computes the vectors of items from one on, part by part where they are many."""
    num_items = model.base_model.num_items
    if num_items - first <= ROWS_AT_A_TIME:
        return _rows(model, slice(first, None))
    vectors: Tensor | None = None
    for start in range(first, num_items, ROWS_AT_A_TIME):
        part = _rows(model, slice(start, start + ROWS_AT_A_TIME))
        if vectors is None:
            vectors = part.new_empty(num_items - first, part.size(1))
        vectors[start - first :][: len(part)] = part
    assert vectors is not None
    return vectors


@torch.no_grad()
def _rows(model: PeftModel, rows: slice) -> Tensor:
    """Computes some vectors as they are scored; in training rare items' texts count otherwise."""
    with in_eval_mode(model):
        return model.item_vectors(rows).detach()


def _check_made_by(model: PeftModel, vectors: Tensor) -> None:
    """Makes sure that ``(N, R)`` vectors are the adapter's, as far as some rows of them tell."""
    num_items = model.base_model.num_items
    row = _rows(model, slice(0, 1))
    if vectors.shape != (num_items, row.size(1)) or not vectors.is_floating_point():
        raise ValueError(
            f"the stored item vectors are {vectors.dtype} of shape {tuple(vectors.shape)}, and the "
            f"adapter's are {num_items} of width {row.size(1)}; save the recommender again"
        )
    for place in range(0, num_items, max(num_items // ROWS_COMPARED, 1)):
        own = _rows(model, slice(place, place + 1))
        stored = vectors[place : place + 1].to(own)
        if not (own - stored).norm() <= SAME * own.norm():
            raise ValueError(
                f"the stored vector of item {place + 1} is not the one that the adapter makes; "
                "save the recommender again"
            )


def _all_same(sources: list[_Source], others: list[_Source]) -> bool:
    return len(sources) == len(others) and all(
        one.same_as(other) for one, other in zip(sources, others, strict=True)
    )
