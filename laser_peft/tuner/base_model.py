"""What Bi-Tuning has to know of the language model it is added to.

Axes: B users, T text tokens, D width of the LM's embeddings, H width of its last hidden states.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .devices import device_of
from .joining import JoinedTokens, place

# Names under which configurations keep how far back a token can look.
WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")
NOT_SUPPORTED = {
    "blt": "it cuts the text into patches by its bytes, and virtual tokens have none",
    "cpmant": "it reads its input in both directions and takes token ids only",
    "deepseek_v4": "it chooses experts by token id (hash_moe layers), and virtual tokens have none",
    "gemma4_assistant": "it reads another model's keys and values",
    "gemma4_unified_assistant": "it reads another model's keys and values",
    "prophetnet": "what its predicting streams say of a token changes with the text after it",
    "reformer": "its axial positions fix the length of what it is trained on",
    "xlm": "it is a masked language model, and its causal attention reads padding",
    "xlnet": "it models permutations of the text; read left to right it takes no attention mask",
}


def check_base_model(lm: PreTrainedModel) -> None:
    """Refuses what is no causal language model over token embeddings.

    Raises:
        ValueError: with the reason.
    """
    name = type(lm).__name__
    if not isinstance(lm, PreTrainedModel):
        raise ValueError(
            f"Bi-Tuning needs a language model of transformers, got a {name}; of a PEFT model "
            "take merge_and_unload(), or get_base_model() to tune beside its adapter"
        )
    config = lm.config.get_text_config(decoder=True)
    if lm.config.is_encoder_decoder:
        raise ValueError(
            f"Bi-Tuning needs a decoder-only causal language model, {name} is an encoder-decoder"
        )
    by_id = config.model_type != "deepseek_v4" or "hash_moe" in (config.mlp_layer_types or ())
    if config.model_type in NOT_SUPPORTED and by_id:
        raise ValueError(f"Bi-Tuning cannot use {name}: {NOT_SUPPORTED[config.model_type]}")
    declares_it = "is_decoder" in inspect.signature(type(config).__init__).parameters
    if declares_it and not config.is_decoder:
        raise ValueError(
            f"Bi-Tuning needs a causal language model, and {name} reads in both directions with "
            "is_decoder=False; load it with is_decoder=True in its configuration"
        )
    embeddings = lm.get_input_embeddings()
    if not hasattr(embeddings, "embedding_dim"):
        raise ValueError(
            f"Bi-Tuning puts virtual tokens among embedded text tokens, and {name} has no table "
            f"of token embeddings (get_input_embeddings() is a {type(embeddings).__name__})"
        )


def backbone_of(lm: PreTrainedModel) -> nn.Module:
    """Returns the part of the LM below its vocabulary head; the LM itself if it has none."""
    backbone = getattr(lm, lm.base_model_prefix, None)
    if backbone is None and lm.get_output_embeddings() is not None:
        backbone = lm.model  # of Llama 4 and Mllama, whose prefix names no attribute
    return lm if backbone is None else backbone


def hidden_dim(lm: PreTrainedModel) -> int:
    """Returns the width H of the LM's last hidden states."""
    config = lm.config.get_text_config(decoder=True)
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size  # OPT projects


def inputs_beside_embeddings(
    lm: PreTrainedModel, input_ids: Tensor | None, joined: JoinedTokens
) -> dict[str, Tensor]:
    """What an LM wants to know of each token besides its embedding, by argument name.

    Gemma 3n and 4 look up a vector per layer by token id; a virtual token gets that of padding,
    as their images do.

    Raises:
        ValueError: if there are no ids to look it up by.
    """
    config = lm.config.get_text_config(decoder=True)
    if not getattr(config, "hidden_size_per_layer_input", None):
        return {}
    if input_ids is None:
        raise ValueError(f"{type(lm).__name__} needs input_ids, inputs_embeds do not suffice")
    decoder = next(module for module in lm.modules() if hasattr(module, "get_per_layer_inputs"))
    ids = place(input_ids, joined, config.pad_token_id or 0)
    return {"per_layer_inputs": decoder.get_per_layer_inputs(ids)}


def last_hidden_states(lm: PreTrainedModel, call: Callable[..., Any], **inputs: Tensor) -> Tensor:
    """Runs the backbone without mask and cache.

    Args:
        lm: the language model.
        call: its own call, for one that has no backbone below it.
        **inputs: ``inputs_embeds (B, X, D)`` float, pads after everything that matters, and
            maybe others.

    Returns:
        ``(B, X, H)`` float.
    """
    backbone = backbone_of(lm)
    run = call if backbone is lm else backbone
    return run(**inputs, use_cache=False, return_dict=True).last_hidden_state


def embed(lm: PreTrainedModel, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Embeds a text, or takes it as it came embedded.

    Args:
        lm: the language model.
        input_ids: ``(B, T)`` int64.
        inputs_embeds: ``(B, T, D)`` float, instead.

    Returns:
        ``(B, T, D)`` float.

    Raises:
        ValueError: unless exactly one of the two is given, with the right number of axes.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if inputs_embeds is not None:
        if inputs_embeds.ndim != 3:
            raise ValueError(f"inputs_embeds must be (B, T, D), got {tuple(inputs_embeds.shape)}")
        width = lm.get_input_embeddings().embedding_dim
        if inputs_embeds.size(-1) != width:
            raise ValueError(
                f"inputs_embeds must be as wide as the model's embeddings ({width}), got "
                f"{inputs_embeds.size(-1)}"
            )
        return inputs_embeds
    assert input_ids is not None
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids must be (B, T), got {tuple(input_ids.shape)}")
    return lm.get_input_embeddings()(input_ids)


def real_tokens(text: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Returns the ``(B, T)`` bool mask of real tokens; all are without a mask.

    Raises:
        ValueError: if the mask has another shape.
    """
    if attention_mask is None:
        return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    if attention_mask.shape != text.shape[:2]:
        raise ValueError(
            f"attention_mask must have the shape of the text {tuple(text.shape[:2])}, "
            f"got {tuple(attention_mask.shape)}"
        )
    return attention_mask.to(text.device).bool()


def check_length(
    lm: PreTrainedModel, *, num_prefix: int, num_text: int, num_suffix: int = 0
) -> None:
    """Checks that the LM has a position for every token.

    Raises:
        ValueError: if it has not.
    """
    longest = getattr(lm.config.get_text_config(decoder=True), "max_position_embeddings", None)
    total = num_prefix + num_text + num_suffix
    if longest is not None and total > longest > 0:
        raise ValueError(
            f"the language model reads at most {longest} tokens, got {total} ({num_prefix} prefix "
            f"+ {num_text} text + {num_suffix} suffix); shorten the prompts"
        )


def some_tokens(lm: PreTrainedModel, count: int) -> Tensor:
    """Embeds ``count`` tokens to try something with, ``(count, D)`` float."""
    embeddings = lm.get_input_embeddings()
    return embeddings(torch.arange(count, device=device_of(embeddings)) % embeddings.num_embeddings)


@torch.no_grad()
def embedding_scale(lm: PreTrainedModel, sample: int = 1024) -> float:
    """Measures the standard deviation of the LM's token embeddings, as they enter its layers."""
    embeddings = lm.get_input_embeddings()
    size = min(sample, embeddings.num_embeddings)
    vectors = embeddings(torch.arange(size, device=device_of(embeddings)))
    if vectors.is_meta:
        return 1.0  # nothing to measure; the values come from a file
    return max(vectors.float().std().item(), 1e-6)


def end_of_text(lm: PreTrainedModel) -> Tensor:
    """Returns the ``(1, D)`` embedding of the LM's own end-of-text token.

    Raises:
        ValueError: if the LM has no such token.
    """
    token = lm.config.get_text_config(decoder=True).eos_token_id
    if isinstance(token, list | tuple):
        token = token[0] if token else None
    embeddings = lm.get_input_embeddings()
    if token is None or not 0 <= token < embeddings.num_embeddings:
        raise ValueError(
            "suffix_reading='eos' needs the language model's end-of-text token, and eos_token_id "
            f"is {token} in its configuration (a token id in 0..{embeddings.num_embeddings - 1} "
            "is needed); set it, or use another suffix_reading"
        )
    return embeddings(torch.tensor([token], device=device_of(embeddings))).detach()
