"""How much memory models take, and how much there is."""

from pathlib import Path

import psutil
import torch
from torch import nn

CGROUP = Path("/sys/fs/cgroup")
ADAM_BYTES = 12  # a trained float32: its gradient and AdamW's two means


def device_of_training() -> torch.device:
    """Returns the device that the Trainer will use."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def held_bytes(model: nn.Module) -> int:
    """Counts weights, buffers, and what training adds to the weights that learn."""
    tensors = [*model.parameters(), *model.buffers()]
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + ADAM_BYTES * learnt


def process_bytes(device: torch.device) -> int:
    """Returns what this process holds by now on the device that will train."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss) if device.type == "cpu" else 0


def free_memory(device: torch.device) -> int | None:
    """Returns how many bytes this process may still take; None for a device that does not say.

    A container's limit counts too.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    left = int(psutil.virtual_memory().available)
    in_container = container_bytes(CGROUP)
    return left if in_container is None else min(left, in_container)


def container_bytes(folder: Path) -> int | None:
    """Returns what a control group (version 2) leaves to take; None without a limit.

    Args:
        folder: where the group's files are.
    """
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        # Pages of files that were read are given back when they are needed.
        cached = int(dict(line.split() for line in lines).get("inactive_file", "0"))
        return None if limit == "max" else int(limit) - used + cached
    except (OSError, ValueError):
        return None
