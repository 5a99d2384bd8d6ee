"""Sets what the encoder knows of a user beside what texts say.

Axes: B users, L items in a history, C collaborative width, X width of text vectors, R = C + X.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from laser_peft.losses import next_item_loss

from .adapter import BiTuningAdapter


class ViewWeights(NamedTuple):
    """How much the parts of fused vectors count; see ``BiTuningModel.set_view_weights``."""

    collaborative: float
    text: float
    rarity: float = 1.0
    correction: float = 1.0


def fuse(
    adapter: BiTuningAdapter, collaborative: Tensor | None, learned: Tensor, texts: Tensor | None
) -> Tensor:
    """Makes user vectors for fused item vectors.

    In training each part counts one, and what the encoder says of a user is left out with the
    probability ``collaborative_dropout``; with ``part_factors`` of the adapter it is there for all,
    and the parts count as these say. Else they count as ``view_weights`` say.

    Args:
        adapter: with fused item vectors.
        collaborative: ``(B, C)`` float, the encoder's own user vectors; None without the skip.
        learned: ``(B, R)`` float from the head; ``(B, X)`` beside ``collaborative``.
        texts: ``(B, X)`` float, what the text reader says; None without it.

    Returns:
        ``(B, R)`` float, the collaborative part first.
    """
    text_dim = adapter.items.text_dim
    dropout = adapter.config.collaborative_dropout
    if collaborative is None:
        collaborative, dropout = learned[:, :-text_dim], 0.0
    text = learned[:, -text_dim:]
    weights = adapter.view_weights.to(text)
    if adapter.text_reader is not None and not adapter.training:
        text = weights[3] * text
    if texts is not None:
        text = text + texts.to(text.device)
    collaborative = collaborative.to(text)
    if adapter.training and adapter.part_factors is not None:
        factors = adapter.part_factors
        return torch.cat([factors.collaborative * collaborative, factors.text * text], 1)
    if adapter.training:
        draws = torch.rand(len(text), 1, device=text.device)
        return torch.cat([collaborative * (draws >= dropout), text], 1)
    return torch.cat([weights[0] * collaborative, weights[1] * text], 1)


def reading_loss(
    queries: Tensor,
    mask: Tensor,
    history: Tensor,
    item_texts: Tensor,
    negatives: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of every history item that follows another, read from texts alone.

    The language model reads one position of a user, its target's; the text reader learns from all
    the others at next to no cost.

    Args:
        queries: ``(B, L, X)`` float, what the texts up to each item say.
        mask: ``(B, L)`` bool, True where an item is real.
        history: ``(B, L)`` int64 item ids.
        item_texts: ``(N, X)`` float, the items' own.
        negatives: ``(K,)`` int64 item ids that stand for all others; None: the whole catalogue.

    Returns:
        Scalar float32 in nats; 0 where no history has two items.
    """
    users = mask.nonzero()[:, 0]
    follows = users[1:] == users[:-1]  # among the real items of all users in a row
    if not follows.any():
        return queries.sum() * 0
    following = history.to(mask.device)[mask][1:][follows]
    return next_item_loss(queries[mask][:-1][follows], item_texts, following, negatives)
