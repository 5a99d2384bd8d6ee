"""The frozen ID encoder that an adapter reads, rebuilt by ``model_type`` through Auto classes.

Axes: B users, L items in a history, N items in the catalogue, C collaborative width.
"""

import torch
from peft.utils.integrations import skip_init_on_device
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from .config import BiTuningConfig


class FrozenEncoder(nn.Module):
    """Holds an encoder in eval mode and without gradients, whatever its parents do."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Sets the mode of this module only; the held model stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, item_ids: Tensor, item_mask: Tensor) -> Tensor:
        """Encodes ``(B, L)`` item ids and their ``(B, L)`` mask to ``(B, L, C)`` states."""
        return self.model(input_ids=item_ids, attention_mask=item_mask).last_hidden_state

    def item_vectors(self) -> Tensor:
        """Returns the ``(N, C)`` vectors of items ``1..N``."""
        return self.model.get_input_embeddings().weight[1:]


def load_encoder(config: BiTuningConfig) -> PreTrainedModel | None:
    """Loads the encoder of a new adapter, or builds a saved one's, to be filled from its file.

    Returns:
        The encoder in float32, or None for an adapter without one.

    Raises:
        ValueError: if the encoder has no item table.
    """
    if config.collaborative_encoder_config is not None:
        sizes = dict(config.collaborative_encoder_config)
        encoder = AutoModel.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
        for parameter in encoder.parameters():
            # Until its file fills it, it must not pass for a trained encoder.
            nn.init.constant_(parameter, torch.nan)
        return encoder
    if config.collaborative_encoder is None:
        return None
    # On a meta device its weights would stay empty: they come from its own file.
    encoder = skip_init_on_device(AutoModel.from_pretrained)(
        config.collaborative_encoder, dtype=torch.float32
    )
    if not isinstance(encoder.get_input_embeddings(), nn.Embedding):
        raise ValueError(
            f"the collaborative encoder {config.collaborative_encoder!r} has no item table: "
            "get_input_embeddings() must return an nn.Embedding with a row per item"
        )
    return encoder


def collaborative_states(
    encoder: FrozenEncoder | None,
    history: Tensor | None,
    history_mask: Tensor | None,
    history_states: Tensor | None,
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Encodes histories, or takes the states that came from outside.

    Args:
        encoder: the adapter's encoder, None if it has none.
        history: ``(B, L)`` int64 item ids, oldest first, 0 = padding.
        history_mask: ``(B, L)``, nonzero where an item is real. None: where ``history`` is not 0,
            or everywhere with ``history_states``.
        history_states: ``(B, L, C)`` float, instead of an encoder and a history.

    Returns:
        States ``(B, L, C)`` float and their mask ``(B, L)`` bool; None twice where no user has
        any history.

    Raises:
        ValueError: if the inputs contradict each other or the adapter.
    """
    if history_states is not None:
        if encoder is not None or history is not None:
            raise ValueError(
                "history_states are for an adapter without a collaborative encoder, and "
                "instead of history; pass history and leave history_states out"
            )
        everywhere = torch.ones(
            history_states.shape[:2], dtype=torch.bool, device=history_states.device
        )
        return history_states, everywhere if history_mask is None else history_mask.bool()
    if history is None or history.size(1) == 0:
        return None, None
    if encoder is None:
        raise ValueError(
            "history needs a collaborative encoder and this adapter has none; set "
            "BiTuningConfig(collaborative_encoder=...) or pass history_states"
        )
    mask = history != 0 if history_mask is None else history_mask.bool()
    return encoder(history, mask), mask
