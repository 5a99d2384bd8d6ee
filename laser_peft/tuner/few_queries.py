"""Fused attention for those queries whose outputs are read.

Axes: B rows, H heads, X queries, S of them read, K keys, d width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FewQueries(TorchFunctionMode):
    """Within, this thread's fused attention runs at a few positions.

    Elsewhere its outputs are zeros. Calls of other shapes are left as they are.

    Args:
        positions: ``(B, S)`` int64 in ``0..X-1``, different in a row.
    """

    def __init__(self, positions: Tensor) -> None:
        super().__init__()
        self._positions = positions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answers a call of a torch function."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._fits(args, kwargs):
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if len(args) != 3 or args[0].ndim != 4 or len(args[0]) != len(self._positions):
            return False
        num_queries, num_keys = args[0].size(2), args[1].size(2)
        if num_queries <= self._positions.size(1):
            return False
        mask, is_causal = kwargs.get("attn_mask"), kwargs.get("is_causal")
        if mask is not None:
            return bool(mask.ndim == 4 and mask.size(2) == num_queries and not is_causal)
        return bool(is_causal) and num_queries == num_keys

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        """Attends ``(B, H, X, d)`` queries at the positions.

        Returns:
            ``(B, H, X, d)`` float.
        """
        if kwargs.pop("enable_gqa", False):  # which few kernels take beside a mask
            shared_by = query.size(1) // key.size(1)
            key, value = (heads.repeat_interleave(shared_by, 1) for heads in (key, value))
        places = self._positions.to(query.device)[:, None, :, None]  # (B, 1, S, 1)
        mask = kwargs.pop("attn_mask", None)
        if kwargs.pop("is_causal", False):
            mask = torch.arange(key.size(2), device=key.device) <= places  # (B, 1, S, K)
        else:
            mask = mask.expand(len(query), -1, -1, -1)
            mask = mask.gather(2, places.expand(-1, mask.size(1), -1, mask.size(3)))
        wide = places.expand(-1, query.size(1), -1, query.size(3))
        few = query.gather(2, wide)
        output = F.scaled_dot_product_attention(few, key, value, attn_mask=mask, **kwargs)
        whole = output.new_zeros(*query.shape[:3], output.size(3))
        return whole.scatter(2, places.expand_as(output), output)
