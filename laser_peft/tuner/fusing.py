"""Sets what the encoder knows of a user beside what texts say.

Axes: B users, C collaborative width, X width of text vectors, R = C + X.
"""

import torch
from torch import Tensor

from .adapter import BiTuningAdapter


def fuse(
    adapter: BiTuningAdapter, collaborative: Tensor | None, learned: Tensor, texts: Tensor | None
) -> Tensor:
    """Makes user vectors for fused item vectors.

    In training each part counts one, and a user's collaborative part is left out with the
    probability ``collaborative_dropout``; else they count as ``view_weights`` say.

    Args:
        adapter: with fused item vectors.
        collaborative: ``(B, C)`` float, the encoder's own user vectors; None without the skip.
        learned: ``(B, R)`` float from the head; ``(B, X)`` beside ``collaborative``.
        texts: ``(B, X)`` float, what the text reader says; None without it.

    Returns:
        ``(B, R)`` float, the collaborative part first.
    """
    text_dim = adapter.items.text_dim
    if collaborative is None:
        collaborative = learned[:, :-text_dim]
    text = learned[:, -text_dim:]
    if texts is not None:
        text = text + texts.to(text.device)
    collaborative = collaborative.to(text)
    if adapter.training:
        draws = torch.rand(len(text), 1, device=text.device)
        return torch.cat([collaborative * (draws >= adapter.config.collaborative_dropout), text], 1)
    weights = adapter.view_weights.to(text)
    return torch.cat([weights[0] * collaborative, weights[1] * text], 1)
