"""Times a step and measures what memory it takes, on batches that grow.

A large batch may take more than its share of a small one's time, as it does not fit into caches,
so the whole batch is measured wherever it is fast enough.

A step is given a number of examples and computes a batch of so many. Small batches come first, so
that a step too slow or too large to be tried whole is extrapolated from smaller ones.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .memory import process_bytes
from .peaks import PeakMemory

SECONDS = 10.0  # that measuring one kind of step may take, once its first example is done
CLEAR_BYTES = 50e6  # less cannot be told from what else the process takes and gives back
GROWTH = 4  # from one measured batch to the next


class Measured(NamedTuple):
    """One step at the size that was asked for."""

    seconds: float
    step_bytes: float  # what it takes beside parameters and optimizer


class Point(NamedTuple):
    """What was measured at a smaller size."""

    size: int
    value: float


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Puts the random numbers of Python, NumPy and torch back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def measure(
    step: Callable[[int], None], size: int, model: nn.Module, *, seconds: float = SECONDS
) -> Measured:
    """Measures a step on batches of up to ``size`` examples.

    Args:
        step: computes a batch of so many examples, at least one.
        size: examples of the step that is asked about.
        model: whose parameters are not counted.
        seconds: after which no larger batch is tried.
    """
    started = time.monotonic()
    first_seconds, first_bytes = _watched(step, 1, model)
    kept, times = [Point(1, first_bytes)], [Point(1, first_seconds)]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    before = process_bytes(device)  # with the optimizer's state
    with PeakMemory(device) as peak:
        if size > 1 and time.monotonic() - started < seconds:
            kept.append(Point(2, _watched(step, 2, model)[1]))
        # The first call of all is slower than the next ones; it stands only where it has to.
        if time.monotonic() - started < seconds:
            times = _times(step, size, seconds)
    beyond = _beyond(peak.bytes - before, at_size(kept, times[-1].size))
    return Measured(at_size(times, size), at_size(kept, size) * beyond)


def _beyond(taken: float, kept: float) -> float:
    """Returns how many times what is kept for gradients a step takes at its peak."""
    return max(taken / kept, 1.0) if kept > CLEAR_BYTES else 1.0


def at_size(points: list[Point], size: int) -> float:
    """Goes on from the two largest sizes measured along a line, from one in proportion.

    Example:
        >>> at_size([Point(1, 3.0), Point(2, 5.0)], 10)
        21.0
        >>> at_size([Point(2, 3.0)], 10)
        15.0
    """
    *before, last = points
    if not before:
        return last.value * size / last.size
    slope = (last.value - before[-1].value) / (last.size - before[-1].size)
    return last.value + max(slope, 0.0) * (size - last.size)


def _times(step: Callable[[int], None], size: int, seconds: float) -> list[Point]:
    """Times growing batches until one takes so long that the next would take too long."""
    started, points, batch = time.monotonic(), [], 1
    while True:
        try:
            points.append(Point(batch, _timed(step, batch)))
        except (torch.OutOfMemoryError, MemoryError):
            if not points:
                raise
            return points
        spent = time.monotonic() - started
        larger = min(GROWTH * batch, size)
        if batch == size or spent + points[-1].value * larger / batch > seconds:
            break
        batch = larger
    if spent + points[-1].value < seconds:  # once more: the faster one was disturbed less
        points[-1] = Point(batch, min(points[-1].value, _timed(step, batch)))
    return points


def _timed(step: Callable[[int], None], batch: int) -> float:
    _wait_for_device()
    started = time.perf_counter()
    step(batch)
    _wait_for_device()
    return time.perf_counter() - started


def _watched(step: Callable[[int], None], batch: int, model: nn.Module) -> tuple[float, float]:
    """Returns the seconds of a step and the bytes that it keeps for its gradients."""
    own = {_storage(tensor)[0] for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        address, size = _storage(tensor)
        if address not in own:
            kept[address] = size
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        seconds = _timed(step, batch)
    return seconds, float(sum(kept.values()))


def _storage(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _wait_for_device() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
