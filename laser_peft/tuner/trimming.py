"""Leaves out of a language model's last layer what nobody reads.

Of the last hidden states only those at a few positions are read. The last layer's feed-forward and
the projection of what it has attended to act on each position by itself, and attention on each
query, so they need not run at the others: the states that are read stay as they are, and most of
that layer is saved, forward and backward.

Axes: B rows, X positions, S of them read.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser_peft.eval_mode import in_eval_mode
from laser_peft.out_of_memory import is_of_memory

from .base_model import WINDOWS, backbone_of, some_tokens
from .few_queries import FewQueries
from .in_graphs import hang_on, reads_only, without_masks
from .joining import read, spread
from .trying import has_compiled_parts, reads_alike, runs_layers_again

FEED_FORWARDS = ("mlp", "feed_forward", "ffn")
ATTENTIONS = ("self_attn", "attn", "attention")
PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense")
# By model: whether its states stay as they are.
_STAYS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@contextmanager
def only_at(lm: PreTrainedModel, positions: Tensor, *, is_masked: bool = False) -> Iterator[None]:
    """Within, last hidden states are those of the language model at some positions alone.

    Nothing changes where a model's last layer is of another make (it is tried once), where layers
    are run again in the backward pass, and where parts of the language model are compiled by
    themselves. Calls of other threads are left alone.

    Args:
        lm: the language model.
        positions: ``(B, S)`` int64 in ``0..X-1`` of what is then called, S at least 1 and
            different in a row. Elsewhere the states are without meaning.
        is_masked: whether what is then called has an attention mask.
    """
    if torch.compiler.is_compiling():
        num_layers = len(_layers(lm) or ())
        with reads_only(backbone_of(lm), positions, num_layers, is_masked=is_masked):
            yield
        return
    if not can_trim(lm):
        yield
        return
    with _parts_at(lm, positions):
        yield


def hang_hooks(lm: PreTrainedModel) -> None:
    """Tries :func:`only_at` now and makes it ready for ``torch.compile``, which cannot try it."""
    if not can_trim(lm):
        return
    backbone, config = backbone_of(lm), lm.config.get_text_config(decoder=True)
    layers = _layers(lm) or nn.ModuleList()
    attentions: list[nn.Module] = []
    if not any(getattr(config, name, None) for name in WINDOWS):
        own = [part for layer in layers if (part := _child(layer, ATTENTIONS)) is not None]
        with in_eval_mode(backbone):
            attentions = without_masks(backbone, some_tokens(lm, 12).unflatten(0, (2, 6)), own)
    hang_on(backbone, _attention_and_parts(lm)[1], attentions, len(layers))


def can_trim(lm: PreTrainedModel) -> bool:
    """Tells whether :func:`only_at` saves anything, by trying it once on a few tokens."""
    if runs_layers_again(lm) or has_compiled_parts(lm):
        return False
    known = _STAYS.get(lm)
    if known is None:
        known = _STAYS[lm] = _states_stay(lm)
    return known


def _attention_and_parts(lm: PreTrainedModel) -> tuple[nn.Module | None, list[nn.Module]]:
    """Finds the last layer's attention, and the parts that act on each position by itself."""
    last = _last_layer(lm)
    if last is None:
        return None, []
    attention = _child(last, ATTENTIONS)
    projection = None if attention is None else _child(attention, PROJECTIONS)
    parts = projection, _child(last, FEED_FORWARDS)
    return attention, [part for part in parts if part is not None]


def _last_layer(lm: PreTrainedModel) -> nn.Module | None:
    layers = _layers(lm)
    return layers[-1] if layers else None


def _layers(lm: PreTrainedModel) -> nn.ModuleList | None:
    stacks = [part for part in backbone_of(lm).children() if isinstance(part, nn.ModuleList)]
    return stacks[0] if len(stacks) == 1 else None


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((child for name in names if (child := getattr(module, name, None))), None)


@contextmanager
def _parts_at(lm: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    attention, parts = _attention_and_parts(lm)
    with ExitStack() as hooks:
        for part in parts:
            hooks.enter_context(_at(part, positions))
        if attention is not None:
            hooks.enter_context(_attends_at(attention, positions))
        yield


@contextmanager
def _attends_at(part: nn.Module, positions: Tensor) -> Iterator[None]:
    """Has an attention answer the queries at the positions, and gives zeros elsewhere."""
    owner, within = threading.get_ident(), ExitStack()

    def enter(*_: Any) -> None:
        if threading.get_ident() == owner:
            within.enter_context(FewQueries(positions))

    def leave(*_: Any) -> None:
        if threading.get_ident() == owner:
            within.close()

    # The stack is closed here too: no hook is called where an interrupt ends the attention.
    with within, ExitStack() as hooks:
        hooks.callback(part.register_forward_pre_hook(enter).remove)
        hooks.callback(part.register_forward_hook(leave, always_call=True).remove)
        yield


@contextmanager
def _at(part: nn.Module, positions: Tensor) -> Iterator[None]:
    """Runs a part at the positions, and gives zeros elsewhere."""
    owner, sizes = threading.get_ident(), []

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != owner:
            return None
        sizes.append(args[0].size(1))
        return (read(args[0], positions), *args[1:])

    def scatter(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if threading.get_ident() != owner:
            return None
        return spread(output, positions, sizes.pop())

    with ExitStack() as hooks:
        hooks.callback(part.register_forward_pre_hook(gather).remove)
        hooks.callback(part.register_forward_hook(scatter).remove)
        yield


@torch.no_grad()
def _states_stay(lm: PreTrainedModel) -> bool:
    """Reads a few tokens both ways."""
    if not _attention_and_parts(lm)[1]:
        return False
    backbone, text = backbone_of(lm), some_tokens(lm, 12).unflatten(0, (2, 6))
    positions = torch.tensor([[1, 5], [3, 4]], device=text.device)

    def states() -> Tensor:
        output = backbone(inputs_embeds=text, use_cache=False, return_dict=True)
        return read(output.last_hidden_state, positions)

    with in_eval_mode(backbone), torch.autocast(text.device.type, enabled=False):
        whole = states()
        try:
            with _parts_at(lm, positions):
                trimmed = states()
        except Exception as error:  # of any kind: whatever a foreign part makes of fewer positions
            if is_of_memory(error):
                raise
            return False
    return reads_alike(trimmed, whole)
