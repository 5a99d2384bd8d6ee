"""Plain use of the language model with a user's prefix in place: logits and generation.

Axes: B users, T text tokens, P prefix tokens, D width of the LM, V vocabulary.

The prefix stands right before the text, ``[pads][prefix][text]``; what comes back has the shape
and the order of what the caller gave.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base_model import check_length, embed, real_tokens
from .joining import LedTokens, lead, read
from .layer import ActiveAdapter
from .recommending import HISTORY_ARGUMENTS

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
        return call(**_continued(arguments, active.config.num_prefix_tokens))
    if "position_ids" in arguments:
        raise ValueError(
            "position ids follow from attention_mask once virtual tokens are in place; leave "
            "position_ids out"
        )
    text = embed(lm, arguments.pop("input_ids", None), arguments.pop("inputs_embeds", None))
    attention_mask = arguments.pop("attention_mask", None)
    led = lead_text(lm, active, text, attention_mask, **histories)
    arguments["inputs_embeds"] = led.inputs_embeds
    if attention_mask is not None:
        arguments["attention_mask"] = led.attention_mask
    if "labels" in arguments:
        arguments["labels"] = _placed(arguments["labels"], led, IGNORE_INDEX)
    if "token_type_ids" in arguments:
        arguments["token_type_ids"] = _placed(arguments["token_type_ids"], led, 0)
    # Which positions are wanted is counted in the caller's tokens, so it is applied at the end.
    wanted = arguments.pop("logits_to_keep", 0)
    as_dict = arguments.pop("return_dict", getattr(lm.config, "return_dict", True))
    output = call(**arguments, return_dict=True)
    for name in PER_TOKEN_OUTPUTS:
        if output.get(name) is not None:
            values = read(output[name], led.text_positions)
            if name == "logits":
                values = values[:, -wanted:] if isinstance(wanted, int) else values[:, wanted]
            output[name] = values
    if output.get("hidden_states") is not None:
        output["hidden_states"] = tuple(
            read(states, led.text_positions) for states in output["hidden_states"]
        )
    return output if as_dict else output.to_tuple()


def generate_with_prefix(
    lm: PreTrainedModel,
    active: ActiveAdapter,
    inputs: Tensor | None,
    **arguments: Any,
) -> Any:
    """Runs the LM's own ``generate`` from the embedded prefix and text.

    Args:
        lm: the bare language model.
        active: the adapter.
        inputs: ``(B, T)`` int64 token ids, or None with ``input_ids`` or ``inputs_embeds``.
        **arguments: those of ``generate``, and maybe a history.

    Returns:
        What ``generate`` returns for the text; lengths do not count the prefix.

    Raises:
        ValueError: without any text, or with a cache from elsewhere.
    """
    histories = {name: arguments.pop(name, None) for name in HISTORY_ARGUMENTS}
    input_ids = arguments.pop("input_ids", None) if inputs is None else inputs
    embedded = arguments.pop("inputs_embeds", None)
    if arguments.get("past_key_values") is not None:
        raise ValueError(
            "generate() with a Bi-Tuning adapter starts from the whole text: leave "
            "past_key_values out"
        )
    attention_mask = arguments.pop("attention_mask", None)
    config = arguments.pop("generation_config", None) or lm.generation_config
    if attention_mask is None and input_ids is not None:
        attention_mask = _mask_of_padding(input_ids, arguments, config)
    text = embed(lm, None if embedded is not None else input_ids, embedded)
    led = lead_text(lm, active, text, attention_mask, **histories)
    num_given = 0 if input_ids is None else input_ids.size(1)
    return lm.generate(
        input_ids,
        inputs_embeds=led.inputs_embeds,
        attention_mask=led.attention_mask,
        **_lengths_in_new_tokens(arguments, config, num_given),
    )


def lead_text(
    lm: PreTrainedModel,
    active: ActiveAdapter,
    text: Tensor,
    attention_mask: Tensor | None,
    *,
    history: Tensor | None,
    history_mask: Tensor | None,
    history_states: Tensor | None,
) -> LedTokens:
    """Puts each user's prefix before the ``(B, T, D)`` text."""
    states, states_mask = active.states(
        history=history, history_mask=history_mask, history_states=history_states, like=text
    )
    check_length(lm, num_prefix=active.config.num_prefix_tokens, num_text=text.size(1))
    prefix = active.adapter.prefix_for(states, states_mask).prefix
    return lead(prefix, text, real_tokens(text, attention_mask))


def _remembers(memory: Any) -> bool:
    """Whether a cache holds anything yet."""
    if hasattr(memory, "get_seq_length"):
        return memory.get_seq_length() > 0
    return memory is not None


def _continued(arguments: dict[str, Any], num_prefix: int) -> dict[str, Any]:
    """Arguments for tokens that follow remembered ones, among which the prefix is."""
    mask = arguments.get("attention_mask")
    if mask is not None:
        with_prefix = torch.cat([mask.new_ones(len(mask), num_prefix), mask], dim=1)
        # The remembered order is [pads][prefix][text].
        arguments["attention_mask"] = with_prefix.sort(dim=1).values
    if "position_ids" in arguments:
        arguments["position_ids"] = arguments["position_ids"] + num_prefix
    return arguments


def _placed(values: Tensor, led: LedTokens, filling: int) -> Tensor:
    """Moves ``(B, T)`` values to where their tokens stand now; the rest is ``filling``."""
    placed = values.new_full(led.attention_mask.shape, filling)
    placed = placed.scatter(1, led.text_positions, values)
    return placed.masked_fill(led.attention_mask == 0, filling)


def _mask_of_padding(input_ids: Tensor, arguments: dict[str, Any], config: Any) -> Tensor:
    """What ``generate`` takes for padding when it is given no mask: ``(B, T)`` int64."""
    pad = arguments.get("pad_token_id", config.pad_token_id)
    ends = arguments.get("eos_token_id", config.eos_token_id)
    ends = ends if isinstance(ends, list | tuple) else [ends]
    if pad is None or pad in ends:
        return torch.ones_like(input_ids)
    return (input_ids != pad).long()


def _lengths_in_new_tokens(
    arguments: dict[str, Any], config: Any, num_given: int
) -> dict[str, Any]:
    """Says ``max_length`` and ``min_length`` in new tokens: ``generate`` would count the prefix."""
    config = copy.deepcopy(config)
    for whole, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = arguments.pop(whole, None) or getattr(config, whole, None)
        is_set = arguments.get(new) is not None or getattr(config, new, None) is not None
        setattr(config, whole, None)
        if length and not is_set:
            arguments[new] = max(length - num_given, 0)
    return {**arguments, "generation_config": config}
