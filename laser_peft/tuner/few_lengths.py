"""Reads with few numbers of tokens, for a processor makes its kernels anew for each.

In half precision, where that takes as long as reading a hundred tokens does. Pads stand after
everything that is read, so they change nothing.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .beginnings import has_room

MULTIPLE = 16  # of tokens: what is read more is half of it, and of 512 lengths 32 are left


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
    longest = getattr(lm.config.get_text_config(decoder=True), "max_position_embeddings", None)
    has_positions = not longest or total <= longest or longest < 0
    return rounded if has_positions and has_room(lm, total) else length


def makes_kernels(tokens: Tensor) -> bool:
    """Tells whether a language model that reads such tokens makes kernels for their number."""
    is_half = tokens.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
    return is_half and tokens.device.type == "cpu"
