"""Which texts to read together: those of like length, as many as stay near the processor."""

from collections.abc import Iterator, Sequence

import torch

# Padding included; bounds the memory of a batch. A processor's caches hold no more than the first.
TOKENS_A_BATCH, TOKENS_A_BATCH_ELSEWHERE = 2_048, 16_384


def tokens_at_once(device: torch.device) -> int:
    """Returns how many tokens, padding included, a language model reads best at once there."""
    return TOKENS_A_BATCH if device.type == "cpu" else TOKENS_A_BATCH_ELSEWHERE


def length_batches(
    lengths: Sequence[int], *, tokens: int | None, most: int | None = None
) -> Iterator[list[int]]:
    """Puts rows of like length together, the longest first.

    >>> list(length_batches([2, 9, 3, 2], tokens=6))
    [[1], [2, 0], [3]]

    Args:
        lengths: of each row, in tokens.
        tokens: of a batch, padding included; a row that is longer alone makes one. None: any.
        most: rows of a batch, at least 1. None: any.

    Yields:
        Rows, each once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        count = len(order) if most is None else most
        if tokens is not None:
            count = min(count, max(tokens // max(lengths[order[start]], 1), 1))
        yield order[start : start + count]
        start += count
