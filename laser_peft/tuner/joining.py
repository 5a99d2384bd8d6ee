"""Puts virtual tokens around each user's real tokens: ``[prefix][text][suffix][pads]``.

Axes: B users, P prefix tokens, T text tokens, S suffix tokens, D width of the LM.

Every pad stands after everything that is read, so a causal LM needs no attention mask, its default
position ids are right, and neither padding nor the batch around a user can reach the user's states.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class JoinedTokens(NamedTuple):
    """A batch ready for the LM."""

    inputs_embeds: Tensor  # (B, P + T + S, D) float
    suffix_positions: Tensor  # (B, S) int64, where to read the suffix


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
    batch, num_prefix, dim = prefix.shape
    num_text, num_suffix = text.size(1), suffix.size(0)
    device = text.device

    real_first = torch.argsort(~attention_mask, dim=1, stable=True)  # (B, T)
    text_ends = num_prefix + attention_mask.sum(1, keepdim=True)  # (B, 1)
    suffix_positions = text_ends + torch.arange(num_suffix, device=device)  # (B, S)

    # Row-wise permutation of [prefix][text][suffix]: real tokens first, then suffix, then pads.
    source = torch.cat(
        [
            torch.arange(num_prefix, device=device).expand(batch, -1),
            num_prefix + real_first,
            num_prefix + num_text + torch.arange(num_suffix, device=device).expand(batch, -1),
        ],
        dim=1,
    )
    position = torch.arange(source.size(1), device=device)
    is_pad = (position >= text_ends) & (position < num_prefix + num_text)
    order = torch.argsort(is_pad, dim=1, stable=True)  # pads move behind the suffix
    source = source.gather(1, order)

    tokens = torch.cat(
        [prefix.to(text.dtype), text, suffix.to(text.dtype).expand(batch, -1, -1)], dim=1
    )
    inputs_embeds = tokens.gather(1, source.unsqueeze(-1).expand(-1, -1, dim))
    return JoinedTokens(inputs_embeds, suffix_positions)


def read(states: Tensor, positions: Tensor) -> Tensor:
    """Picks the states at the given positions.

    Args:
        states: ``(B, X, D)`` float.
        positions: ``(B, S)`` int64 in ``0..X-1``.

    Returns:
        ``(B, S, D)`` float, contiguous (a strided slice before a frozen linear layer is slow).
    """
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.size(-1)))
