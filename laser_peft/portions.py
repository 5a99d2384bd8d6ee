"""Cuts what is only read into portions of like length that fit a processor's caches."""

from collections.abc import Iterator, Sequence

# Padding included. A processor's caches hold the activations of no more.
TOKENS_IN_CACHES = 2_048


def portions(lengths: Sequence[int], *, most_tokens: int) -> Iterator[list[int]]:
    """Groups rows by length.

    Args:
        lengths: of each row, in tokens.
        most_tokens: of a portion whose rows are padded to its longest; a longer row is a portion
            by itself.

    Yields:
        The rows of each portion, longest first; every row is in one of them.

    >>> list(portions([3, 1, 4, 1], most_tokens=6))
    [[2], [0, 1], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        at_once = max(most_tokens // max(lengths[order[start]], 1), 1)
        yield order[start : start + at_once]
        start += at_once
