"""Seeded damage to JSON values and to bytes."""

import copy
import random
from collections.abc import Sequence
from typing import Any


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**12, -(10**30), 10**400),
    *(0.5, -0.0, 1e308, -1e-308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "text", "../../x", "/etc/passwd", "a" * 5000, "\0", "\x1b[2J", "\ud800"),
    *("<script>alert(1)</script>", "a|b`*_[x](javascript:y)", "{item.__class__}", "{0}", "{{"),
    *([], {}, [None], ["i1", 2], [[1], "x"], {"": None}, {"model_type": "bert"}, _deep(200)),
)


def value_of(rng: random.Random) -> Any:
    """Draws a value that nobody would give by mind."""
    return copy.deepcopy(rng.choice(HOSTILE))


def mutated_json(value: Any, rng: random.Random) -> Any:
    """Returns the value with one to three places of it exchanged, taken out or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        value = _mutated_once(value, rng)
    return value


def _mutated_once(value: Any, rng: random.Random) -> Any:
    if not value or not isinstance(value, dict | list) or rng.random() < 0.05:
        return value_of(rng)
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = rng.choice(places)
    action = rng.random()
    if action < 0.15:
        del value[place]
    elif action < 0.25 and isinstance(value, dict):
        value[str(value_of(rng))] = value_of(rng)
    elif action < 0.6 and isinstance(value[place], dict | list):
        value[place] = _mutated_once(value[place], rng)
    else:
        value[place] = value_of(rng)
    return value


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes cut off, with bits flipped, or with parts put in, out or to zero."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        place = rng.randrange(len(changed))
        length = rng.choice((1, 1, 2, 8, 64))
        action = rng.randrange(6)
        if action == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            changed[place : place + length] = rng.randbytes(length)
        elif action == 2:
            changed[place:place] = rng.choice((rng.randbytes(length), b'"', b",", b"\n", b"\0"))
        elif action == 3:
            del changed[place : place + length]
        elif action == 4:
            changed[place : place + length] = bytes(length)
        else:
            del changed[place:]
    return bytes(changed)
