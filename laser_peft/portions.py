"""Cuts rows into portions of like size: as many as fit a processor's caches, or a batch, or pay."""

from collections.abc import Iterator, Sequence

# Padding included. A processor's caches hold the activations of no more.
TOKENS_IN_CACHES = 2_048


def cheapest_parts(sizes: Sequence[int], cost_of_part: int) -> list[list[int]]:
    """Cuts rows into the parts that cost least, where each is padded to the largest of its part.

    Args:
        sizes: of each row.
        cost_of_part: what a part costs beside its padded rows, in the unit of sizes.

    Returns:
        The rows of each part, largest first, of equal ones the first; every row is in one.

    >>> cheapest_parts([3, 1, 9, 1], cost_of_part=4)
    [[2], [0, 1, 3]]
    """
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    least, starts = [0], [0]  # of the first rows of the order, and where their last part starts
    for end in range(1, len(order) + 1):
        costs = [
            least[start] + (end - start) * sizes[order[start]] + cost_of_part
            for start in range(end)
        ]
        least.append(min(costs))
        starts.append(costs.index(least[-1]))
    parts, end = [], len(order)
    while end:
        parts.append(order[starts[end] : end])
        end = starts[end]
    return parts[::-1]


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
