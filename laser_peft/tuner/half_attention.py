"""Attention in half precision where a processor learns, written out.

There the fused kernel's backward pass takes several times the matrix products that it is made of.
Here queries are attended a group at a time, so that a group's scores stay in the caches, with those
keys only that the group may see. Scores are computed anew in the backward pass, as the fused kernel
does, so no table of them is kept.

Axes: B rows, H heads, X queries, K keys, q queries of a group, k keys that it sees, d width of a
head; of users' blocks behind texts T text tokens, n users of one text, V virtual tokens of a user.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from .trying import has_compiled_parts

SCORES_AT_A_TIME = 4 * 2**20  # of all rows and heads; more of them leave the caches
CAUSAL_QUERIES = 96  # of a group: fewer see fewer keys in vain, more make better products
LONGEST_CAUSAL = 384  # from there on the fused kernel is as fast


class Group(NamedTuple):
    """Queries that attend together."""

    queries: slice  # q of the X
    seen: tuple[slice, ...]  # k of the K, in pieces
    num_fixed: int  # keys among the seen, the first ones, that get no gradient
    mask: Tensor  # broadcasts to (B, H, q, k) float, added to scores


class _WrittenOut(TorchFunctionMode):
    """Within, this thread's fused attention is written out where it is of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: list[Group] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answers a call of a torch function."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not self._answers(args, kwargs):
            return func(*args, **kwargs)
        query, key, value = _in_autocast_precision(args)
        if kwargs.get("enable_gqa"):
            shared_by = query.size(1) // key.size(1)
            key, value = (heads.repeat_interleave(shared_by, 1) for heads in (key, value))
        if not self._groups:
            self._groups = list(self.grouped(query))
        scale = kwargs.get("scale") or query.size(-1) ** -0.5
        with torch.autocast("cpu", enabled=False):
            return _Attend.apply(query * scale, key, value, self._groups)

    def _answers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if len(args) != 3 or args[0].ndim != 4 or kwargs.get("dropout_p"):
            return False
        query, key, _ = args
        # Some have the fused kernel broadcast one head of keys.
        has_own_keys = query.size(1) == key.size(1) or kwargs.get("enable_gqa")
        return bool(has_own_keys) and self.is_of_kind(*args, **kwargs)

    def is_of_kind(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> bool:
        """Tells whether a call is one that :meth:`grouped` is for."""
        raise NotImplementedError

    def grouped(self, query: Tensor) -> Iterator[Group]:
        """Groups the queries ``(B, H, X, d)`` of the first such call; all have its shape."""
        raise NotImplementedError


class CausalAttention(_WrittenOut):
    """Causal self-attention without a mask."""

    def is_of_kind(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> bool:
        """Tells causal calls without a mask, of as many queries as the first one had."""
        if kwargs.get("attn_mask") is not None or not kwargs.get("is_causal"):
            return False
        length = self._groups[-1].queries.stop if self._groups else query.size(2)
        return query.size(2) == key.size(2) == length <= LONGEST_CAUSAL

    def grouped(self, query: Tensor) -> Iterator[Group]:
        """Groups neighbours; each group sees the keys up to its last query."""
        length = query.size(2)
        for first in range(0, length, CAUSAL_QUERIES):
            last = min(first + CAUSAL_QUERIES, length)
            mask = query.new_full((last - first, last), -torch.inf).triu(first + 1)
            yield Group(slice(first, last), (slice(0, last),), 0, mask)


class BlockAttention(_WrittenOut):
    """Attention of users' blocks under the mask of ``read_beginnings``.

    A text's keys never learn, and most blocks see a short beginning only: those of a few places go
    together, with as much of the texts as the longest beginning among them.

    Args:
        mask: ``(B, 1, X, T + X)`` float, X = n V, added to scores, in which each block sees a
            beginning of its text and itself.
        ends: ``(B, n)`` int64 in ``0..T``, how much of its text each block sees.
        num_virtual: V.
    """

    def __init__(self, mask: Tensor, ends: Tensor, num_virtual: int) -> None:
        super().__init__()
        self._mask, self._num_virtual = mask, num_virtual
        self._longest = ends.amax(0).tolist()

    def is_of_kind(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> bool:
        """Tells calls under the mask."""
        return kwargs.get("attn_mask") is self._mask

    def grouped(self, query: Tensor) -> Iterator[Group]:
        """Groups the blocks of neighbouring places."""
        num_rows = query.size(0) * query.size(1)
        num_tokens = self._mask.size(3) - self._mask.size(2)  # T
        first = 0
        while first < len(self._longest):
            last, num_text = first + 1, self._longest[first]
            for end in self._longest[last:]:
                longer = max(num_text, end)
                num_own = (last + 1 - first) * self._num_virtual
                if num_rows * num_own * (longer + num_own) > SCORES_AT_A_TIME:
                    break
                last, num_text = last + 1, longer
            own = slice(first * self._num_virtual, last * self._num_virtual)
            seen = slice(0, num_text), slice(num_tokens + own.start, num_tokens + own.stop)
            yield Group(own, seen, num_text, _pieces(self._mask[:, :, own], seen, dim=3))
            first = last


def written_out(
    mode: Callable[..., _WrittenOut], *arguments: Any, lm: PreTrainedModel, text: Tensor
) -> AbstractContextManager[object]:
    """Gives the mode where it pays: in half precision, learning, on a processor, uncompiled.

    Args:
        mode: makes it.
        arguments: of the mode.
        lm: the language model that is called within.
        text: what it reads, float.

    Returns:
        The mode, or a context in which nothing changes.
    """
    if not torch.is_grad_enabled() or text.device.type != "cpu":
        return nullcontext()
    is_autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else text.dtype
    if dtype.itemsize != 2 or torch.compiler.is_compiling() or has_compiled_parts(lm):
        return nullcontext()
    return mode(*arguments)


def _in_autocast_precision(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Casts as autocast does for the fused kernel."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def _pieces(values: Tensor, seen: Sequence[slice], *, dim: int) -> Tensor:
    """Takes pieces along a dimension; copies nothing where they are one, or all there is."""
    if sum(piece.stop - piece.start for piece in seen) == values.size(dim):
        return values
    parts = [values.narrow(dim, piece.start, piece.stop - piece.start) for piece in seen]
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


class _Attend(torch.autograd.Function):
    """Attends ``(B, H, X, d)`` queries, scaled, to ``(B, H, K, d)`` keys and values."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group]
    ) -> Tensor:
        output = query.new_empty(*query.shape[:3], value.size(3))
        for queries, seen, _, mask in groups:
            keys, values = _pieces(key, seen, dim=2), _pieces(value, seen, dim=2)
            output[:, :, queries] = _shares(query[:, :, queries], keys, mask) @ values
        ctx.save_for_backward(query, key, value, output)
        ctx.groups = groups
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        inner = (grad * output).sum(-1, keepdim=True)  # (B, H, X, 1)
        for rows, seen, num_fixed, mask in ctx.groups:
            keys, values = _pieces(key, seen, dim=2), _pieces(value, seen, dim=2)
            queries, grads = query[:, :, rows], grad[:, :, rows]
            shares = _shares(queries, keys, mask)
            grad_scores = (grads @ values.mT).sub_(inner[:, :, rows]).mul_(shares)
            grad_query[:, :, rows] = grad_scores @ keys
            learnt = seen[-1]  # what is fixed is a piece of its own
            grad_key[:, :, learnt] += grad_scores[..., num_fixed:].mT @ queries
            grad_value[:, :, learnt] += shares[..., num_fixed:].mT @ grads
        return grad_query, grad_key, grad_value, None


def _shares(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Returns ``(B, H, q, k)``, how much of each key a query takes; rows sum to one."""
    return (queries @ keys.mT).add_(mask).softmax(-1)
