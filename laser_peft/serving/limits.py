"""What a server takes, and how much of it at a time."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServingLimits:
    """What a server takes, and how much of it at a time. More is refused, not cut.

    Args:
        max_body_bytes: of a request.
        max_histories: of a request.
        max_history_items: of a history; a recommender reads the newest it has room for.
        max_listed_items: of ``allow``, and of ``deny``.
        max_id_length: characters of an item id.
        max_k: items to recommend for a history.
        max_batch_size: histories computed together; a request is not divided.
        max_wait_ms: milliseconds that a free model waits for more requests; may be 0.
        max_waiting: histories that wait; a request beyond is told to come again.
        timeout_s: seconds until a request is given up.

    Raises:
        ValueError: if a number is below one (``max_wait_ms``: below zero) or not finite.
    """

    max_body_bytes: int = 2**20
    max_histories: int = 64
    max_history_items: int = 1_000
    max_listed_items: int = 10_000
    max_id_length: int = 256
    max_k: int = 1_000
    max_batch_size: int = 64
    max_wait_ms: float = 2.0
    max_waiting: int = 256
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = {"max_wait_ms": 0, "timeout_s": 0.001}.get(field.name, 1)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{field.name} must be at least {least}, got {value}")
