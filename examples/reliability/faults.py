"""A row of the table of faults."""

from typing import NamedTuple


class Row(NamedTuple):
    """What was done to what, how often, and what came of it.

    Args:
        fault: in a word.
        where: which command, stage or file.
        how: it was caused.
        tries: how often.
        lost: in words.
    """

    fault: str
    where: str
    how: str
    tries: int
    lost: str
