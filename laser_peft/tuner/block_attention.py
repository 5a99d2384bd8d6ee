"""Attention of users' blocks behind their texts, where a processor learns in half precision.

The fused kernel computes gradients for every key, of a text's keys too, which never learn, and for
each pair of a block and a text token, though most blocks see a short beginning only. Here the
blocks of a few places go together, with as much of the texts as the longest beginning among them;
only their own keys and values get gradients. Scores are computed anew in the backward pass, as
the fused kernel does, so no table of them is kept.

Axes: B texts, H heads, T text tokens, K users of one text, V virtual tokens of a user, Q = K V,
q of them in a group, t text tokens that a group sees, d width of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

SCORES_AT_A_TIME = 4 * 2**20  # of all texts and heads; more of them leave the caches


def pays(mask: Tensor) -> bool:
    """Tells whether it is faster than the fused kernel: in half precision, learning, on a CPU."""
    if not torch.is_grad_enabled() or mask.device.type != "cpu":
        return False
    is_autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else mask.dtype
    return dtype.itemsize == 2


class Group(NamedTuple):
    """Blocks that attend together."""

    own: slice  # their q tokens among Q
    num_text: int  # t
    mask: Tensor  # (B, 1, q, t + q) float, added to scores


class BlockAttention(TorchFunctionMode):
    """Within, this thread's fused attention under one mask runs a group of blocks at a time.

    Calls under any other mask, with dropout or of other shapes are left as they are.

    Args:
        mask: ``(B, 1, Q, T + Q)`` float, added to scores, in which each block sees a beginning of
            its text and itself.
        ends: ``(B, K)`` int64 in ``0..T``, how much of its text each block sees.
        num_virtual: V.
    """

    def __init__(self, mask: Tensor, ends: Tensor, num_virtual: int) -> None:
        super().__init__()
        self._mask, self._num_virtual = mask, num_virtual
        self._longest = ends.amax(0).tolist()
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
        if func is not F.scaled_dot_product_attention or not self._is_ours(args, kwargs):
            return func(*args, **kwargs)
        query, key, value = _in_autocast_precision(args)
        if not self._groups:
            self._groups = list(self._grouped(query.size(0) * query.size(1)))
        scale = kwargs.get("scale") or query.size(-1) ** -0.5
        with torch.autocast("cpu", enabled=False):
            return _Attend.apply(query * scale, key, value, self._groups)

    def _is_ours(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if kwargs.get("attn_mask") is not self._mask or len(args) != 3:
            return False
        if kwargs.get("dropout_p") or kwargs.get("enable_gqa"):
            return False
        query, key, value = args
        return bool(key.shape[:2] == query.shape[:2] and query.dtype == key.dtype == value.dtype)

    def _grouped(self, num_rows: int) -> Iterator[Group]:
        """Groups the blocks of neighbouring places.

        Args:
            num_rows: B times H.
        """
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
            rows = self._mask[:, :, own]
            yield Group(own, num_text, _seen(rows, own, num_text, num_tokens, dim=3))
            first = last


def _in_autocast_precision(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Casts as autocast does for the fused kernel."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def _seen(values: Tensor, own: slice, num_text: int, num_tokens: int, *, dim: int) -> Tensor:
    """Takes from ``T + Q`` along a dimension the ``t + q`` that a group sees."""
    num_own = own.stop - own.start
    if num_text + num_own == values.size(dim):
        return values
    behind = values.narrow(dim, num_tokens + own.start, num_own)
    return torch.cat([values.narrow(dim, 0, num_text), behind], dim)


class _Attend(torch.autograd.Function):
    """Attends ``(B, H, Q, d)`` queries, scaled, to ``(B, H, T + Q, d)`` keys and values.

    The text's keys and values are taken for constants: their gradient is zero.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group]
    ) -> Tensor:
        num_tokens = key.size(2) - query.size(2)
        output = torch.empty_like(query)
        for own, num_text, mask in groups:
            keys = _seen(key, own, num_text, num_tokens, dim=2)
            values = _seen(value, own, num_text, num_tokens, dim=2)
            output[:, :, own] = _shares(query[:, :, own], keys, mask) @ values
        ctx.save_for_backward(query, key, value, output)
        ctx.groups = groups
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        num_tokens = key.size(2) - query.size(2)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        inner = (grad * output).sum(-1, keepdim=True)  # (B, H, Q, 1)
        for own, num_text, mask in ctx.groups:
            keys = _seen(key, own, num_text, num_tokens, dim=2)
            values = _seen(value, own, num_text, num_tokens, dim=2)
            queries, grads = query[:, :, own], grad[:, :, own]
            shares = _shares(queries, keys, mask)
            grad_scores = (grads @ values.mT).sub_(inner[:, :, own]).mul_(shares)
            grad_query[:, :, own] = grad_scores @ keys
            behind = slice(num_tokens + own.start, num_tokens + own.stop)
            grad_key[:, :, behind] = grad_scores[..., num_text:].mT @ queries
            grad_value[:, :, behind] = shares[..., num_text:].mT @ grads
        return grad_query, grad_key, grad_value, None


def _shares(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Returns ``(B, H, q, t + q)``, how much of each key a query takes; rows sum to one."""
    return (queries @ keys.mT).add_(mask).softmax(-1)
