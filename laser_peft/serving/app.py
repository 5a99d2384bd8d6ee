"""The HTTP application: reads requests within limits, lines them up, and says what came of them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from laser_peft.recommender import LaserRecommender

from .answering import Answer, Query
from .asking import RecommendRequest, as_query, read_request
from .limits import ServingLimits
from .metrics import Metrics
from .refusals import Refused
from .unread import UnreadResponse
from .worker import Worker

logger = logging.getLogger(__name__)
TOO_LARGE = 413
GONE = 499  # as nginx writes it into its log; nobody reads the answer


def build(
    recommender: LaserRecommender | Callable[[], LaserRecommender], limits: ServingLimits
) -> FastAPI:
    """Makes the application; see :func:`laser_peft.serving.create_app`.

    ``app.state.worker`` is its :class:`Worker`.
    """
    metrics = Metrics()
    load = (lambda: recommender) if isinstance(recommender, LaserRecommender) else recommender
    worker = Worker(load, limits, on_batch=metrics.batch)
    metrics.watch("waiting_histories", "Histories that wait.", lambda: worker.line.waiting)
    metrics.watch("ready", "1 if the server is ready.", lambda: worker.is_ready)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    # Without pages of documentation: they load scripts from elsewhere.
    app = FastAPI(
        title="laser_peft",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _not_here},
    )
    app.state.worker = worker
    body = {"content": {"application/json": {"schema": RecommendRequest.model_json_schema()}}}

    @app.post("/recommend", openapi_extra={"requestBody": body | {"required": True}})
    async def recommend(request: Request) -> Response:
        """Recommends for one history, or for several."""
        started = time.perf_counter()
        response = await _answered(request, worker, limits, metrics)
        metrics.answered(response.status_code, time.perf_counter() - started)
        return response

    @app.get("/health")
    async def health() -> Response:
        """Says whether the process works; if not, start it anew."""
        return _told("ok" if worker.is_healthy else "failed", is_well=worker.is_healthy)

    @app.get("/ready")
    async def ready() -> Response:
        """Says whether to send requests here."""
        return _told("ready" if worker.is_ready else "not ready", is_well=worker.is_ready)

    @app.get("/metrics")
    async def tell_metrics() -> Response:
        """Gives the metrics to Prometheus."""
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


async def _not_here(_: Request, error: Exception) -> Response:
    """Says what is here, where something else was asked for."""
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method"}.get(error.status_code, "invalid")
    detail = f"{error.detail}: POST /recommend takes histories; see /openapi.json"
    headers = dict(error.headers or {})
    return _json({"error": kind, "detail": detail}, error.status_code, headers)


async def _answered(
    request: Request, worker: Worker, limits: ServingLimits, metrics: Metrics
) -> Response:
    """Answers a request, whatever becomes of it."""
    try:
        content = await asyncio.wait_for(_content(request, worker, limits), limits.timeout_s)
        return _json(content)
    except asyncio.TimeoutError:  # noqa: UP041  (in Python 3.10 it is not TimeoutError)
        refused = Refused(
            503,
            "timeout",
            f"there was no answer within {limits.timeout_s:g} s; come again, with fewer histories",
            retry_after=1,
        )
    except ClientDisconnect:
        refused = Refused(GONE, "gone", "the client has gone")
    except Refused as error:
        refused = error
    except Exception:
        logger.exception("a request failed")
        refused = Refused(500, "failed", "the recommender failed; the server's log says why")
    metrics.refused(refused.kind)
    kind = UnreadResponse if refused.status == TOO_LARGE else JSONResponse
    return _json(refused.body, refused.status, refused.headers, kind=kind)


async def _content(request: Request, worker: Worker, limits: ServingLimits) -> dict[str, Any]:
    asked = read_request(await _read_body(request, limits.max_body_bytes), limits)
    query = as_query(asked, worker.recommender.catalogue)
    results = [
        {"items": [item._asdict() for item in items]}
        for items in await _computed(request, worker, query)
    ]
    return {"results": results} if asked.histories is not None else results[0]


async def _read_body(request: Request, most: int) -> bytes:
    """Reads the body, no further than is allowed."""
    too_large = Refused(
        TOO_LARGE, "too_large", f"a request may have {most:,} bytes; send fewer items"
    )
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _computed(request: Request, worker: Worker, query: Query) -> Answer:
    """Waits for the answer as long as the client does; what nobody waits for is not computed."""
    answer = asyncio.wrap_future(worker.line.put(query).answer)
    gone = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(status: str, *, is_well: bool) -> Response:
    return _json({"status": status}, 200 if is_well else 503)


def _json(
    content: Any,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    kind: type[JSONResponse] = JSONResponse,
) -> Response:
    return kind(content, status, {"X-Content-Type-Options": "nosniff", **(headers or {})})
