"""An encoder made of item vectors from elsewhere: matrix factorisation, word2vec, text, images.

Axes: B users, L items in a history, C width of the item vectors, N items in the catalogue.

Nothing is trained. The state at an item is a weighted mean of the vectors of the items up to it:
an item weighs ``decay`` times as much as the one after it.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from laser_peft.masking import newest_state

from .output import EncoderOutput


class ItemVectorConfig(PretrainedConfig):
    """Sizes of an :class:`ItemVectorEncoder`.

    Args:
        num_items: items N in the catalogue; ids run from 1 to N.
        hidden_size: width C of the item vectors, and so of the states.
        decay: weight of an item relative to the one after it, in ``[0, 1]``. 1: a plain mean of
            the items so far; 0: the item alone.

    Raises:
        ValueError: if a size is below one or ``decay`` is outside ``[0, 1]``.
    """

    model_type = "item_vectors"

    def __init__(
        self, num_items: int = 1, hidden_size: int = 64, decay: float = 1.0, **kwargs: object
    ) -> None:
        for name, size in (("num_items", num_items), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"ItemVectorConfig: {name} must be at least 1, got {size}")
        if not 0 <= decay <= 1:
            raise ValueError(f"ItemVectorConfig: decay must lie in [0, 1], got {decay}")
        self.num_items = num_items
        self.hidden_size = hidden_size
        self.decay = decay
        super().__init__(**{"pad_token_id": 0, **kwargs})


class ItemVectorEncoder(PreTrainedModel):
    """Turns a history into running means of its items' vectors.

    Padding never votes, on whatever side, and a state depends on the items up to it only.
    """

    config_class = ItemVectorConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: ItemVectorConfig) -> None:
        super().__init__(config)
        self.item_embeddings = nn.Embedding(config.num_items + 1, config.hidden_size, padding_idx=0)
        self.post_init()

    @classmethod
    def from_vectors(cls, vectors: Tensor, *, decay: float = 1.0) -> "ItemVectorEncoder":
        """Makes an encoder of item vectors that are in the catalogue's order.

        Args:
            vectors: ``(N, C)`` float, row ``j`` is item id ``j + 1``; see
                :func:`laser_peft.collaborative.align_item_vectors`.
            decay: as in :class:`ItemVectorConfig`.

        Raises:
            ValueError: if the vectors are no matrix or not all finite.
        """
        if vectors.ndim != 2:
            raise ValueError(
                f"item vectors must have the shape (items, width), got {tuple(vectors.shape)}"
            )
        finite = vectors.isfinite().all(1)
        if not finite.all():
            raise ValueError(
                f"item vectors must be finite numbers; those of {int((~finite).sum())} of "
                f"{len(vectors)} items are not, the first in row {int(finite.int().argmin())}"
            )
        num_items, width = vectors.shape
        model = cls(ItemVectorConfig(num_items=num_items, hidden_size=width, decay=decay))
        with torch.no_grad():
            model.item_embeddings.weight[1:] = vectors
        return model.eval()

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
        """Encodes histories of any length.

        Args:
            input_ids: ``(B, L)`` int64 item ids, oldest first, 0 = padding.
            attention_mask: ``(B, L)``, nonzero where an item is real; default: where id is not 0.
        """
        real = input_ids != 0 if attention_mask is None else attention_mask.bool()
        vectors = self.item_embeddings(input_ids)  # (B, L, C)
        places = real.cumsum(1)
        ages = places[:, :, None] - places[:, None, :]  # (B, L, L), items between row and column
        may_read = (ages >= 0) & real[:, :, None] & real[:, None, :]
        weights = self.config.decay ** ages.clamp(min=0).to(vectors.dtype) * may_read
        total = weights.sum(2, keepdim=True)
        states = weights @ vectors / total.masked_fill(total == 0, 1)
        return EncoderOutput(last_hidden_state=states, user_vectors=newest_state(states, real))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
