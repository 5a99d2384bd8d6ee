"""Says what to lower where memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def is_of_memory(error: BaseException) -> bool:
    """Tells a lack of memory, of which the CPU's allocator has no class, from other errors."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "not enough memory" in said)
    )


@contextmanager
def says_what_to_lower(doing: str, advice: str) -> Iterator[None]:
    """Turns a lack of memory within into an error that says what to do.

    Args:
        doing: what memory does not suffice for.
        advice: what to lower.

    Raises:
        MemoryError: if memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error) or getattr(error, "says_what_to_lower", False):
            raise
        told = MemoryError(f"there is not enough memory for {doing}: {advice} ({error})")
        told.says_what_to_lower = True  # type: ignore[attr-defined]
        raise told from error
