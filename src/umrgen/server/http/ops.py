"""Calls for operators and load balancers."""

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
        await open_for_operator(services, request.scope, dict(request.headers.raw))
        text = services.metrics.text(await _gauges(services))
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
        ("umrgen_waiters", "Calls that wait for a change of a job.", figures.waiting_calls),
        ("umrgen_images_bytes", "Size of all kept images.", figures.images_bytes),
        ("umrgen_disk_free_bytes", "Free space for images.", figures.free_bytes or 0),
        ("umrgen_engine_up", "1 if the engine can draw.", float(figures.engine_up)),
    ]


def _json(status: str, code: int = 200) -> Response:
    return json_response(Health(status), code, {"Retry-After": "2"} if code == 503 else {})
