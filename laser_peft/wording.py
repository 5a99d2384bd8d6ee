"""How errors show values that may be of any length."""

LONGEST = 80  # characters


def shortly(value: object) -> str:
    """Returns what ``repr`` does, cut where it is long.

    >>> shortly("a" * 100)[-3:]
    'aa…'
    """
    said = repr(value)
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
