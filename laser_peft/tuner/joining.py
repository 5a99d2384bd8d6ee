"""Puts virtual tokens around each user's real tokens.

Axes: B users, P prefix tokens, T text tokens, S suffix tokens, D width of the LM.

To recommend: ``[prefix][text][suffix][pads]``. Every pad stands after everything that is read, so
a causal LM needs no attention mask, its default position ids are right, and neither padding nor
the batch around a user can reach the user's states. To write text: ``[pads][prefix][text]``, so
that what is written next follows the text.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class JoinedTokens(NamedTuple):
    """``[prefix][text][suffix][pads]``, ready for the LM without a mask."""

    inputs_embeds: Tensor  # (B, P + T + S, D) float
    is_text: Tensor  # (B, P + T + S) bool, True at real text tokens
    suffix_positions: Tensor  # (B, S) int64


class LedTokens(NamedTuple):
    """``[pads][prefix][text]``, ready for the LM with its mask."""

    inputs_embeds: Tensor  # (B, P + T, D) float
    attention_mask: Tensor  # (B, P + T) int64, 0 at pads
    text_positions: Tensor  # (B, T) int64, where each token of the caller stands now


def join(prefix: Tensor, text: Tensor, suffix: Tensor, attention_mask: Tensor) -> JoinedTokens:
    """Packs each row's real tokens between its prefix and its suffix.

    Args:
        prefix: ``(B, P, D)`` float; the text's dtype decides.
        text: ``(B, T, D)`` float, embedded tokens with padding anywhere.
        suffix: ``(S, D)`` float.
        attention_mask: ``(B, T)`` bool, True where a token is real.

    Returns:
        :class:`JoinedTokens` of the text's dtype; the order of the real tokens is kept.
    """
    batch, num_prefix, _ = prefix.shape
    suffix = suffix.to(text).expand(batch, -1, -1)
    tokens = torch.cat([prefix.to(text), text, suffix], dim=1)
    is_pad = torch.cat(
        [
            attention_mask.new_zeros(batch, num_prefix),
            ~attention_mask,
            attention_mask.new_zeros(batch, suffix.size(1)),
        ],
        dim=1,
    )
    order = torch.argsort(is_pad.to(torch.uint8), dim=1, stable=True)
    position = torch.arange(tokens.size(1), device=text.device)
    text_ends = num_prefix + attention_mask.sum(1, keepdim=True)  # (B, 1)
    return JoinedTokens(
        read(tokens, order),
        (position >= num_prefix) & (position < text_ends),
        text_ends + torch.arange(suffix.size(1), device=text.device),
    )


def lead(prefix: Tensor, text: Tensor, attention_mask: Tensor) -> LedTokens:
    """Puts each row's prefix right before its real tokens and all pads before both.

    Args:
        prefix: ``(B, P, D)`` float; the text's dtype decides.
        text: ``(B, T, D)`` float, embedded tokens with padding anywhere.
        attention_mask: ``(B, T)`` bool, True where a token is real.

    Returns:
        :class:`LedTokens` of the text's dtype; the order of the real tokens is kept.
    """
    batch, num_prefix, _ = prefix.shape
    tokens = torch.cat([prefix.to(text), text], dim=1)
    rank = torch.cat(
        [
            torch.ones(batch, num_prefix, dtype=torch.uint8, device=text.device),
            2 * attention_mask.to(torch.uint8),
        ],
        dim=1,
    )  # pads 0, prefix 1, text 2
    order = torch.argsort(rank, dim=1, stable=True)
    new_position = torch.argsort(order, dim=1)
    return LedTokens(
        read(tokens, order),
        (rank.gather(1, order) > 0).long(),
        new_position[:, num_prefix:],
    )


def read(states: Tensor, positions: Tensor) -> Tensor:
    """Picks the states at the given positions.

    Args:
        states: ``(B, X, D)`` float.
        positions: ``(B, S)`` int64 in ``0..X-1``.

    Returns:
        ``(B, S, D)`` float, contiguous (a strided slice before a frozen linear layer is slow).
    """
    positions = positions.to(states.device)
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.size(-1)))
