"""Recommendations over HTTP: requests that wait together are computed together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from laser_peft.recommender import LaserRecommender

from .limits import ServingLimits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["ServingLimits", "create_app", "serve"]


def create_app(
    recommender: LaserRecommender | Callable[[], LaserRecommender],
    limits: ServingLimits | None = None,
) -> "FastAPI":
    """Makes a FastAPI application; ``docs/serving.md`` has its endpoints.

    Args:
        recommender: what recommends, which nothing else may use meanwhile; or what loads it, when
            the application starts, which then answers but is not ready yet.
        limits: None: the defaults.

    Raises:
        ImportError: if the packages of the extra ``serve`` are not installed.
    """
    with _packages():
        from .app import build
    return build(recommender, limits or ServingLimits())


def serve(
    load: Callable[[], LaserRecommender], limits: ServingLimits, *, host: str, port: int
) -> None:
    """Serves until SIGTERM or Ctrl-C; see :func:`laser_peft.serving.server.serve`.

    Raises:
        ImportError: if the packages of the extra ``serve`` are not installed.
    """
    with _packages():
        from .server import serve as run
    run(load, limits, host=host, port=port)


@contextmanager
def _packages() -> Iterator[None]:
    """Says what to install where a package of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serving needs the package {error.name!r}: pip install 'laser-peft[serve]'"
        ) from error
