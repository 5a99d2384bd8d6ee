"""An adapter and its encoder, made as a configuration and a language model say."""

from typing import NamedTuple

from transformers import PreTrainedModel

from .adapter import BiTuningAdapter
from .base_model import embedding_scale, end_of_text, hidden_dim
from .config import BiTuningConfig
from .encoder import load_encoder
from .sizes import resolve


class Built(NamedTuple):
    """What one adapter is made of; its configuration has a number for every size."""

    config: BiTuningConfig
    adapter: BiTuningAdapter
    encoder: PreTrainedModel | None


def build(config: BiTuningConfig, model: PreTrainedModel) -> Built:
    """Makes what an adapter is made of, on whatever device is the default.

    Args:
        config: as the user gave it, or a saved one.
        model: the language model, which is not changed.

    Raises:
        ValueError: if the encoder, the language model or a size does not fit.
    """
    embedding_dim = model.get_input_embeddings().embedding_dim
    encoder = load_encoder(config)
    resolved = resolve(
        config,
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim(model),
        encoder_config=None if encoder is None else encoder.config.to_diff_dict(),
        encoder_dim=None if encoder is None else encoder.config.hidden_size,
    )
    if resolved.suffix_reading == "eos":
        end_of_text(model)
    adapter = BiTuningAdapter(
        resolved,
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim(model),
        embedding_scale=embedding_scale(model),
    )
    return Built(resolved, adapter, encoder)
