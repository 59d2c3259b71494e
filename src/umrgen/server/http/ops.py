"""Calls for operators and load balancers; they need no key and tell nothing about anybody's jobs."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.server.http import Services

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    async def healthz(request: Request) -> Response:
        """The process answers."""
        return _json({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """The server takes jobs and can run them."""
        if services.draining:
            return _json({"status": "draining"}, 503)
        if services.executor.info is None or services.executor.trouble:
            return _json({"status": "starting" if services.executor.trouble is None else "engine_unavailable"}, 503)
        return _json({"status": "ready"})

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _json(body: dict[str, str], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": "2"} if status == 503 else {})
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
