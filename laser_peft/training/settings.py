"""Checks that the settings of both trainings share."""


def check_at_least_one(settings: object, *names: str) -> None:
    """Refuses counts below one.

    Raises:
        ValueError: naming the first such field.
    """
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise ValueError(f"{type(settings).__name__}: {name} must be at least 1, got {value}")
