"""Reads with few numbers of tokens, for a processor makes its kernels anew for each.

In half precision, where that takes as long as reading a hundred tokens does. Pads stand after
everything that is read, so they change nothing.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .beginnings import has_room

MULTIPLE = 16  # of tokens: what is read more is half of it, and of 512 lengths 32 are left
FIRST_POSITION = 2


def rounded_up(lm: PreTrainedModel, tokens: Tensor, *, num_known: int = 0) -> int:
    """Tells how long rows should be padded to, on the right.

    Args:
        lm: the language model.
        tokens: ``(B, X, D)`` float, what it is to read.
        num_known: how many tokens it remembers before them.

    Returns:
        X, or a little more where kernels are made anew and nothing is learnt.
    """
    length = tokens.size(1)
    rounded = -(-length // MULTIPLE) * MULTIPLE
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not makes_kernels(tokens):
        return length
    total = num_known + rounded
    return rounded if _room_of(lm, total) >= total and has_room(lm, total) else length


def _room_of(lm: PreTrainedModel, num_tokens: int) -> int:
    """Counts the tokens that can be read behind everything without a trace."""
    config = lm.config.get_text_config(decoder=True)
    longest = getattr(config, "max_position_embeddings", None) or -1
    # Some count positions from 2 on, so the last ones are not taken.
    room = longest - FIRST_POSITION if longest > 0 else num_tokens
    # Without a mask, attention to the best few tokens may choose one that comes later.
    return min(room, getattr(config, "index_topk", None) or num_tokens)


def makes_kernels(tokens: Tensor) -> bool:
    """Tells whether a language model that reads such tokens makes kernels for their number."""
    is_half = tokens.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
    return is_half and tokens.device.type == "cpu"
