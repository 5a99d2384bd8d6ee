"""Leaves out of a compiled language model what changes nothing that is read.

A graph can neither try what stays as it is nor hang hooks on modules, so both happens when an
adapter is added, and within :func:`reads_only` the hooks do what :mod:`laser_peft.tuner.trimming`
does elsewhere. Besides, attention gets no mask that says no more than causal: transformers writes
every mask out in a graph, and no flash kernel takes one.

Axes: B rows, X positions, S of them read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .joining import read, spread

NAME = "_laser_in_graphs"


class GraphHooks:
    """Hooks on parts of a language model; they do nothing outside of :meth:`at`.

    Args:
        parts: of its last layer, that act on each position by itself.
        attentions: that take no mask where there are no pads.
        num_layers: that there are; with others the last one is another.
    """

    def __init__(
        self, parts: Sequence[nn.Module], attentions: Sequence[nn.Module], num_layers: int
    ) -> None:
        self.num_layers = num_layers
        self._positions: Tensor | None = None
        self._is_masked = False
        self._length = 0
        # With which kernels beginnings.can_share has found that texts can be shared.
        self.shares_with: tuple[object, ...] | None = None
        self._handles = [part.register_forward_pre_hook(self._gather) for part in parts]
        self._handles += [part.register_forward_hook(self._scatter) for part in parts]
        self._handles += [
            part.register_forward_pre_hook(self._without_mask, with_kwargs=True)
            for part in attentions
        ]

    def remove(self) -> None:
        """Takes the hooks off again."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def at(self, positions: Tensor, *, is_masked: bool) -> Iterator[None]:
        """Within, the parts run at ``(B, S)`` positions and give zeros elsewhere.

        Args:
            positions: in ``0..X-1``.
            is_masked: whether what is called has an attention mask, which then stays.
        """
        self._positions, self._is_masked = positions, is_masked
        try:
            yield
        finally:
            self._positions = None

    def _gather(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        self._length = args[0].size(1)
        return (read(args[0], self._positions), *args[1:])

    def _scatter(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._positions is None:
            return None
        return spread(output, self._positions, self._length)

    def _without_mask(
        self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        stays = self._positions is None or self._is_masked
        if stays or not _is_causal_by_itself(part):
            return None
        return args, {**kwargs, "attention_mask": None}


def _is_causal_by_itself(attention: nn.Module) -> bool:
    """Tells whether it is causal without a mask; how it attends can be changed at any time."""
    config = getattr(attention, "config", None)
    return getattr(config, "_attn_implementation", None) == "sdpa"


@contextmanager
def reads_only(
    backbone: nn.Module, positions: Tensor, num_layers: int, *, is_masked: bool
) -> Iterator[None]:
    """Within a graph, last hidden states are those at ``(B, S)`` positions alone.

    Nothing changes without hooks, where layers came or went since they were hung on, and where
    layers are run again in the backward pass.
    """
    hooks = hooks_of(backbone)
    if hooks is None or runs_again_in_graph(backbone) or hooks.num_layers != num_layers:
        yield
        return
    with hooks.at(positions, is_masked=is_masked):
        yield


def runs_again_in_graph(backbone: nn.Module) -> bool:
    """Tells within a graph whether the backward pass runs layers again."""
    return bool(getattr(backbone, "gradient_checkpointing", False))


def hang_on(
    backbone: nn.Module,
    parts: Sequence[nn.Module],
    attentions: Sequence[nn.Module],
    num_layers: int,
) -> None:
    """Hangs :class:`GraphHooks` on parts of a backbone, unless they hang there already.

    Args:
        backbone: keeps them.
        parts: see there.
        attentions: see there.
        num_layers: see there.
    """
    if hooks_of(backbone) is None:
        setattr(backbone, NAME, GraphHooks(parts, attentions, num_layers))


def take_off(backbone: nn.Module) -> None:
    """Takes them off again, also where others have wrapped it since; nothing, without any."""
    for part in backbone.modules():
        hooks = part.__dict__.pop(NAME, None)
        if hooks is not None:
            hooks.remove()


def hooks_of(backbone: nn.Module) -> GraphHooks | None:
    """Returns what hangs on a backbone."""
    return getattr(backbone, NAME, None)


@torch.no_grad()
def without_masks(
    backbone: nn.Module, text: Tensor, attentions: Sequence[nn.Module]
) -> list[nn.Module]:
    """Finds the attentions that are given no mask where nothing is compiled.

    Args:
        backbone: of a language model without sliding windows.
        text: ``(B, X, D)`` float embedded tokens to try it with.
        attentions: of its layers.
    """
    given_none: list[nn.Module] = []

    def note(part: nn.Module, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_none = "attention_mask" in kwargs and kwargs["attention_mask"] is None
        if is_none and _is_causal_by_itself(part):
            given_none.append(part)

    handles = [part.register_forward_pre_hook(note, with_kwargs=True) for part in attentions]
    try:
        backbone(inputs_embeds=text, use_cache=False, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    return given_none
