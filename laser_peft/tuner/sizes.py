"""Fills in the sizes that a configuration leaves to the language model and the encoder.

Axes: S suffix tokens, C collaborative width, M width of the M-Former, D width of the LM's
embeddings, H width of its last hidden states, X width of text vectors, R recommendation width.
"""

from dataclasses import replace
from typing import Any

from .config import DEFAULT_TEMPERATURE, BiTuningConfig

MAX_TEXT_DIM = 512


def resolve(
    config: BiTuningConfig,
    *,
    embedding_dim: int,
    hidden_dim: int,
    encoder_config: dict[str, Any] | None,
    encoder_dim: int | None,
) -> BiTuningConfig:
    """Returns a copy in which every size is a number, and what follows from others is said.

    Args:
        config: what the user asked for.
        embedding_dim: width D of the LM's token embeddings.
        hidden_dim: width H of the LM's last hidden states.
        encoder_config: the encoder's configuration as JSON values, None without an encoder.
        encoder_dim: width of the encoder's states, None without an encoder.

    Raises:
        ValueError: if a width given by hand contradicts the encoder, the LM or another width.
    """
    collaborative_dim = encoder_dim or config.collaborative_dim or embedding_dim
    if encoder_dim is not None and config.collaborative_dim not in (None, encoder_dim):
        raise ValueError(
            f"collaborative_dim ({config.collaborative_dim}) must equal the width of the "
            f"collaborative encoder ({encoder_dim}); leave it out to take it from the encoder"
        )
    items_from_encoder = config.has_encoder and config.item_vectors != "text"
    skip = config.collaborative_skip
    if skip is None:
        skip = items_from_encoder and config.user_projection
    fused = config.item_vectors == "fused"
    item_text_dim = config.item_text_dim
    if fused and item_text_dim is None:
        item_text_dim = min(embedding_dim + hidden_dim, MAX_TEXT_DIM)
    recommendation_dim = _recommendation_dim(
        config,
        from_encoder=collaborative_dim if skip or items_from_encoder else None,
        from_text=item_text_dim if fused else None,
        hidden_dim=hidden_dim,
    )
    if config.item_vectors == "text" and item_text_dim not in (None, recommendation_dim):
        raise ValueError(
            f"item_text_dim ({item_text_dim}) must equal recommendation_dim "
            f"({recommendation_dim}) with item_vectors='text'; leave it out"
        )
    width = config.m_former_hidden_size or min(max(embedding_dim // 2 // 64 * 64, 64), 768)
    heads = config.m_former_num_heads or (width // 64 if width % 64 == 0 else 1)
    num_experts, num_experts_per_user = config.experts
    no_prefix = config.prefix_source == "none" or config.num_prefix_tokens == 0
    return replace(
        config,
        num_prefix_tokens=0 if no_prefix else config.num_prefix_tokens,
        prefix_source="none" if no_prefix else config.prefix_source,
        num_suffix_tokens=config.num_suffix_tokens if config.suffix_reading == "suffix" else 0,
        m_former_hidden_size=width,
        m_former_num_heads=heads,
        m_former_intermediate_size=config.m_former_intermediate_size or 2 * width,
        num_experts=num_experts,
        num_experts_per_user=num_experts_per_user,
        collaborative_encoder_config=encoder_config if config.bundle_encoder else None,
        collaborative_dim=collaborative_dim,
        collaborative_skip=skip,
        recommendation_dim=recommendation_dim,
        item_text_dim=item_text_dim or recommendation_dim,
        temperature=config.temperature or DEFAULT_TEMPERATURE[config.similarity],
    )


def _recommendation_dim(
    config: BiTuningConfig, *, from_encoder: int | None, from_text: int | None, hidden_dim: int
) -> int:
    """Finds R and says which rule fixes it where the user's value breaks one.

    Args:
        config: what the user asked for.
        from_encoder: width C where user or item vectors come from the encoder.
        from_text: width X where text vectors stand beside them.
        hidden_dim: width H.
    """
    wanted = config.recommendation_dim
    dim = wanted or hidden_dim
    if from_encoder is not None:
        dim = from_encoder + (from_text or 0)
        beside = f" and of the text vectors ({from_text})" if from_text else ""
        if wanted not in (None, dim):
            raise ValueError(
                f"recommendation_dim ({wanted}) must equal the width of the collaborative states "
                f"({from_encoder}){beside}, because user or item vectors come from there; leave "
                "it out, or set item_vectors='text' and collaborative_skip=False"
            )
    if not config.user_projection and dim != hidden_dim:
        raise ValueError(
            f"user_projection=False reads user vectors in the language model's own width "
            f"({hidden_dim}), but user and item vectors are {dim} wide; set user_projection=True"
        )
    return dim
