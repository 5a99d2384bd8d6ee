"""Shows text that may come from anybody on a terminal, which obeys some characters."""

import re

# Control characters but the line break, halves of characters, and those that turn the order round.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    r"""Writes characters that a terminal would obey, or cannot write, as escapes.

    Example:
        >>> harmless("Red\x1b[2J lamp")
        'Red\\x1b[2J lamp'
    """
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
