"""The frozen ID encoder that an adapter reads, rebuilt by ``model_type`` through Auto classes.

Axes: B users, L items in a history, N items in the catalogue, C collaborative width.
"""

from typing import Any

import torch
from peft.utils.integrations import skip_init_on_device
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from .config import BiTuningConfig
from .devices import device_of


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
        """Encodes ``(B, L)`` item ids and their ``(B, L)`` mask to ``(B, L, C)`` states.

        Raises:
            ValueError: if an item is none of the encoder's.
        """
        num_rows = self.model.get_input_embeddings().num_embeddings
        # Elsewhere the check would wait for the device, or break a compiled graph.
        if item_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            unknown = item_ids[item_mask & ((item_ids < 0) | (item_ids >= num_rows))]
            if unknown.numel():
                raise ValueError(
                    f"history must hold item ids in 1..{num_rows - 1} (0 is padding), got "
                    f"{unknown[:5].tolist()}: the collaborative encoder has no states for items "
                    "it does not know; leave them out of the history"
                )
        item_ids = item_ids.masked_fill(~item_mask, 0)
        output = self.model(input_ids=item_ids, attention_mask=item_mask, return_dict=True)
        return output.last_hidden_state

    def item_vectors(self) -> Tensor:
        """Returns the ``(N, C)`` vectors of items ``1..N``."""
        table = self.model.get_input_embeddings()
        if not table.weight.is_meta:
            return table.weight[1:]
        ids = torch.arange(1, table.num_embeddings, device=device_of(table))
        return table(ids)  # where Accelerate keeps it elsewhere, a call brings it


def load_encoder(config: BiTuningConfig) -> PreTrainedModel | None:
    """Loads the encoder of a new adapter, or builds a saved one's, to be filled from its file.

    Returns:
        The encoder in float32, or None for an adapter without one.

    Raises:
        ValueError: if the encoder has no item table, or is of a kind transformers does not know.
    """
    if config.collaborative_encoder_config is not None:
        encoder = AutoModel.from_config(_encoder_config(config.collaborative_encoder_config))
        for parameter in encoder.parameters():
            # Until its file fills it, it must not pass for a trained encoder.
            nn.init.constant_(parameter, torch.nan)
    elif config.collaborative_encoder is not None:
        # On a meta device its weights would stay empty: they come from its own file.
        encoder = skip_init_on_device(AutoModel.from_pretrained)(
            config.collaborative_encoder,
            revision=config.collaborative_encoder_revision or "main",
            dtype=torch.float32,
            trust_remote_code=False,  # said in so many words, or it is asked on the console
            use_safetensors=True,
        )
    else:
        return None
    if not isinstance(encoder.get_input_embeddings(), nn.Embedding):
        raise ValueError(
            f"the collaborative encoder {config.collaborative_encoder!r} has no item table: "
            "get_input_embeddings() must return an nn.Embedding with a row per item"
        )
    return encoder


def _encoder_config(values: dict[str, Any]) -> PretrainedConfig:
    values = dict(values)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"the adapter carries a collaborative encoder of the model type {model_type!r}, which "
            "transformers does not know; import the package that registers it first"
        )
    return AutoConfig.for_model(model_type, **values)


def collaborative_states(
    encoder: FrozenEncoder | None,
    history: Tensor | None,
    history_mask: Tensor | None,
    history_states: Tensor | None,
    *,
    events: Tensor | None = None,
    like: Tensor,
    dim: int,
) -> tuple[Tensor, Tensor]:
    """Encodes histories, or takes the states that came from outside.

    Args:
        encoder: the adapter's encoder, None if it has none.
        history: ``(B, L)`` int64 item ids, oldest first, 0 = padding; None for users without one.
        history_mask: ``(B, L)``, nonzero where an item is real. None: wherever ``history`` is not
            0, or everywhere with ``history_states``.
        history_states: ``(B, L, C)`` float, instead of an encoder and a history.
        events: ``(N,)`` int64, how often the encoder saw each item; one that it never saw, or has
            no row for, is to it as padding. None: it reads all.
        like: any ``(B, ...)`` tensor of the batch; states come to its device.
        dim: width C of the states.

    Returns:
        States ``(B, L, C)`` float and their mask ``(B, L)`` bool; L is 0 where no user has a
        history.

    Raises:
        ValueError: if the inputs contradict each other or the adapter.
    """
    batch = like.size(0)
    if history_states is not None:
        if encoder is not None or history is not None:
            raise ValueError(
                "history_states are for an adapter without a collaborative encoder, and "
                "instead of history; pass history and leave history_states out"
            )
        _check_shape("history_states", history_states, (batch, None, dim))
        _check_mask(history_mask, history_states)
        states = history_states.to(like.device)
        mask = states.new_ones(states.shape[:2]) if history_mask is None else history_mask
    elif history is None:
        if history_mask is not None:
            raise ValueError("history_mask needs history or history_states")
        states, mask = like.new_zeros(batch, 0, dim, dtype=torch.float32), like.new_zeros(batch, 0)
    else:
        _check_shape("history", history, (batch, None))
        _check_mask(history_mask, history)
        if encoder is None:
            raise ValueError(
                "history needs a collaborative encoder and this adapter has none; set "
                "BiTuningConfig(collaborative_encoder=...) or pass history_states"
            )
        history = history.to(device_of(encoder.model.get_input_embeddings()))
        mask = history != 0
        if history_mask is not None:
            mask = mask & history_mask.to(mask.device).bool()
        if events is not None:
            rows = encoder.model.get_input_embeddings().num_embeddings - 1
            mask = mask & _may_read(history, events.to(mask.device), rows)
        if history.size(1) == 0:
            states = like.new_zeros(batch, 0, dim, dtype=torch.float32)
        else:
            states = encoder(history, mask)
    return states.to(like.device), mask.to(like.device).bool()


def _may_read(history: Tensor, events: Tensor, rows: int) -> Tensor:
    """Looks up ``(B, L)`` item ids in ``(N,)`` events: ``(B, L)`` bool, True at foreign ids.

    What no table has must reach the encoder, which refuses it.
    """
    is_ours = (history > 0) & (history <= len(events))
    seen = (events[(history - 1).clamp(0, len(events) - 1)] > 0) & (history <= rows)
    return seen | ~is_ours


def _check_shape(name: str, values: Tensor, shape: tuple[int | None, ...]) -> None:
    if len(values.shape) != len(shape) or any(
        size not in (None, actual) for size, actual in zip(shape, values.shape, strict=True)
    ):
        wanted = ", ".join("items" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have the shape ({wanted}), got {tuple(values.shape)}")


def _check_mask(mask: Tensor | None, values: Tensor) -> None:
    if mask is not None:
        _check_shape("history_mask", mask, tuple(values.shape[:2]))
