"""Reads each user's history and text into a user vector, and scores the catalogue with it.

Axes: B users, T text tokens, L items in a history, N items in the catalogue, S suffix tokens,
C collaborative width, D width of the LM, R recommendation width.
Follows §3 of arXiv 2409.01605; docs/method.md lists where we differ.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from laser_peft.losses import next_item_loss, router_balance_loss
from laser_peft.masking import newest_state

from .adapter import BiTuningAdapter
from .base_model import embed, real_tokens
from .fusing import fuse, reading_loss
from .inputs import RecommendationInputs
from .layer import ActiveAdapter
from .output import BiTuningOutput
from .reading import UserTexts, user_states
from .text_memory import keep_ids


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
    condensed = None
    if active.counts_correction:
        condensed = adapter.prefix_for(states, states_mask)
        read = user_states(call, lm, active, texts, condensed.prefix, inputs.memories)
        learned = adapter.head(read).to(text.device)
    else:
        learned = states.new_zeros(texts.num_users, adapter.items.text_dim)
    collaborative = newest_state(states, states_mask) if config.collaborative_skip else None
    queries = None
    if _reader_learns(adapter, inputs):
        queries = active.text_queries(inputs.history, inputs.history_mask)
    if queries is not None:
        text_query = newest_state(*queries)
    else:
        text_query = active.newest_text_query(inputs.history, inputs.history_mask)
    if config.item_vectors == "fused":
        user_vectors = fuse(adapter, collaborative, learned, text_query)
    else:
        user_vectors = learned if collaborative is None else learned + collaborative  # (B, R)
    if config.similarity == "cosine":
        user_vectors = F.normalize(user_vectors, dim=-1)

    aux_loss = loss = logits = reading = None
    probs, chosen = (None, None) if condensed is None else condensed[1:]
    if probs is not None and chosen is not None:
        aux_loss = router_balance_loss(probs, chosen)
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
            if queries is not None and inputs.history is not None:
                item_texts = adapter.items.of_text()
                reading = reading_loss(*queries, inputs.history, item_texts, negatives)
                loss = loss + reading
    if inputs.memories and inputs.input_ids is not None:
        keep_ids(inputs.memories, inputs.input_ids, texts.is_real)
    output = BiTuningOutput(
        loss=loss,
        user_vectors=user_vectors,
        logits=logits,
        correction=None if text_query is None else learned[:, -adapter.items.text_dim :],
        router_probs=probs,
        router_chosen=chosen,
        aux_loss=aux_loss,
        reading_loss=reading,
    )
    return output if inputs.return_dict else output.to_tuple()


def _reader_learns(adapter: BiTuningAdapter, inputs: RecommendationInputs) -> bool:
    """Tells whether the text reader learns from all positions of these histories."""
    reader = adapter.text_reader
    if reader is None or inputs.labels is None or not adapter.training:
        return False
    # Frozen, it has learnt before (laser_peft.training.phases). Where users share texts they are
    # all positions already.
    is_frozen = not torch.is_grad_enabled() or not reader.projection.weight.requires_grad
    return not is_frozen and inputs.text_rows is None
