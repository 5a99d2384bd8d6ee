"""Cuts rows into portions of like length: as many as fit a processor's caches, or a batch."""

from collections.abc import Iterator, Sequence

# Padding included. A processor's caches hold the activations of no more.
TOKENS_IN_CACHES = 2_048


def portions(
    lengths: Sequence[int], *, most_tokens: int | None = None, most_rows: int | None = None
) -> Iterator[list[int]]:
    """Groups rows by length.

    Args:
        lengths: of each row, in tokens.
        most_tokens: of a portion whose rows are padded to its longest; a longer row is a portion
            by itself. None: any number.
        most_rows: of a portion, at least 1. None: any number.

    Yields:
        The rows of each portion, longest first, of equal ones the first; every row is in one.

    >>> list(portions([3, 1, 4, 1], most_tokens=6))
    [[2], [0, 1], [3]]
    >>> list(portions([3, 1, 4, 1], most_rows=3))
    [[2, 0, 1], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        at_once = len(order) if most_rows is None else most_rows
        if most_tokens is not None:
            at_once = min(at_once, max(most_tokens // max(lengths[order[start]], 1), 1))
        yield order[start : start + at_once]
        start += at_once
