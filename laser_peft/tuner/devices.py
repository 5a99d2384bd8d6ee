"""Where modules run whose weights Accelerate may keep elsewhere."""

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Returns the device on which a module with a ``weight`` computes.

    Offloaded weights are on the meta device until the module is called; its hook knows where that
    will be.
    """
    hook = getattr(module, "_hf_hook", None)
    if module.weight.is_meta and hook is not None:
        return torch.device(getattr(hook, "execution_device", None) or "cpu")
    return module.weight.device
