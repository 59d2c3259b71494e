"""Calls for operators and load balancers."""

import math

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.server.http import Services
from umrgen.server.http.api.responses import Health, Liveness, json_response
from umrgen.server.http.auth import open_for_operator
from umrgen.server.metrics import CONTENT_TYPE, Gauge

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    async def healthz(request: Request) -> Response:
        """Liveness probe."""
        return json_response(Liveness("ok"))

    async def metrics(request: Request) -> Response:
        """Return the server's metrics for Prometheus."""
        caller = await open_for_operator(services, request.scope, dict(request.headers.raw))
        text = services.metrics.text(await _gauges(services), only_key=caller.key.id if caller else None)
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE})

    async def readyz(request: Request) -> Response:
        """Readiness probe. A 503 does not disclose its reason to unauthenticated callers."""
        return _json("ready") if await services.state.is_ready() else _json("not ready", 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


async def _gauges(services: Services) -> list[Gauge]:
    figures = await services.state.figures()
    return [
        ("umrgen_jobs_queued", "Queued jobs.", figures.queued),
        ("umrgen_jobs_running", "Running jobs.", figures.running),
        ("umrgen_queue_age_seconds", "Time since the oldest queued job was submitted.", figures.queue_age),
        ("umrgen_webhooks_pending", "Webhooks to be delivered.", figures.webhooks_pending),
        ("umrgen_waiters", "Calls that wait for a change of a job.", figures.waiting_calls),
        ("umrgen_images_bytes", "Size of all kept images.", figures.images_bytes),
        ("umrgen_disk_free_bytes", "Free space for images.", _or_unknown(figures.free_bytes)),
        ("umrgen_disk_reserve_bytes", "Free space below which no job is accepted.", figures.reserve_bytes),
        ("umrgen_ledger_bytes", "Size of the ledger's file.", _or_unknown(figures.ledger_bytes)),
        ("umrgen_ready", "1 if the server accepts jobs, and can run and store them.", float(figures.ready)),
        ("umrgen_engine_up", "1 if the engine can draw.", float(figures.engine_up)),
    ]


def _or_unknown(value: int | None) -> float:
    """Return the value, or NaN for one that cannot be measured here, such as the free space of S3."""
    return math.nan if value is None else value


def _json(status: str, code: int = 200) -> Response:
    return json_response(Health(status), code, {"Retry-After": "2"} if code == 503 else {})
