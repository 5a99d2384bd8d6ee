"""A SASRec as RecTools arranges it, for weights that were trained there.

Axes: B users, L items in a history, P positions of the model, C width, N items in the catalogue.
Follows RecTools 0.19, ``rectools.models.nn.transformers``; needs no RecTools.

It is not our SASRec: only queries are normalised, and the residual connections start behind the
normalisation; positions count back from the newest item; and, as RecTools trains by default,
padding is attended to: every model sees ``P`` places, the history at the right end of them, and
an empty place adds its own key and value. To give RecTools' scores, histories are therefore laid
out in ``P`` places here, whatever padding they come with.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from laser_peft.masking import newest_state

from .output import EncoderOutput


class RecToolsSASRecConfig(PretrainedConfig):
    """Sizes of a SASRec that RecTools trained; RecTools' names in brackets.

    Args:
        num_items: items N in the catalogue; ids run from 1 to N.
        hidden_size: width C of item vectors and states (``n_factors``).
        num_hidden_layers: number of blocks (``n_blocks``).
        num_attention_heads: heads a block (``n_heads``).
        max_position_embeddings: places P (``session_max_len``), the longest history in items.
        mask_padding: empty places are not attended to (``use_key_padding_mask``).
        scale_embeddings: item vectors are multiplied by the root of C before the first block
            (``pos_encoding_kwargs={"use_scale_factor": True}``).

    Raises:
        ValueError: if a size is below one or the heads do not divide the width.
    """

    model_type = "rectools_sasrec"

    def __init__(
        self,
        num_items: int = 1,
        hidden_size: int = 256,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 100,
        mask_padding: bool = False,
        scale_embeddings: bool = False,
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
            if size < 1:
                raise ValueError(f"RecToolsSASRecConfig: {name} must be at least 1, got {size}")
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"RecToolsSASRecConfig: hidden_size ({hidden_size}) must be a multiple of "
                f"num_attention_heads ({num_attention_heads})"
            )
        self.num_items = num_items
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.mask_padding = mask_padding
        self.scale_embeddings = scale_embeddings
        super().__init__(**{"pad_token_id": 0, **kwargs})


class RecToolsSASRecBlock(nn.Module):
    """Attention from normalised queries to states as they are, then a feed-forward."""

    def __init__(self, config: RecToolsSASRecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, states: Tensor, may_attend: Tensor) -> Tensor:
        """Updates every state.

        Args:
            states: ``(B, P, C)`` float, zero at empty places.
            may_attend: ``(B, 1, P, P)`` bool, True where the row may read the column.

        Returns:
            ``(B, P, C)`` float.
        """
        normed = self.query_norm(states)
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.query(normed), self.key(states), self.value(states))
        )  # each (B, heads, P, C / heads)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=may_attend)
        states = normed + self.attention_out(read.transpose(1, 2).flatten(2))
        normed = self.feed_forward_norm(states)
        return normed + self.feed_forward(normed)


class RecToolsSASRecModel(PreTrainedModel):
    """Gives RecTools' user vectors and item vectors; for reading, not for training.

    A state depends on the items up to it and on how many items and empty places there are beside
    them, because positions count from the newest item.
    """

    config_class = RecToolsSASRecConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: RecToolsSASRecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embeddings = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.blocks = nn.ModuleList(
            RecToolsSASRecBlock(config) for _ in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=1e-8)
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
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object
    ) -> EncoderOutput:
        """Encodes histories.

        Args:
            input_ids: ``(B, L)`` int64 item ids, oldest first, 0 = padding on any side; L at most
                ``max_position_embeddings``.
            attention_mask: ``(B, L)``, nonzero where an item is real; default: where id is not 0.

        Raises:
            ValueError: if the histories are longer than the model has places.
        """
        places = self.config.max_position_embeddings
        if input_ids.size(1) > places:
            raise ValueError(
                f"this SASRec has {places} places, got a history of {input_ids.size(1)} items; "
                f"keep the newest {places}"
            )
        real = input_ids != 0 if attention_mask is None else attention_mask.bool()
        age = real.flip(1).cumsum(1).flip(1) - 1  # (B, L), 0 at a user's newest item
        # Items go to the right end of P places; padding goes to one more, which is cut off.
        place = torch.where(real, places - 1 - age, places)
        laid_out = input_ids.new_zeros(input_ids.size(0), places + 1)
        laid_out = laid_out.scatter(1, place, input_ids)[:, :places]
        states = F.pad(self._encode(laid_out), (0, 0, 0, 1))
        states = states.gather(1, place.unsqueeze(-1).expand(-1, -1, states.size(-1)))
        states = states.masked_fill(~real.unsqueeze(-1), 0)
        return EncoderOutput(last_hidden_state=states, user_vectors=newest_state(states, real))

    def _encode(self, item_ids: Tensor) -> Tensor:
        """Encodes ``(B, P)`` ids, padded on the left, to ``(B, P, C)`` states."""
        length = item_ids.size(1)
        real = item_ids != 0
        states = self.item_embeddings(item_ids)
        if self.config.scale_embeddings:
            states = states * self.config.hidden_size**0.5
        states = states + self.position_embeddings.weight.flip(0)
        may_attend = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()[None]
        if self.config.mask_padding:
            itself = torch.eye(length, dtype=torch.bool, device=real.device)
            may_attend = (may_attend & real[:, None, :]) | itself
        for block in self.blocks:
            states = block(states * real.unsqueeze(-1), may_attend[:, None])
        return self.final_norm(states * real.unsqueeze(-1))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
