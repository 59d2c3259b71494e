"""Calls for operators and load balancers. Without a key they disclose only whether the server is there."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.model import State
from umrgen.server.http import Services
from umrgen.server.http.api.responses import Health, json_response
from umrgen.server.http.auth import open_for_operator
from umrgen.server.metrics import CONTENT_TYPE, Gauge

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    async def healthz(request: Request) -> Response:
        """The process answers."""
        return _json("ok")

    async def metrics(request: Request) -> Response:
        """The server's figures, for Prometheus."""
        await open_for_operator(services, request.scope, dict(request.headers.raw))
        text = services.metrics.text(await _gauges(services))
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE})

    async def readyz(request: Request) -> Response:
        """Readiness probe. A 503 does not disclose its reason to unauthenticated callers."""
        if services.admission.draining or services.executor.info is None or services.executor.trouble:
            return _json("not ready", 503)
        return _json("ready")

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


async def _gauges(services: Services) -> list[Gauge]:
    counts = await services.ledger.jobs.count()
    return [
        ("umrgen_jobs_queued", "Jobs that wait for their turn.", counts[State.QUEUED]),
        ("umrgen_jobs_running", "Jobs that are being drawn.", counts[State.RUNNING]),
        ("umrgen_waiters", "Calls that are held until a job changes.", len(services.subscriptions)),
        ("umrgen_images_bytes", "What the kept images have together.", await services.ledger.outputs.kept_bytes()),
        ("umrgen_disk_free_bytes", "What can still be stored.", await services.storage.free_bytes() or 0),
        ("umrgen_engine_up", "Whether the engine can draw.", float(services.executor.trouble is None)),
    ]


def _json(status: str, code: int = 200) -> Response:
    return json_response(Health(status), code, {"Retry-After": "2"} if code == 503 else {})
