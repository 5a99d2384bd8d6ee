"""Reads users in the language model: their text, prefix and suffix in the layout's order.

Axes: B texts, T text tokens, E tokens of an ending, n users (B unless they share texts), P prefix
tokens, S suffix tokens, D width of the LM's embeddings, H width of its last hidden states.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laser_peft.masking import mean_over_real
from laser_peft.portions import TOKENS_IN_CACHES, cheapest_parts, portions

from .base_model import (
    check_length,
    embed,
    end_of_text,
    inputs_beside_embeddings,
    last_hidden_states,
    real_tokens,
)
from .beginnings import can_share, read_beginnings
from .config import BiTuningConfig
from .few_lengths import rounded_up
from .joining import JoinedTokens, join, pack, read
from .layer import ActiveAdapter
from .text_memory import TextMemory, can_remember, states_after, tokens_at_once
from .trimming import only_at

# What a call costs beside its tokens, on a processor and with a small language model.
USERS_OF_A_CALL = 40


class UserTexts(NamedTuple):
    """What a batch of users is told in.

    Args:
        embedded: ``(B, T, D)`` float tokens, padding anywhere.
        is_real: ``(B, T)`` bool.
        ids: ``(B, T)`` int64, None where the text came embedded.
        rows: ``(n,)`` int64, the text of each user; None: one each.
        lengths: ``(n,)`` int64, how many of its real tokens the user is told in.
        ending: ``(E,)`` int64, tokens behind each of these beginnings.
    """

    embedded: Tensor
    is_real: Tensor
    ids: Tensor | None
    rows: Tensor | None = None
    lengths: Tensor | None = None
    ending: Tensor | None = None

    @property
    def num_users(self) -> int:
        """How many users n there are."""
        return len(self.embedded if self.rows is None else self.rows)

    @property
    def most_users_of_one(self) -> int:
        """How many users K the text with the most of them has."""
        return 1 if self.rows is None else int(self.rows.bincount().max())

    def one_each(self, lm: PreTrainedModel) -> "UserTexts":
        """Gives each user a text of its own, with the ending."""
        if self.rows is None or self.lengths is None:
            return self
        embedded, is_real = self.embedded[self.rows], self.is_real[self.rows]
        ids = None if self.ids is None else self.ids[self.rows]
        is_real = is_real & (is_real.cumsum(1) <= self.lengths[:, None])
        if self.ending is not None:
            n = len(embedded)
            ending = embed(lm, self.ending[None], None).to(embedded)
            embedded = torch.cat([embedded, ending.expand(n, -1, -1)], 1)
            is_real = torch.cat([is_real, is_real.new_ones(n, ending.size(1))], 1)
            if ids is not None:
                ids = torch.cat([ids, self.ending.to(ids).expand(n, -1)], 1)
        return UserTexts(embedded, is_real, ids)


def user_states(
    call: Callable[..., Any],
    lm: PreTrainedModel,
    active: ActiveAdapter,
    texts: UserTexts,
    prefix: Tensor,
    memories: Sequence[TextMemory] = (),
) -> Tensor:
    """Reads each user.

    Args:
        call: the LM's own call.
        lm: the language model.
        active: the adapter.
        texts: what the users are told in.
        prefix: ``(n, P, D)`` float.
        memories: of the texts, which one user each is told in whole; none: nothing is kept.

    Returns:
        ``(n, S, H)`` float, the states that the user is read from.

    Raises:
        ValueError: if the LM has no positions for so many tokens.
    """
    reading = active.config.suffix_reading
    suffix = _suffix(lm, active, texts.embedded)
    num_tokens = texts.embedded.size(1)
    num_ending = 0 if texts.ending is None else len(texts.ending)
    num_text = num_tokens + num_ending
    check_length(lm, num_prefix=prefix.size(1), num_text=num_text, num_suffix=len(suffix))
    # A text that needs gradients itself, as where inputs are explained, is read with them; and how
    # many users share one is no constant of a graph.
    may_share = not texts.embedded.requires_grad
    if torch.compiler.is_compiling() and texts.rows is not None:
        may_share = False
    if memories and texts.lengths is not None:
        num_tokens = tokens_at_once(memories, texts.lengths.tolist())
        may_share = may_share and can_remember(lm)
    if may_share and (torch.is_grad_enabled() or texts.rows is not None):
        if shares_texts(lm, active.config, num_tokens, num_ending, texts.most_users_of_one):
            return _after_shared_texts(lm, texts, prefix, suffix, memories)
    texts = texts.one_each(lm)
    text_first = active.config.layout == "text_first"
    joined = join(prefix, texts.embedded, suffix, texts.is_real, text_first=text_first)
    in_portions = _goes_in_portions(lm, joined)
    if not in_portions:
        joined = joined.padded_to(rounded_up(lm, joined.inputs_embeds))
    extra = inputs_beside_embeddings(lm, texts.ids, joined)

    def read_all(joined: JoinedTokens, extra: dict[str, Tensor]) -> Tensor:
        wanted = nullcontext() if reading == "mean" else only_at(lm, joined.suffix_positions)
        with wanted:
            hidden = last_hidden_states(lm, call, inputs_embeds=joined.inputs_embeds, **extra)
        if reading == "mean":
            return mean_over_real(hidden, joined.is_text.to(hidden.device)).unsqueeze(1)
        return read(hidden, joined.suffix_positions)

    if not in_portions:
        return read_all(joined, extra)
    lengths = joined.is_real.sum(1).tolist()
    order: list[int] = []
    states: list[Tensor] = []
    for rows in portions(lengths, most_tokens=TOKENS_IN_CACHES):
        longest = lengths[rows[0]]
        own = {name: values[rows, :longest] for name, values in extra.items()}
        states.append(read_all(joined.of(rows, longest), own))
        order += rows
    return torch.cat(states)[torch.tensor(order).argsort()]


def _goes_in_portions(lm: PreTrainedModel, joined: JoinedTokens) -> bool:
    """Tells whether a batch that a processor only reads is too large for its caches."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    tokens = joined.inputs_embeds
    is_large = len(tokens) > 1 and joined.is_real.numel() > TOKENS_IN_CACHES
    return is_large and tokens.device.type == "cpu" and not _is_sharded(lm)


def _is_sharded(lm: PreTrainedModel) -> bool:
    """Tells whether processes hold shards of the weights, and so make equally many calls."""
    return hasattr(lm.get_input_embeddings().weight, "device_mesh")


def shares_texts(
    lm: PreTrainedModel, config: BiTuningConfig, num_tokens: int, num_ending: int, num_users: int
) -> bool:
    """Tells whether all users of a text are read on one reading of it.

    Args:
        lm: the language model.
        config: of the adapter, resolved.
        num_tokens: T of the text.
        num_ending: E of the ending.
        num_users: the most that one text has.
    """
    behind = num_ending + config.num_prefix_tokens + max(config.num_suffix_tokens, 1)
    return config.layout == "text_first" and can_share(lm, num_tokens + num_users * behind)


def _after_shared_texts(
    lm: PreTrainedModel,
    texts: UserTexts,
    prefix: Tensor,
    suffix: Tensor,
    memories: Sequence[TextMemory],
) -> Tensor:
    """Reads each text once, without gradients, and each user's tokens behind it."""
    text, num_users = texts.embedded, texts.num_users
    rows, lengths = texts.rows, texts.lengths
    one_each = rows is None
    if rows is None or lengths is None:
        rows, lengths = torch.arange(num_users, device=text.device), texts.is_real.sum(1)
    parts = [prefix.to(text), suffix.to(text).expand(num_users, -1, -1)]
    if texts.ending is not None:
        ending = embed(lm, texts.ending[None], None).to(text)
        parts.insert(0, ending.expand(num_users, -1, -1))
    behind = torch.cat(parts, 1)
    if memories:
        return states_after(lm, memories, text, lengths.tolist(), behind, num_read=len(suffix))
    packed = pack(text, texts.is_real).inputs_embeds
    read_behind = partial(read_beginnings, lm, num_read=len(suffix))
    if one_each or text.device.type != "cpu" or _is_sharded(lm):
        return read_behind(packed, rows, lengths, behind, one_each=one_each)
    return _in_parts(read_behind, packed, rows, lengths, behind)


def _in_parts(
    read_behind: Callable[..., Tensor], text: Tensor, rows: Tensor, lengths: Tensor, tokens: Tensor
) -> Tensor:
    """Reads texts with like many users together, for those of a text are padded to the most.

    Args:
        read_behind: reads the other arguments, as ``read_beginnings`` takes them.
        text: ``(B, T, D)`` float.
        rows: ``(n,)`` int64, the text of each user.
        lengths: ``(n,)`` int64.
        tokens: ``(n, V, D)`` float.

    Returns:
        ``(n, S, H)`` float states.
    """
    counts = rows.bincount(minlength=len(text)).tolist()
    parts = cheapest_parts(counts, USERS_OF_A_CALL)
    if len(parts) == 1:
        return read_behind(text, rows, lengths, tokens)
    order: list[Tensor] = []
    states: list[Tensor] = []
    for part in parts:
        place = rows.new_full((len(text),), -1)  # of each text in this part
        place[part] = torch.arange(len(part))
        users = (place[rows] >= 0).nonzero()[:, 0]
        if len(users):
            own = text[part, : max(int(lengths[users].max()), 1)]
            states.append(read_behind(own, place[rows[users]], lengths[users], tokens[users]))
            order.append(users)
    return torch.cat(states)[torch.cat(order).argsort()]


def _suffix(lm: PreTrainedModel, active: ActiveAdapter, text: Tensor) -> Tensor:
    """What follows everything else: ``(S, D)``, S may be 0."""
    if active.adapter.suffix is not None:
        return active.adapter.suffix()
    if active.config.suffix_reading == "eos":
        return end_of_text(lm)
    return text.new_zeros(0, text.size(-1))


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
    joined = pack(text, real_tokens(text, attention_mask))
    extra = inputs_beside_embeddings(lm, input_ids, joined)
    hidden = last_hidden_states(lm, call, inputs_embeds=joined.inputs_embeds, **extra)
    last = read(hidden, joined.text_positions)
    return torch.cat([text.to(last), last], dim=-1)
