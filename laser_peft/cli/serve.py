"""``laser-peft serve``."""

from typing import Annotated

import typer

from .asking import LLM, Device, Dtype, Recommender, load_on
from .base import app, says_what_is_wrong
from .config_file import takes_a_config_file


@app.command()
@says_what_is_wrong
@takes_a_config_file
def serve(
    recommender: Recommender,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: one that is free.")] = 8000,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Histories computed together.")] = 64,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="Milliseconds to wait for more requests.")
    ] = 2.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Histories that may wait; beyond, 503.")
    ] = 256,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 2**20,
    max_histories: Annotated[int, typer.Option(min=1, help="Of a request.")] = 64,
    max_history_items: Annotated[int, typer.Option(min=1, help="Of a history.")] = 1000,
    max_k: Annotated[int, typer.Option(min=1, help="Items to recommend for a history.")] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds until a request is given up.")
    ] = 30.0,
    llm: LLM = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Answer requests over HTTP, those that wait together at once.

    Example:
    laser-peft serve run/recommender --port 8000

    Prints the address and what goes wrong. POST /recommend takes histories,
    GET /health, /ready and /metrics say how it is. SIGTERM stops it when all
    is answered.
    """
    from laser_peft import serving

    limits = serving.ServingLimits(
        max_body_bytes=max_body_bytes,
        max_histories=max_histories,
        max_history_items=max_history_items,
        max_k=max_k,
        max_batch_size=max_batch_size,
        max_wait_ms=max_wait_ms,
        max_waiting=max_waiting,
        timeout_s=timeout,
    )
    serving.serve(lambda: load_on(recommender, llm, dtype, device), limits, host=host, port=port)
