"""Finds out when an adapter is added what ``torch.compile`` cannot try."""

import logging

from transformers import PreTrainedModel

from laser_peft.out_of_memory import is_of_memory

from .base_model import backbone_of
from .beginnings import tried_with
from .in_graphs import hooks_of, take_off
from .trimming import hang_hooks

logger = logging.getLogger(__name__)


def prepare_for_graphs(lm: PreTrainedModel) -> None:
    """Tries what a graph may leave out and whether it may share texts, and keeps it for graphs.

    Nothing happens where weights are not there yet, or in bits that a call packs anew, and where
    the language model cannot run before it is moved.
    """
    is_there = all(weight.numel() and not weight.is_meta for weight in lm.parameters())
    is_quantized = getattr(lm, "hf_quantizer", None) is not None
    if not is_there or is_quantized:
        return
    try:
        hang_hooks(lm)
        hooks = hooks_of(backbone_of(lm))
        if hooks is not None:
            hooks.shares_with = tried_with(lm)
    except Exception as error:  # of any kind: kernels for another device, say
        if is_of_memory(error):
            raise
        logger.info("%s cannot be tried where it is: %s", type(lm).__name__, error)


def undo_for_graphs(lm: PreTrainedModel) -> None:
    """Takes back what :func:`prepare_for_graphs` has done."""
    take_off(backbone_of(lm))
