"""What is refused, and how it is said: a kind for machines and a sentence for people."""


class Refused(Exception):
    """A request that is not answered as asked.

    Args:
        status: of HTTP.
        kind: a short name, counted in the metrics.
        detail: what, got, why, do.
        retry_after: seconds until it may come again; None: the same request is refused again.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, str]:
        """What the client reads, as JSON."""
        return {"error": self.kind, "detail": self.detail}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def invalid(detail: str) -> Refused:
    """Says that a request is not as it must be."""
    return Refused(422, "invalid", detail)
