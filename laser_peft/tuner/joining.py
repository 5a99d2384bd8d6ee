"""Puts virtual tokens around each user's real tokens.

Axes: B users, P prefix tokens, T text tokens, S suffix tokens, D width of the LM,
X = P + T + S positions.

``[prefix][text][suffix][pads]``: every pad stands after everything that is read, so a causal LM
needs no attention mask, its default position ids are right, and neither padding nor the batch
around a user can reach the user's states; likewise ``[text][prefix][suffix][pads]``. To write text,
``[pads][prefix][text]``: what is written follows the text, as ``generate`` expects.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_FIRST, PREFIX, TEXT, PREFIX_BEHIND, SUFFIX, PAD_LAST = range(6)


class JoinedTokens(NamedTuple):
    """A batch ready for the LM, and where everything stands in it."""

    inputs_embeds: Tensor  # (B, X, D) float
    is_real: Tensor  # (B, X) bool, False at pads
    is_text: Tensor  # (B, X) bool, True at real text tokens
    text_positions: Tensor  # (B, T) int64, where each token of the caller stands now
    suffix_positions: Tensor  # (B, S) int64

    def of(self, rows: list[int], width: int) -> "JoinedTokens":
        """Takes some rows, cut at a width that holds their real tokens."""
        tokens, is_real, is_text = (values[rows, :width] for values in self[:3])
        return JoinedTokens(
            tokens, is_real, is_text, self.text_positions[rows], self.suffix_positions[rows]
        )

    def padded_to(self, width: int) -> "JoinedTokens":
        """Puts pads behind everything, up to a width."""
        more = width - self.is_real.size(1)
        if not more:
            return self
        return self._replace(
            inputs_embeds=F.pad(self.inputs_embeds, (0, 0, 0, more)),
            is_real=F.pad(self.is_real, (0, more)),
            is_text=F.pad(self.is_text, (0, more)),
        )


def join(
    prefix: Tensor,
    text: Tensor,
    suffix: Tensor,
    attention_mask: Tensor,
    *,
    pads_first: bool = False,
    text_first: bool = False,
) -> JoinedTokens:
    """Packs each row's real tokens between its prefix and its suffix, or before both.

    Args:
        prefix: ``(B, P, D)`` float; the text's dtype decides.
        text: ``(B, T, D)`` float, embedded tokens with padding anywhere.
        suffix: ``(S, D)`` float.
        attention_mask: ``(B, T)`` bool, True where a token is real.
        pads_first: put the pads before everything instead of after it.
        text_first: put the prefix between text and suffix.

    Returns:
        :class:`JoinedTokens` of the text's dtype; the order of the real tokens is kept.
    """
    batch, num_prefix, _ = prefix.shape
    suffix = suffix.to(text).expand(batch, -1, -1)
    tokens = torch.cat([prefix.to(text), text, suffix], dim=1)
    pad = PAD_FIRST if pads_first else PAD_LAST
    before_suffix = PREFIX_BEHIND if text_first else PREFIX
    part = torch.cat(
        [
            attention_mask.new_full((batch, num_prefix), before_suffix, dtype=torch.uint8),
            torch.where(attention_mask, TEXT, pad).to(torch.uint8),
            attention_mask.new_full((batch, suffix.size(1)), SUFFIX, dtype=torch.uint8),
        ],
        dim=1,
    )  # (B, X)
    order = torch.argsort(part, dim=1, stable=True)
    new_positions = torch.argsort(order, dim=1)
    part = part.gather(1, order)
    return JoinedTokens(
        read(tokens, order),
        part != pad,
        part == TEXT,
        new_positions[:, num_prefix : num_prefix + text.size(1)],
        new_positions[:, num_prefix + text.size(1) :],
    )


def pack(text: Tensor, attention_mask: Tensor) -> JoinedTokens:
    """Moves the real tokens of each row of ``(B, T, D)`` to its beginning; see :func:`join`."""
    return join(text[:, :0], text, text[0, :0], attention_mask)


def place(values: Tensor, joined: JoinedTokens, filling: int) -> Tensor:
    """Moves a value of each text token to where the token stands now.

    Args:
        values: ``(B, T)``.
        joined: where.
        filling: the value at virtual tokens and pads.

    Returns:
        ``(B, X)``.
    """
    placed = values.new_full(joined.is_text.shape, filling)
    placed = placed.scatter(1, joined.text_positions, values)
    return placed.masked_fill(~joined.is_text, filling)


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


def spread(states: Tensor, positions: Tensor, length: int) -> Tensor:
    """Puts states at the given positions among zeros, from where :func:`read` picks them.

    Args:
        states: ``(B, S, D)`` float.
        positions: ``(B, S)`` int64 in ``0..X-1``, different in a row.
        length: X.

    Returns:
        ``(B, X, D)`` float.
    """
    whole = states.new_zeros(len(states), length, states.size(-1))
    places = positions.to(states.device).unsqueeze(-1).expand_as(states)
    return whole.scatter(1, places, states)
