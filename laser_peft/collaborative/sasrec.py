"""SASRec: a causal transformer over item ids, as a transformers model.

Axes: B users, L items in a history, C width, N items in the catalogue.
Follows Kang & McAuley, "Self-Attentive Sequential Recommendation" (arXiv 1808.09781).

Differs: trained with a softmax over the whole catalogue instead of one sampled negative, because
the binary loss costs a third of the accuracy. Positions count from the oldest item, so a state
depends on the items up to it and on nothing else; blocks are pre-norm. A last linear map, the
identity at first, turns what was read into what may come next: with one table for both, the item
just taken would score highest after itself (docs/lab.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from laser_peft.losses import next_item_loss
from laser_peft.masking import newest_state

from .length_groups import Group, group_by_length

IGNORE_INDEX = -100


class SASRecConfig(PretrainedConfig):
    """Sizes of a SASRec.

    Args:
        num_items: items N in the catalogue; ids run from 1 to N.
        hidden_size: width C of item vectors and states.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads a block; must divide ``hidden_size``.
        max_position_embeddings: longest history in items; callers keep the newest ones.
        dropout: dropout probability on embeddings, attention and block outputs.
        initializer_range: standard deviation of the initial weights.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is below one, the heads do not divide the width, or ``dropout`` is
            outside ``[0, 1)``.
    """

    model_type = "sasrec"

    def __init__(
        self,
        num_items: int = 1,
        hidden_size: int = 64,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        max_position_embeddings: int = 50,
        dropout: float = 0.4,
        initializer_range: float = 0.02,
        **kwargs: object,
    ) -> None:
        sizes = {
            "num_items": num_items,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "max_position_embeddings": max_position_embeddings,
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"SASRecConfig: {name} must be a whole number, got {size!r}")
            if size < 1:
                raise ValueError(f"SASRecConfig: {name} must be at least 1, got {size}")
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"SASRecConfig: hidden_size ({hidden_size}) must be a multiple of "
                f"num_attention_heads ({num_attention_heads})"
            )
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"SASRecConfig: dropout must lie in [0, 1), got {dropout}")
        self.num_items = num_items
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.dropout = dropout
        self.initializer_range = initializer_range
        super().__init__(**{"pad_token_id": 0, **kwargs})


@dataclass
class SASRecOutput(ModelOutput):
    """What a SASRec returns.

    Args:
        loss: scalar, only with ``labels``.
        last_hidden_state: ``(B, L, C)``, one state per history item; zero at padding.
        user_vectors: ``(B, C)``, the state at each user's newest item; zero for an empty history.
    """

    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    user_vectors: Tensor | None = None


class SASRecBlock(nn.Module):
    """Causal self-attention and a position-wise feed-forward, both pre-norm and residual."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Updates every state from its own past.

        Args:
            states: ``(..., C)`` float.
            attend: maps queries, keys and values side by side, ``(..., 3C)``, to what was read,
                ``(..., C)``.

        Returns:
            ``(..., C)`` float.
        """
        read = attend(self.query_key_value(self.attention_norm(states)))
        states = states + self.dropout(self.attention_out(read))
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class SASRecModel(PreTrainedModel):
    """A SASRec whose states and item table share one space: score = state · item vector."""

    config_class = SASRecConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config)
        self.item_embeddings = nn.Embedding(
            config.num_items + 1, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(SASRecBlock(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size)
        self.to_next_item = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the item table, ``(N + 1, C)`` with row 0 for padding."""
        return self.item_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the item table."""
        self.item_embeddings = value

    def item_vectors(self) -> Tensor:
        """Returns the ``(N, C)`` vectors of items ``1..N``."""
        return self.item_embeddings.weight[1:]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        negatives: Tensor | None = None,
        **_: object,
    ) -> SASRecOutput:
        """Encodes histories; all positions at once, each seeing itself and older items only.

        Args:
            input_ids: ``(B, L)`` int64 item ids, 0 = padding on either side; L at most
                ``max_position_embeddings``.
            attention_mask: ``(B, L)``, nonzero where an item is real; default: where id is not 0.
            labels: ``(B, L)`` int64, the item that follows each position, -100 to skip it.
            negatives: ``(K,)`` int64 item ids drawn uniformly with replacement: the loss is then
                a softmax over them and the label instead of the whole catalogue.

        Returns:
            A :class:`SASRecOutput`.

        Raises:
            ValueError: if the history is longer than the model has positions.
        """
        length = input_ids.size(1)
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"SASRec has {self.config.max_position_embeddings} positions, got a history of "
                f"{length} items; keep the newest {self.config.max_position_embeddings}"
            )
        real = input_ids != 0 if attention_mask is None else attention_mask.bool()
        places = (real.cumsum(1) - 1).clamp(min=0)  # (B, L)
        loss = None
        # Compiled graphs have fixed shapes, and how many items are real is no shape.
        is_packed = labels is not None and not torch.compiler.is_compiling()
        if groups := group_by_length(real) if is_packed else []:
            items = torch.cat([items for items, _, _ in groups])
            attend = partial(self._attend_packed, groups=groups)
            encoded = self._encode(input_ids.flatten()[items], places.flatten()[items], attend)
            states = encoded.new_zeros(real.numel(), encoded.size(-1))
            states = states.index_copy(0, items, encoded).view(*real.shape, -1)
        else:
            states = self._encode(input_ids, places, partial(self._attend_padded, real=real))
            states = states * real.unsqueeze(-1)
        if labels is not None:
            chosen = labels != IGNORE_INDEX
            loss = self._loss(states[chosen], labels[chosen], negatives)
        return SASRecOutput(
            loss=loss, last_hidden_state=states, user_vectors=newest_state(states, real)
        )

    def _encode(
        self, input_ids: Tensor, places: Tensor, attend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Encodes ids of shape ``(...)`` at their places from the oldest: ``(..., C)``."""
        scale = self.config.hidden_size**0.5  # beside the positions, as in the paper's own code
        states = self.item_embeddings(input_ids) * scale + self.position_embeddings(places)
        states = self.dropout(states)
        for block in self.blocks:
            states = block(states, attend)
        return self.to_next_item(self.final_norm(states))

    def _attend_padded(self, query_key_value: Tensor, real: Tensor) -> Tensor:
        """Attends within ``(B, L, 3C)``, from real items and itself to older real items."""
        length = real.size(1)
        causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=real.device)
        # A padded query may read itself: a row without any key is NaN.
        may_attend = ((causal & real[:, None, :]) | itself)[:, None]  # (B, 1, L, L)
        return self._attention(query_key_value, attn_mask=may_attend)

    def _attend_packed(self, query_key_value: Tensor, groups: list[Group]) -> Tensor:
        """Attends within ``(n, 3C)``, the real items of one group after the other.

        Laid out with the padding on the right, a causal mask alone keeps it out of real states.
        """
        read = []
        pieces = query_key_value.split([len(items) for items, _, _ in groups])
        for piece, (_, slots, shape) in zip(pieces, groups, strict=True):
            rows = piece.new_zeros(shape[0] * shape[1], piece.size(-1))
            rows = rows.index_copy(0, slots, piece).unflatten(0, shape)
            read.append(self._attention(rows, is_causal=True).flatten(0, 1)[slots])
        return torch.cat(read)

    def _attention(self, query_key_value: Tensor, **mask: Any) -> Tensor:
        """Attends over ``(B, L, 3C)`` with as many heads as configured: ``(B, L, C)``."""
        batch, length, width = query_key_value.shape
        heads = self.config.num_attention_heads
        query, key, value = query_key_value.view(
            batch, length, 3, heads, width // (3 * heads)
        ).permute(2, 0, 3, 1, 4)  # each (B, heads, L, C / heads)
        dropout = self.config.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, **mask)
        return read.transpose(1, 2).reshape(batch, length, width // 3)

    def _loss(self, states: Tensor, labels: Tensor, negatives: Tensor | None) -> Tensor:
        if not len(labels):
            return states.sum() * 0  # the mean of nothing would be NaN, and every weight after it
        return next_item_loss(states, self.item_vectors(), labels, negatives)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if module is self.to_next_item:
            nn.init.eye_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
