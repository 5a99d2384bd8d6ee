"""Checks that the settings of both trainings share; each names the first field that is wrong."""

import math


def check_at_least_one(settings: object, *names: str) -> None:
    """Refuses what is below one.

    Raises:
        ValueError: if a field is, or is no finite number.
    """
    for name in names:
        if (value := _finite(settings, name)) < 1:
            raise ValueError(f"{type(settings).__name__}: {name} must be at least 1, got {value}")


def check_above_zero(settings: object, *names: str) -> None:
    """Refuses zero and what is below.

    Raises:
        ValueError: if a field is, or is no finite number.
    """
    for name in names:
        if (value := _finite(settings, name)) <= 0:
            raise ValueError(f"{type(settings).__name__}: {name} must be above 0, got {value}")


def check_not_below_zero(settings: object, *names: str) -> None:
    """Refuses what is below zero.

    Raises:
        ValueError: if a field is, or is no finite number.
    """
    for name in names:
        if (value := _finite(settings, name)) < 0:
            raise ValueError(f"{type(settings).__name__}: {name} must not be below 0, got {value}")


def _finite(settings: object, name: str) -> float:
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(settings).__name__}: {name} must be a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{type(settings).__name__}: {name} must be a finite number, got {value}")
    return value
