"""The module that Bi-Tuning adds to the language model, one entry per adapter name.

Axes: N items in the catalogue, R recommendation width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter import BiTuningAdapter
from .config import BiTuningConfig
from .encoder import FrozenEncoder, collaborative_states


class ActiveAdapter(NamedTuple):
    """An adapter and the encoder it reads."""

    adapter: BiTuningAdapter
    encoder: FrozenEncoder | None

    @property
    def config(self) -> BiTuningConfig:
        """The adapter's resolved configuration."""
        return self.adapter.config

    def states(
        self,
        *,
        history: Tensor | None,
        history_mask: Tensor | None,
        history_states: Tensor | None,
        like: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Encodes histories; see :func:`collaborative_states`."""
        assert self.config.collaborative_dim is not None, "the configuration is not resolved"
        return collaborative_states(
            self.encoder,
            history,
            history_mask,
            history_states,
            events=self.events(),
            like=like,
            dim=self.config.collaborative_dim,
        )

    def text_queries(
        self, history: Tensor | None, history_mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Reads the item texts of ``(B, L)`` histories up to each item.

        Returns:
            ``(B, L, X)`` float and ``(B, L)`` bool, True where an item is real; None without a
            text skip or without a history.
        """
        reader = self.adapter.text_reader
        if reader is None or history is None:
            return None
        texts = self.adapter.items.texts_of(history)
        mask = _real_items(history, history_mask).to(texts.device)
        return reader(texts, mask), mask

    def newest_text_query(
        self, history: Tensor | None, history_mask: Tensor | None
    ) -> Tensor | None:
        """Reads the item texts of whole ``(B, L)`` histories.

        Returns:
            ``(B, X)`` float, zero where a user has no item; None without a text skip or without a
            history.
        """
        reader = self.adapter.text_reader
        if reader is None or history is None:
            return None
        table = self.adapter.items.of_text()
        mask = _real_items(history, history_mask)
        return reader.read_whole(history.to(table.device), mask.to(table.device), table)

    @property
    def counts_correction(self) -> bool:
        """Whether anything depends on what the head makes of the language model's states."""
        config, adapter = self.config, self.adapter
        is_beside = config.collaborative_skip and adapter.text_reader is not None
        if adapter.training or torch.compiler.is_compiling() or not is_beside:
            return True
        return bool(adapter.view_weights[3] != 0)

    def events(self) -> Tensor | None:
        """Returns ``(N,)`` int64, how often the encoder saw each item; None where none are set."""
        if self.config.item_vectors == "collaborative" or not len(self.adapter.items.events):
            return None
        return self.adapter.items.events

    @property
    def num_items(self) -> int:
        """How many items N are scored; 0 where there are no vectors of any."""
        if self.config.item_vectors != "collaborative":
            return len(self.adapter.items.text)
        return 0 if self.encoder is None else len(self.encoder.item_vectors())

    def item_vectors(self, passed: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Gives the ``(N, R)`` vectors that user vectors are compared with by dot product.

        Args:
            passed: ``(N, R)`` float from outside, in place of the adapter's own.
            rows: of the adapter's own, which of the N. None: all.

        Raises:
            ValueError: if there are none, or those passed have another width.
        """
        vectors = passed
        if vectors is None:
            rarity = self.adapter.view_weights[2] if self.config.item_vectors == "fused" else None
            encoded = self.encoder and self.encoder.item_vectors()
            vectors = self.adapter.items(encoded, rarity, rows)
        elif vectors.ndim != 2 or vectors.size(1) != self.config.recommendation_dim:
            raise ValueError(
                f"item_vectors must have the shape (items, {self.config.recommendation_dim}), "
                f"got {tuple(vectors.shape)}"
            )
        return F.normalize(vectors, dim=-1) if self.config.similarity == "cosine" else vectors


def _real_items(history: Tensor, history_mask: Tensor | None) -> Tensor:
    real = history != 0
    return real if history_mask is None else real & history_mask.to(real.device).bool()


class BiTuningLayer(nn.Module, BaseTunerLayer):
    """Holds the adapters and their frozen encoders by adapter name, as PEFT expects a layer to.

    Names that carry the method's prefix are saved and expected in an adapter's file; the encoders
    of adapters that only refer to theirs therefore live under a name without it.
    """

    adapter_layer_names = ("bituning_adapters",)
    other_param_names = ("bituning_encoders", "referenced_encoders")

    def __init__(self) -> None:
        super().__init__()
        self.bituning_adapters = nn.ModuleDict()
        self.bituning_encoders = nn.ModuleDict()
        self.referenced_encoders = nn.ModuleDict()

    def update_layer(
        self, adapter_name: str, adapter: BiTuningAdapter, encoder: PreTrainedModel | None
    ) -> None:
        """Adds an adapter, with the encoder it reads if it has one."""
        self.bituning_adapters[adapter_name] = adapter
        bundled = adapter.config.bundle_encoder
        encoders, others = self.bituning_encoders, self.referenced_encoders
        if not bundled:
            encoders, others = others, encoders
        for container in (encoders, others):
            if adapter_name in container:
                del container[adapter_name]
        if encoder is not None:
            encoders[adapter_name] = FrozenEncoder(encoder)

    def encoder_of(self, adapter_name: str) -> FrozenEncoder | None:
        """Returns the encoder that an adapter reads, None if it has none."""
        for encoders in (self.bituning_encoders, self.referenced_encoders):
            if adapter_name in encoders:
                return encoders[adapter_name]
        return None

    @property
    def parts(self) -> list[nn.Module]:
        """All adapters and all encoders."""
        containers = (self.bituning_adapters, self.bituning_encoders, self.referenced_encoders)
        return [part for container in containers for part in container.values()]

    @property
    def active(self) -> "ActiveAdapter | None":
        """The adapter that answers calls; None while adapters are disabled or all are deleted."""
        if self.disable_adapters or not self.active_adapters:
            return None
        name = self.active_adapters[0]
        if name not in self.bituning_adapters:
            return None
        return ActiveAdapter(self.bituning_adapters[name], self.encoder_of(name))

    @property
    def weight(self) -> Tensor:
        """Absent: PEFT's default would look for a wrapped layer for ever."""
        raise AttributeError("a BiTuningLayer wraps no layer and has no weight")

    @property
    def bias(self) -> Tensor:
        """Absent, as ``weight`` is."""
        raise AttributeError("a BiTuningLayer wraps no layer and has no bias")
