"""What a server counts, in the text format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts of one application, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "laser_peft_requests",
            "Requests to recommend, by the status of the answer.",
            ["status"],
            registry=self._registry,
        )
        self._errors = Counter(
            "laser_peft_errors", "Refused requests, by kind.", ["kind"], registry=self._registry
        )
        self._seconds = Histogram(
            "laser_peft_request_seconds",
            "From the headers of a request to its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "laser_peft_batch_histories",
            "Histories computed together.",
            buckets=SIZES,
            registry=self._registry,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Shows a value as it is when it is asked for."""
        Gauge(f"laser_peft_{name}", help_text, registry=self._registry).set_function(value)

    def answered(self, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def refused(self, kind: str) -> None:
        """Counts an error."""
        self._errors.labels(kind).inc()

    def batch(self, size: int) -> None:
        """Counts a batch of so many histories."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Returns all of it."""
        return generate_latest(self._registry)
