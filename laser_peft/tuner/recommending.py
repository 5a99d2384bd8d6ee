"""Reads each user's history and text into a user vector, and scores the catalogue with it.

Axes: B users, T text tokens, L items in a history, N items in the catalogue, S suffix tokens,
C collaborative width, D width of the LM, R recommendation width.
Follows §3 of arXiv 2409.01605; docs/method.md lists where we differ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from laser_peft.losses import next_item_loss, router_balance_loss
from laser_peft.masking import mean_over_real, newest_state

from .base_model import (
    check_length,
    embed,
    end_of_text,
    inputs_beside_embeddings,
    last_hidden_states,
    real_tokens,
)
from .fusing import fuse, reading_loss
from .joining import JoinedTokens, join, read
from .layer import ActiveAdapter
from .output import BiTuningOutput

# What says whose history it is, in a recommendation and in a text.
HISTORY_ARGUMENTS = ("history", "history_mask", "history_states")
# What only a recommendation takes.
RECOMMENDATION_ARGUMENTS = (
    *HISTORY_ARGUMENTS,
    *("item_vectors", "negatives", "return_logits", "return_user_vectors"),
)
# What Trainer, tokenizers and PEFT's task wrappers add to a call; none of it concerns us here.
IGNORED_ARGUMENTS = frozenset(
    {
        *("output_attentions", "output_hidden_states", "use_cache", "token_type_ids"),
        *("num_items_in_batch", "return_user_vectors"),
    }
)


TENSORS = (*HISTORY_ARGUMENTS, "item_vectors", "labels", "negatives", "input_ids", "inputs_embeds")
INDICES = ("input_ids", "history", "labels", "negatives")


class RecommendationInputs(NamedTuple):
    """What a recommendation takes; ``BiTuningModel.forward`` says what each is."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None
    history: Tensor | None = None
    history_mask: Tensor | None = None
    history_states: Tensor | None = None
    item_vectors: Tensor | None = None
    labels: Tensor | None = None
    negatives: Tensor | None = None
    return_logits: bool = False
    return_dict: bool = True

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> "RecommendationInputs":
        """Takes them from the arguments of a call.

        Raises:
            TypeError: for an argument that is not among them.
            ValueError: for labels that are not item ids, or negatives without labels or of a wrong
                shape.
        """
        known = cls._fields
        unknown = sorted(
            name for name in arguments if name not in known and name not in IGNORED_ARGUMENTS
        )
        if unknown:
            raise TypeError(
                f"a recommendation does not take the arguments {unknown}; it takes "
                f"{', '.join(known)} and return_user_vectors"
            )
        inputs = cls(**{name: arguments[name] for name in known if name in arguments})
        for name in INDICES:
            values = getattr(inputs, name)
            if values is not None and (values.is_floating_point() or values.is_complex()):
                raise ValueError(f"{name} must hold whole numbers, got {values.dtype}")
        text = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        if inputs.labels is not None and text is not None:
            if inputs.labels.shape != text.shape[:1]:
                raise ValueError(
                    "labels of a recommendation are the next items' ids, one a user, of shape "
                    f"({len(text)},), got {tuple(inputs.labels.shape)}; for the loss of the text "
                    "set return_user_vectors=False and give labels of the text's shape"
                )
        _check_negatives(inputs)
        return inputs


def wants_recommendation(arguments: dict[str, Any]) -> bool:
    """Tells a recommendation from plain use of the LM by the arguments of a call.

    Raises:
        ValueError: if an argument is no tensor, or labels of items are given to plain use.
    """
    for name in TENSORS:
        if name in arguments and not isinstance(arguments[name], Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(arguments[name]).__name__}")
    labels, asked = arguments.get("labels"), arguments.get("return_user_vectors")
    has_item_labels = labels is not None and labels.ndim == 1
    if asked is False and has_item_labels:
        raise ValueError(
            "labels of shape (B,) are item ids and return_user_vectors=False asks for the language "
            "model; leave one of them out"
        )
    if asked is not None:
        return bool(asked)
    if has_item_labels or arguments.get("return_logits"):
        return True
    if "item_vectors" in arguments or "negatives" in arguments:
        return True
    return labels is None and any(name in arguments for name in HISTORY_ARGUMENTS)


def recommend(
    call: Callable[..., Any],
    lm: PreTrainedModel,
    active: ActiveAdapter,
    inputs: RecommendationInputs,
) -> BiTuningOutput | tuple[Any, ...]:
    """Turns a batch of users into user vectors, and scores and a loss where asked for.

    Args:
        call: the LM's own call.
        lm: the language model.
        active: the adapter.
        inputs: users, labels and what to return.

    Returns:
        A :class:`BiTuningOutput`, as a tuple without ``return_dict``.

    Raises:
        ValueError: if the inputs contradict each other, the adapter or the LM.
    """
    adapter, config = active.adapter, active.config
    text = embed(lm, inputs.input_ids, inputs.inputs_embeds)
    is_real = real_tokens(text, inputs.attention_mask)
    states, states_mask = active.states(
        history=inputs.history,
        history_mask=inputs.history_mask,
        history_states=inputs.history_states,
        like=text,
    )
    condensed = adapter.prefix_for(states, states_mask)
    suffix = _suffix(lm, active, text)
    check_length(
        lm, num_prefix=condensed.prefix.size(1), num_text=text.size(1), num_suffix=len(suffix)
    )
    joined = join(condensed.prefix, text, suffix, is_real)
    extra = inputs_beside_embeddings(lm, inputs.input_ids, joined)
    hidden = last_hidden_states(lm, call, inputs_embeds=joined.inputs_embeds, **extra)
    learned = adapter.head(_read_user(hidden, joined, config.suffix_reading)).to(text.device)
    collaborative = newest_state(states, states_mask) if config.collaborative_skip else None
    queries = active.text_queries(inputs.history, inputs.history_mask)
    if config.item_vectors == "fused":
        user_vectors = fuse(adapter, collaborative, learned, queries and newest_state(*queries))
    else:
        user_vectors = learned if collaborative is None else learned + collaborative  # (B, R)
    if config.similarity == "cosine":
        user_vectors = F.normalize(user_vectors, dim=-1)

    aux_loss = loss = logits = None
    if condensed.router_probs is not None and condensed.router_chosen is not None:
        aux_loss = router_balance_loss(condensed.router_probs, condensed.router_chosen)
    if inputs.labels is not None or inputs.return_logits:
        catalogue = active.item_vectors(inputs.item_vectors).to(user_vectors.device)
        scaled = user_vectors / config.temperature
        if inputs.return_logits:
            logits = scaled.float() @ catalogue.float().T
        if inputs.labels is not None:
            labels, negatives = inputs.labels.to(scaled.device), inputs.negatives
            if negatives is not None:
                negatives = negatives.to(scaled.device)
            loss = next_item_loss(scaled, catalogue, labels, negatives)
            if aux_loss is not None:
                loss = loss + config.router_balance_weight * aux_loss
            # Frozen, the text reader has learnt before (laser_peft.training.phases).
            learns = adapter.training and queries is not None and queries[0].requires_grad
            if learns and queries is not None and inputs.history is not None:
                texts = adapter.items.of_text()
                loss = loss + reading_loss(*queries, inputs.history, texts, negatives)
    output = BiTuningOutput(
        loss=loss,
        user_vectors=user_vectors,
        logits=logits,
        router_probs=condensed.router_probs,
        aux_loss=aux_loss,
    )
    return output if inputs.return_dict else output.to_tuple()


def _check_negatives(inputs: RecommendationInputs) -> None:
    negatives = inputs.negatives
    if negatives is None:
        return
    if inputs.labels is None:
        raise ValueError(
            "negatives are what the loss compares labels with, and there are no labels; give "
            "labels (B,), the next items' ids, or leave negatives out"
        )
    if negatives.ndim != 1 or not len(negatives):
        raise ValueError(
            "negatives must be the ids of at least one item, the same for all users, of shape "
            f"(K,), got {tuple(negatives.shape)}"
        )


@torch.no_grad()
def text_states(
    call: Callable[..., Any], lm: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """Reads texts with the bare language model.

    Args:
        call: the LM's own call.
        lm: the language model.
        input_ids: ``(B, T)`` int64, padding anywhere.
        attention_mask: ``(B, T)``, nonzero where a token is real. None: all are.

    Returns:
        ``(B, T, D + H)`` float, each token's embedding and beside it its last hidden state, in
        the order of the tokens. The embeddings keep words that a small LM's last layer has lost.
    """
    text = embed(lm, input_ids, None)
    none = text.new_zeros(len(text), 0, text.size(-1))
    joined = join(none, text, none[0], real_tokens(text, attention_mask))
    extra = inputs_beside_embeddings(lm, input_ids, joined)
    hidden = last_hidden_states(lm, call, inputs_embeds=joined.inputs_embeds, **extra)
    last = read(hidden, joined.text_positions)
    return torch.cat([text.to(last), last], dim=-1)


def _suffix(lm: PreTrainedModel, active: ActiveAdapter, text: Tensor) -> Tensor:
    """What follows the text: ``(S, D)``, S may be 0."""
    if active.adapter.suffix is not None:
        return active.adapter.suffix()
    if active.config.suffix_reading == "eos":
        return end_of_text(lm)
    return text.new_zeros(0, text.size(-1))


def _read_user(hidden: Tensor, joined: JoinedTokens, suffix_reading: str) -> Tensor:
    """Picks what the user is read from: ``(B, S, H)``."""
    if suffix_reading == "mean":
        return mean_over_real(hidden, joined.is_text.to(hidden.device)).unsqueeze(1)
    return read(hidden, joined.suffix_positions)
