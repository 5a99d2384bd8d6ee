"""Reads with few numbers of tokens, for a processor makes its kernels anew for each.

In half precision, where that takes as long as reading a hundred tokens does: small batches of users
and what goes on behind a text memory are padded. Pads stand after everything that is read, so they
change nothing.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .beginnings import has_room

MULTIPLE = 16  # of tokens: what is read more is half of it, and of 512 lengths 32 are left
FIRST_POSITION = 2
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")


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
    lengths = [getattr(config, name, None) or 0 for name in POSITIONS]
    longest = min((length for length in lengths if length > 0), default=None)
    # Some count positions from 2 on, so the last ones are not taken.
    room = num_tokens if longest is None else longest - FIRST_POSITION
    # Without a mask, attention to the best few tokens may choose one that comes later.
    return min(room, getattr(config, "index_topk", None) or num_tokens)


def makes_kernels(tokens: Tensor) -> bool:
    """Tells whether a language model that reads such tokens makes kernels for their number."""
    is_half = tokens.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
    return is_half and tokens.device.type == "cpu"
