"""Runs the application until it is told to stop; what it has begun to answer is answered then."""

from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from laser_peft.recommender import LaserRecommender

from .app import build
from .limits import ServingLimits


class Server(uvicorn.Server):
    """A server that is not ready any more from the moment it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes SIGTERM and Ctrl-C."""
        self.app.state.worker.drain()
        super().handle_exit(sig, frame)

    @property
    def app(self) -> FastAPI:
        """The application that is served."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        return app


def serve(
    load: Callable[[], LaserRecommender], limits: ServingLimits, *, host: str, port: int
) -> None:
    """Serves until SIGTERM or Ctrl-C, in one process with one model.

    Args:
        load: gives the recommender; the server answers meanwhile, and is not ready.
        limits: what it takes.
        host: address to listen at.
        port: 0: one that is free, which the log names.

    Raises:
        Exception: what ``load`` has raised.
    """
    app = build(load, limits)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.timeout_s) + 1,
    )
    server = Server(config)
    worker = app.state.worker

    def stop() -> None:
        server.should_exit = True

    worker.on_failure = stop
    server.run()
    if worker.error is not None:
        raise worker.error
