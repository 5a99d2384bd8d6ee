"""Finds out by trying what a language model's class does not declare."""

from typing import Any

import torch
from torch import Tensor, nn

# Of the states' standard deviation: kernels differ by rounding, another reading by more.
TOLERANCE, TOLERANCE_IN_HALF_PRECISION = 0.01, 0.2


def runs_layers_again(lm: nn.Module) -> bool:
    """Tells whether a backward pass runs layers again, without memory and hooks of the forward."""
    return any(_own(part, "gradient_checkpointing") for part in lm.modules())


def reads_alike(states: Tensor, expected: Tensor) -> bool:
    """Tells whether states of any one shape differ by rounding alone."""
    is_exact = torch.finfo(expected.dtype).eps < torch.finfo(torch.float16).eps
    tolerance = TOLERANCE if is_exact else TOLERANCE_IN_HALF_PRECISION
    return bool((states - expected).abs().max() <= tolerance * expected.float().std())


def is_compiled(module: nn.Module) -> bool:
    """Tells whether a module itself was compiled, by ``Module.compile`` or by ``torch.compile``."""
    return (
        _own(module, "_compiled_call_impl") is not None
        or "_orig_mod" in module._modules
        or hasattr(_own(module, "forward"), "_torchdynamo_orig_callable")
    )


def has_compiled_parts(lm: nn.Module) -> bool:
    """Tells whether any part of it was compiled.

    What changes from call to call around a compiled part has it compiled anew each time.
    """
    return any(is_compiled(part) for part in lm.modules())


def _own(module: nn.Module, name: str) -> Any:
    """Looks a plain attribute up; what is missing takes a module's own lookup ten times as long."""
    of_class = getattr(type(module), name, None)
    if isinstance(of_class, property):
        return getattr(module, name)
    return module.__dict__.get(name, of_class)
