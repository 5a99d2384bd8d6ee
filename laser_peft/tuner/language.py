"""Plain use of the language model with a user's prefix in place: logits and the text's loss.

Axes: B users, T text tokens, P prefix tokens, D width of the LM, V vocabulary.

What comes back has the shape and the order of the caller's tokens.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base_model import check_length, embed, inputs_beside_embeddings, real_tokens
from .inputs import HISTORY_ARGUMENTS
from .joining import JoinedTokens, join, place, read
from .layer import ActiveAdapter

IGNORE_INDEX = -100
# Under these names LMs take what they remember of earlier tokens.
MEMORIES = ("past_key_values", "cache_params", "state", "mems")
PER_TOKEN_OUTPUTS = ("logits", "last_hidden_state")


def forward_with_prefix(
    call: Callable[..., Any],
    lm: PreTrainedModel,
    active: ActiveAdapter,
    arguments: dict[str, Any],
) -> Any:
    """Calls the LM with the prefix before the text.

    A padded text comes without a cache unless ``use_cache=True`` asks for one: without it pads can
    stand last, where they are harmless in every family of models.

    Args:
        call: the LM's own call.
        lm: the language model.
        active: the adapter.
        arguments: those of the LM's forward, by name, and maybe a history.

    Returns:
        The LM's own output over the caller's ``(B, T)`` tokens; in ``attentions`` and in the
        cache the prefix is visible.

    Raises:
        ValueError: if the arguments leave no room for a prefix.
    """
    histories = {name: arguments.pop(name, None) for name in HISTORY_ARGUMENTS}
    if active.config.num_prefix_tokens == 0:
        return call(**arguments)
    if any(_remembers(arguments.get(name)) for name in MEMORIES):
        return call(**_continued(lm, arguments, active.config.num_prefix_tokens))
    if "position_ids" in arguments:
        raise ValueError(
            "position ids follow from attention_mask once virtual tokens are in place; leave "
            "position_ids out"
        )
    mask = arguments.pop("attention_mask", None)
    fills_cache = bool(arguments.get("use_cache")) or any(name in arguments for name in MEMORIES)
    input_ids, embedded = arguments.pop("input_ids", None), arguments.pop("inputs_embeds", None)
    text = embed(lm, input_ids, embedded)
    prefix = prefix_of(lm, active, text, **histories)
    joined = join_prefix(prefix, text, mask, pads_first=fills_cache)
    arguments |= {"inputs_embeds": joined.inputs_embeds}
    arguments |= inputs_beside_embeddings(lm, input_ids, joined)
    if mask is not None and fills_cache:
        arguments |= mask_and_positions(lm, joined.is_real)
    elif mask is not None:
        arguments["use_cache"] = False
    for name, filling in (("labels", IGNORE_INDEX), ("token_type_ids", 0)):
        if name in arguments:
            arguments[name] = place(arguments[name], joined, filling)
    # Which positions are wanted is counted in the caller's tokens, so it is applied at the end.
    wanted = arguments.pop("logits_to_keep", 0)
    as_dict = arguments.pop("return_dict", getattr(lm.config, "return_dict", True))
    output = call(**arguments, return_dict=True)
    for name in PER_TOKEN_OUTPUTS:
        if output.get(name) is not None:
            values = read(output[name], joined.text_positions)
            if name == "logits":
                values = values[:, -wanted:] if isinstance(wanted, int) else values[:, wanted]
            output[name] = values
    if output.get("hidden_states") is not None:
        output["hidden_states"] = tuple(
            read(states, joined.text_positions) for states in output["hidden_states"]
        )
    return output if as_dict else output.to_tuple()


def prefix_of(
    lm: PreTrainedModel,
    active: ActiveAdapter,
    text: Tensor,
    *,
    history: Tensor | None,
    history_mask: Tensor | None,
    history_states: Tensor | None,
) -> Tensor:
    """Gives each user's ``(B, P, D)`` prefix for the ``(B, T, D)`` text."""
    check_length(lm, num_prefix=active.config.num_prefix_tokens, num_text=text.size(1))
    states, states_mask = active.states(
        history=history, history_mask=history_mask, history_states=history_states, like=text
    )
    return active.adapter.prefix_for(states, states_mask).prefix


def join_prefix(
    prefix: Tensor, text: Tensor, attention_mask: Tensor | None, *, pads_first: bool
) -> JoinedTokens:
    """Joins ``(B, P, D)`` prefix and ``(B, T, D)`` text; ``attention_mask (B, T)`` or None."""
    no_suffix = text.new_zeros(0, text.size(-1))
    return join(prefix, text, no_suffix, real_tokens(text, attention_mask), pads_first=pads_first)


def mask_and_positions(lm: PreTrainedModel, is_real: Tensor) -> dict[str, Tensor]:
    """Says which of ``(B, X)`` tokens are real, and their positions where the LM takes them."""
    inputs = {"attention_mask": is_real.long()}
    if "position_ids" in inspect.signature(lm.forward).parameters:
        inputs["position_ids"] = (is_real.cumsum(1) - 1).clamp(min=0)
    return inputs


def _remembers(memory: Any) -> bool:
    """Whether a cache holds anything yet."""
    for question in ("get_seq_length", "has_previous_state"):
        try:
            return bool(getattr(memory, question)())
        except (AttributeError, ValueError):  # each kind of cache answers one of the two
            continue
    return memory is not None


def _continued(lm: PreTrainedModel, arguments: dict[str, Any], num_prefix: int) -> dict[str, Any]:
    """Arguments for tokens that follow remembered ones, among which the prefix is."""
    mask = arguments.pop("attention_mask", None)
    given = arguments.pop("position_ids", None)
    if mask is not None:
        new = arguments["input_ids" if "input_ids" in arguments else "inputs_embeds"].size(1)
        remembered = torch.cat([mask.new_ones(len(mask), num_prefix), mask[:, :-new]], dim=1)
        # They are remembered as [pads][prefix][text].
        is_real = torch.cat([remembered.sort(dim=1).values, mask[:, -new:]], dim=1).bool()
        arguments |= mask_and_positions(lm, is_real)
        if "position_ids" in arguments:
            arguments["position_ids"] = arguments["position_ids"][:, -new:]
    if given is not None:
        arguments["position_ids"] = given + num_prefix
    return arguments
