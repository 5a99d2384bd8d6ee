"""Item vectors computed once, and again when something that they are made of has changed.

Axes: N items in the catalogue, R recommendation width.
"""

from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor


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
    """

    def __init__(self, model: PeftModel) -> None:
        self._model = model
        self._adapter: str | None = None
        self._sources: list[_Source] = []
        self._vectors = torch.empty(0, 0)

    def vectors(self) -> Tensor:
        """Returns the ``(N, R)`` vectors, without gradients; not to be written to."""
        adapter, sources = self._model.active_adapter, self._current_sources()
        if adapter != self._adapter or not _all_same(sources, self._sources):
            with torch.no_grad():
                self._vectors = self._model.item_vectors().detach()
            self._adapter, self._sources = adapter, sources
        return self._vectors

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


def _all_same(sources: list[_Source], others: list[_Source]) -> bool:
    return len(sources) == len(others) and all(
        one.same_as(other) for one, other in zip(sources, others, strict=True)
    )
