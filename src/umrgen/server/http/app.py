"""The HTTP interface as one ASGI application: calls ahead of the router, routes, error responses, middleware."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from umrgen.errors import UmrgenError
from umrgen.server.http import Services, a1111, guide, openai, openapi, ops, studio
from umrgen.server.http.api import events, outputs, status, v1
from umrgen.server.http.auth import authenticate
from umrgen.server.http.middleware import SecurityMiddleware
from umrgen.server.http.problems import Problem, on_error

__all__ = ["make_app", "make_operator_app", "routes"]

AHEAD = (
    (status.PATH, ("GET", "HEAD"), status.status),
    (events.PATH, ("GET", "HEAD"), events.events),
    (outputs.PATH, ("GET", "HEAD"), outputs.outputs),
    (v1.SUBMIT, ("POST",), v1.submit),
)
"""Frequent calls, handled ahead of the router: at this path, or below it if it ends in a slash."""


ONLY_AHEAD = ("/api/v1/status/{job_id:path}", "/api/v1/events/{job_id:path}", "/outputs/{path:path}")
CATCH_ALL = ("/api/{rest:path}", "/v1/{rest:path}")
"""Paths for which this application has its own answer to unknown methods and paths."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
MCP_PATH = "/mcp"
OPTIONAL = ((MCP_PATH, "mcp", "MCP"), ("/sdapi/{rest:path}", "a1111", "AUTOMATIC1111's API"))
"""Paths of the interfaces that are off by default, with the setting and the name of each."""


def make_app(services: Services, mcp: ASGIApp | None = None) -> ASGIApp:
    """Return the application with the middleware that the settings require, and `mcp` at exactly /mcp."""
    settings = services.settings
    app: ASGIApp = SecurityMiddleware(
        _calls(services, mcp), settings, services.hosts, services.metrics, lambda: services.settings.access_log
    )
    if settings.allowed_origins:
        app = _for_browsers(app, settings.allowed_origins)
    if settings.trusted_proxies:
        app = wrap_asgi_with_proxy_headers(app, list(settings.trusted_proxies))
    return app


def make_operator_app(services: Services) -> ASGIApp:
    """Return an application with the calls for operators and load balancers only, for `umrgen work`."""
    router = Starlette(routes=ops.routes(services), exception_handlers=_handlers())
    return SecurityMiddleware(router, services.settings, services.hosts, services.metrics)


def _calls(services: Services, mcp: ASGIApp | None) -> ASGIApp:
    router = _router(services)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        requested: str = scope["path"]
        if mcp is not None and requested == MCP_PATH:  # no mount: its redirect breaks clients
            await mcp(scope, receive, send)
            return
        for path, methods, handler in AHEAD:
            matches = requested.startswith(path) if path.endswith("/") else requested == path
            if matches and scope["method"] in methods:
                await handler(services, scope, receive, send)
                return
        await router(scope, receive, send)

    return app


def routes(services: Services) -> list[Route]:
    """Return all routes of the router."""
    known = [route for part in (v1, openai, a1111, ops, openapi, guide, studio) for route in part.routes(services)]
    known += [Route(path, _only_ahead, methods=["GET"]) for path in ONLY_AHEAD] + _switched_off(services)
    return [*known, *(Route(path, _unknown(services, known), methods=METHODS) for path in CATCH_ALL)]


def _switched_off(services: Services) -> list[Route]:
    """Return routes whose 404 says that the interface is off, for a user who looks for a mistake in the address."""
    off = [(path, setting, name) for path, setting, name in OPTIONAL if not getattr(services.settings, setting)]
    return [Route(path, _off(setting, name), methods=METHODS) for path, setting, name in off]


def _off(setting: str, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def off(request: Request) -> Response:
        text = f"{name} is off on this server; its operator turns it on with the setting `{setting}`"
        return Problem("not_found", text).response()

    return off


async def _only_ahead(request: Request) -> Response:
    """Never called: the handlers ahead of the router answer. The route makes other methods a 405."""
    return Problem("not_found").response()


def _unknown(services: Services, known: Sequence[Route]) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler of paths and methods that no route has; a path of the API is disclosed to callers only."""

    async def unknown(request: Request) -> Response:
        if request.url.path.startswith("/api/"):
            await authenticate(services, request.scope, dict(request.headers.raw))
        others = [route for route in known if route.matches(request.scope)[0] is Match.PARTIAL]
        allowed = {method for route in others for method in route.methods or ()}
        if allowed:
            return Problem("method_not_allowed", headers={"Allow": ", ".join(sorted(allowed))}).response()
        return Problem("not_found").response()

    return unknown


def _handlers() -> dict[Any, Any]:
    return {Problem: on_error, UmrgenError: on_error, HTTPException: _on_http_error, Exception: _on_failure}


def _router(services: Services) -> Starlette:
    router = Starlette(routes=routes(services), exception_handlers=_handlers())
    router.router.redirect_slashes = False  # a redirect could send the key elsewhere
    return router


def _for_browsers(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Allow pages of these origins to call, and to read the responses (CORS)."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Prefer",
            "Range",
        ],
        expose_headers=["ETag", "Location", "Preference-Applied", "Retry-After", "RateLimit", "Repr-Digest"],
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Return the problem response for an error that Starlette raises itself."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid_request")
    return Problem(code, headers=error.headers).response()


async def _on_failure(request: Request, error: Exception) -> Response:
    return Problem("internal").response()
