"""Writes text with a user's prefix in place, through the language model's own ``generate``.

Axes: B users, T text tokens, P prefix tokens, D width of the LM.

The prompt enters as ``[pads][prefix][text]`` embeddings; what is written follows as token ids.
"""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from .base_model import embed, inputs_beside_embeddings
from .inputs import HISTORY_ARGUMENTS
from .language import join_prefix, mask_and_positions, prefix_of
from .layer import ActiveAdapter

# Keeps no cache, and so has no first step from which to go on by ids alone.
WRITE_WITHOUT_MEMORY = ("openai-gpt",)
# Ways of generating that take the length of what was read from the ids.
COUNT_BY_IDS = (
    "past_key_values",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "prefill_chunk_size",
)
INPUTS_EMBEDS = inspect.Parameter("inputs_embeds", inspect.Parameter.KEYWORD_ONLY, default=None)


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
    for name in COUNT_BY_IDS:
        said = getattr(arguments.get("generation_config"), name, None)
        if arguments.get(name, said) is not None:
            raise ValueError(
                f"generate() with a Bi-Tuning adapter starts from prefix and text, and {name} "
                "counts by the text alone; leave it out, or disable the adapter"
            )
    attention_mask = arguments.pop("attention_mask", None)
    if attention_mask is None and input_ids is not None:
        config = arguments.get("generation_config") or lm.generation_config
        attention_mask = _mask_of_padding(input_ids, arguments, config)
    text = embed(lm, None if embedded is not None else input_ids, embedded)
    prefix = prefix_of(lm, active, text, **histories)
    if lm.config.model_type in WRITE_WITHOUT_MEMORY:
        if input_ids is None:
            raise ValueError(f"{type(lm).__name__} generates from input_ids only")
        _reread_every_step(lm, prefix)
        arguments |= {"attention_mask": attention_mask, "use_cache": False}
        return lm.generate(input_ids, **arguments)
    joined = join_prefix(prefix, text, attention_mask, pads_first=True)
    _start_from_embeddings(lm, inputs_beside_embeddings(lm, input_ids, joined))
    return lm.generate(
        input_ids,
        inputs_embeds=joined.inputs_embeds,
        attention_mask=joined.is_real.long(),
        **_with_lengths_in_new_tokens(arguments, lm.generation_config, text.size(1)),
    )


def _start_from_embeddings(lm: PreTrainedModel, beside: dict[str, Tensor]) -> None:
    """Makes ``generate`` pass the embeddings on, and what goes beside them, at its first step.

    Changes only the object it is given, which must be a view made for one call.
    """
    prepare = lm.prepare_inputs_for_generation

    def prepare_with_embeddings(
        input_ids: Tensor, *, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = prepare(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration:
            for name, values in beside.items():
                num_beams = len(input_ids) // len(values)
                inputs[name] = values.repeat_interleave(num_beams, 0)
        return inputs

    # generate asks the signature whether a model passes them on; some do so without naming them.
    signature = inspect.signature(prepare)
    named = {**signature.parameters, "inputs_embeds": INPUTS_EMBEDS}
    prepare_with_embeddings.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted(named.values(), key=lambda parameter: parameter.kind)
    )
    lm.prepare_inputs_for_generation = prepare_with_embeddings


def _reread_every_step(lm: PreTrainedModel, prefix: Tensor) -> None:
    """Makes ``generate`` read prefix and text anew for every token, like a plain causal LM.

    Changes only the object it is given, which must be a view made for one call.
    """

    def prepare_with_prefix(
        input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        rows = prefix.repeat_interleave(len(input_ids) // len(prefix), 0)
        joined = join_prefix(rows, embed(lm, input_ids, None), attention_mask, pads_first=True)
        return {"inputs_embeds": joined.inputs_embeds, **mask_and_positions(lm, joined.is_real)}

    lm.prepare_inputs_for_generation = prepare_with_prefix


def _mask_of_padding(
    input_ids: Tensor, arguments: dict[str, Any], config: GenerationConfig
) -> Tensor:
    """What ``generate`` takes for padding when it is given no mask: ``(B, T)`` int64."""
    pad = arguments.get("pad_token_id", config.pad_token_id)
    ends = arguments.get("eos_token_id", config.eos_token_id)
    ends = ends if isinstance(ends, list | tuple) else [ends]
    if pad is None or pad in ends:
        return torch.ones_like(input_ids)
    return (input_ids != pad).long()


def _with_lengths_in_new_tokens(
    arguments: dict[str, Any], default: GenerationConfig, num_given: int
) -> dict[str, Any]:
    """Says lengths in new tokens, because ``generate`` would count the prefix among the old."""
    config = copy.deepcopy(arguments.get("generation_config"))
    arguments = dict(arguments)
    for whole, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = arguments.pop(whole, None)
        is_said = arguments.get(new) is not None
        for said in filter(None, (config, default)):
            length = length or getattr(said, whole)
            is_said = is_said or getattr(said, new) is not None
        if config is not None:
            setattr(config, whole, None)
        if length and not is_said:
            arguments[new] = max(length - num_given, 0)
    if config is not None:
        arguments["generation_config"] = config
    return arguments
