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
from laser_peft.masking import newest_state

from .base_model import embed, real_tokens
from .fusing import fuse, reading_loss
from .layer import ActiveAdapter
from .output import BiTuningOutput
from .reading import UserTexts, user_states
from .text_memory import TextMemory

# What says whose history it is, in a recommendation and in a text.
HISTORY_ARGUMENTS = ("history", "history_mask", "history_states")
# What says of which part of which text each user is told, where users share texts.
BEGINNING_ARGUMENTS = ("text_rows", "text_lengths", "ending_ids")
# What only a recommendation takes.
RECOMMENDATION_ARGUMENTS = (
    *HISTORY_ARGUMENTS,
    *BEGINNING_ARGUMENTS,
    "text_memory",
    *("item_vectors", "negatives", "return_logits", "return_user_vectors"),
)
# What Trainer, tokenizers and PEFT's task wrappers add to a call; none of it concerns us here.
IGNORED_ARGUMENTS = frozenset(
    {
        *("output_attentions", "output_hidden_states", "use_cache", "token_type_ids"),
        *("num_items_in_batch", "return_user_vectors"),
    }
)


TENSORS = (
    *(*HISTORY_ARGUMENTS, *BEGINNING_ARGUMENTS),
    *("item_vectors", "labels", "negatives", "input_ids", "inputs_embeds"),
)
INDICES = (*BEGINNING_ARGUMENTS, "input_ids", "history", "labels", "negatives")


class RecommendationInputs(NamedTuple):
    """What a recommendation takes; ``BiTuningModel.forward`` says what each is."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None
    history: Tensor | None = None
    history_mask: Tensor | None = None
    history_states: Tensor | None = None
    text_rows: Tensor | None = None
    text_lengths: Tensor | None = None
    ending_ids: Tensor | None = None
    text_memory: TextMemory | None = None
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
        inputs = cls(**{name: arguments[name] for name in known if name in arguments})._remembered()
        for name in INDICES:
            values = getattr(inputs, name)
            if values is not None and (values.is_floating_point() or values.is_complex()):
                raise ValueError(f"{name} must hold whole numbers, got {values.dtype}")
        text = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        _check_beginnings(inputs, text)
        users = text if inputs.text_rows is None else inputs.text_rows
        if inputs.labels is not None and users is not None:
            if inputs.labels.shape != users.shape[:1]:
                raise ValueError(
                    "labels of a recommendation are the next items' ids, one a user, of shape "
                    f"({len(users)},), got {tuple(inputs.labels.shape)}; for the loss of the text "
                    "set return_user_vectors=False and give labels of the text's shape"
                )
        _check_negatives(inputs)
        return inputs

    def _remembered(self) -> "RecommendationInputs":
        """Puts what is remembered of a text before what is given of it.

        Raises:
            ValueError: if the text comes in a way that a memory has no room for.
        """
        memory = self.text_memory
        if memory is None:
            return self
        others = ("attention_mask", "inputs_embeds", "text_rows", "text_lengths")
        beside = [name for name in others if getattr(self, name) is not None]
        if beside:
            raise ValueError(
                f"text_memory does not go with {beside[0]}: it continues one user's text by "
                "input_ids alone, without padding"
            )
        ids = memory.extended(self.input_ids)
        row = ids.new_zeros(1)
        return self._replace(input_ids=ids, text_rows=row, text_lengths=row + ids.size(1))

    @property
    def beginnings(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Which part of which text each user is told in, and what follows each part."""
        return self.text_rows, self.text_lengths, self.ending_ids


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
    if any(
        name in arguments
        for name in ("item_vectors", "negatives", "text_memory", *BEGINNING_ARGUMENTS)
    ):
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
    texts = UserTexts(
        text,
        real_tokens(text, inputs.attention_mask),
        inputs.input_ids,
        *(None if given is None else given.to(text.device) for given in inputs.beginnings),
    )
    states, states_mask = active.states(
        history=inputs.history,
        history_mask=inputs.history_mask,
        history_states=inputs.history_states,
        like=text.new_zeros(texts.num_users, 0),
    )
    condensed = adapter.prefix_for(states, states_mask)
    if active.counts_correction:
        read = user_states(call, lm, active, texts, condensed.prefix, inputs.text_memory)
        if inputs.text_memory is not None:
            inputs.text_memory.ids = inputs.input_ids
        learned = adapter.head(read).to(text.device)
    else:
        learned = states.new_zeros(texts.num_users, adapter.items.text_dim)
    collaborative = newest_state(states, states_mask) if config.collaborative_skip else None
    queries = active.text_queries(inputs.history, inputs.history_mask)
    if config.item_vectors == "fused":
        user_vectors = fuse(adapter, collaborative, learned, queries and newest_state(*queries))
    else:
        user_vectors = learned if collaborative is None else learned + collaborative  # (B, R)
    if config.similarity == "cosine":
        user_vectors = F.normalize(user_vectors, dim=-1)

    aux_loss = loss = logits = reading = None
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
            # Where users share texts they are all positions already.
            learns = learns and inputs.text_rows is None
            if learns and queries is not None and inputs.history is not None:
                texts = adapter.items.of_text()
                reading = reading_loss(*queries, inputs.history, texts, negatives)
                loss = loss + reading
    output = BiTuningOutput(
        loss=loss,
        user_vectors=user_vectors,
        logits=logits,
        correction=None if queries is None else learned[:, -adapter.items.text_dim :],
        router_probs=condensed.router_probs,
        router_chosen=condensed.router_chosen,
        aux_loss=aux_loss,
        reading_loss=reading,
    )
    return output if inputs.return_dict else output.to_tuple()


def _check_beginnings(inputs: RecommendationInputs, text: Tensor | None) -> None:
    rows, lengths, ending = inputs.beginnings
    if rows is None and lengths is None and ending is None:
        return
    if rows is None or lengths is None:
        raise ValueError(
            "users who share texts need text_rows (n,), the text of each, and text_lengths (n,), "
            "how many of its tokens; give both"
        )
    if rows.ndim != 1 or rows.shape != lengths.shape or not len(rows):
        raise ValueError(
            "text_rows and text_lengths must have the same shape (n,), a text and a length for "
            f"each of at least one user, got {tuple(rows.shape)} and {tuple(lengths.shape)}"
        )
    if ending is not None and ending.ndim != 1:
        raise ValueError(
            f"ending_ids must have the shape (E,), the same for all, got {tuple(ending.shape)}"
        )
    # Elsewhere the check would wait for the device.
    if text is None or rows.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if rows.min() < 0 or rows.max() >= len(text):
        raise ValueError(
            f"text_rows must lie in 0..{len(text) - 1}, the rows of the text, got "
            f"{int(rows.min())}..{int(rows.max())}"
        )
    if lengths.min() < 0 or lengths.max() > text.size(1):
        raise ValueError(
            f"text_lengths must lie in 0..{text.size(1)}, the tokens of a text, got "
            f"{int(lengths.min())}..{int(lengths.max())}"
        )
    mask = inputs.attention_mask
    if mask is None or mask.shape != text.shape[:2] or mask.device.type != "cpu":
        return
    real = mask.bool().sum(1)[rows]
    if (lengths > real).any():
        user = int((lengths > real).nonzero()[0])
        raise ValueError(
            "text_lengths must be at most the real tokens of the text, for pads cannot be read: "
            f"text {int(rows[user])} has {int(real[user])}, and a user of it has "
            f"{int(lengths[user])}; count no pads"
        )


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
