"""The middleware in front of every handler: Host and Origin checks, no keys in URLs, metrics, the access log.

A malicious web page can make a browser call this server under the page's host name (DNS rebinding), or from another
origin (CSRF); proxies write the key of a URL into their logs. This middleware refuses such requests.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.http.auth import address_of
from umrgen.server.http.disconnect import was_disconnected
from umrgen.server.http.problems import Problem
from umrgen.server.http.strangers import StrangerLog
from umrgen.server.metrics import Metrics
from umrgen.server.settings import Settings

__all__ = ["SecurityMiddleware"]

access = logging.getLogger("umrgen.access")

STATUS_PATH = "/api/v1/status/"
_POLLED = ("/healthz", "/readyz", "/api/v1/status")
"""Paths that load balancers and waiting clients request all the time, and that change nothing."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"server", b"http"))
"""Headers of every response. Without the second, granian would disclose its name."""
_KEY = re.compile(r"umr_[\w-]+")
_KEY_NAMES = frozenset(("api_key", "apikey", "api-key", "key", "token", "access_token", "authorization", "bearer"))


class SecurityMiddleware:
    """An ASGI middleware that checks each request, counts its response, and logs it."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        hosts: AllowedHosts,
        metrics: Metrics,
        access_log: Callable[[], str] | None = None,
    ) -> None:
        """`access_log` returns the present value of this setting, which a reload may change."""
        self._app = app
        self._hosts = hosts
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._prefix = settings.prefix
        self._logged = access_log or (lambda: settings.access_log)
        self._metrics = metrics
        self._strangers = StrangerLog(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        state = scope.setdefault("state", {})
        observed = _ObservedSend(send, state)
        begun = time.perf_counter()
        try:
            self._check(scope)
            await self._app(self._without_prefix(scope), receive, observed)
        except Problem as problem:
            if scope["path"].startswith(f"{self._prefix}{STATUS_PATH}"):
                problem.with_state()
            await problem.response()(scope, receive, observed)
        except asyncio.CancelledError:
            if not was_disconnected(scope):
                raise
        finally:
            self._metrics.answered(state["status"], state.get("key_id"))
            self._write_log(scope, state, time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        """Raise Problem for a request that fails a check."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        # A client that sends no Host header (HTTP/1.0) is not a browser. granian adds an empty header then.
        if hosts and hosts != [b""] and (len(hosts) > 1 or not self._hosts.accept(hosts[0])):
            raise Problem("forbidden_host")
        if scope["method"] not in _SAFE_METHODS:
            for origin in (value for name, value in scope["headers"] if name == b"origin"):
                self._check_origin(origin.decode("latin-1").lower(), b"".join(hosts).decode("latin-1").lower())
        if scope["query_string"]:
            _check_query(scope["query_string"])

    def _check_origin(self, origin: str, host: str) -> None:
        if origin in self._origins:
            return
        if origin not in (f"http://{host}", f"https://{host}"):
            raise Problem("forbidden_origin")

    def _without_prefix(self, scope: Scope) -> Scope:
        """Return the scope without the prefix that a proxy left in the path."""
        path: str = scope["path"]
        if self._prefix and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            return dict(scope) | {"path": path[len(self._prefix) :] or "/"}
        return scope

    def _write_log(self, scope: Scope, state: Mapping[str, Any], seconds: float) -> None:
        """Write one line about the request, without its query, key and body."""
        status: int = state["status"]
        notable = status >= 400 or status == 0 or scope["method"] not in _SAFE_METHODS
        # A client above its rate limit must not fill the log; the metrics count its requests.
        notable = notable and status != 429 and scope["path"] not in _POLLED
        if 400 <= status < 500 and "key_id" not in state:
            self._strangers.note(status, address_of(scope))
            notable = False
        logged = self._logged()
        if logged == "none" or (logged == "notable" and not notable):
            return
        fields: Mapping[str, Any] = {
            "method": scope["method"],
            "path": _loggable_path(scope["path"]),
            "status": status,
            "ms": round(seconds * 1000, 1),
            "address": address_of(scope),
            "key_id": state.get("key_id"),
            "job_id": state.get("job_id"),
        }
        access.info("request", extra=fields)


def _loggable_path(path: str) -> str:
    """Return a path for the log, without keys and without the URLs of images, which give access to them."""
    if path.startswith("/outputs/"):
        return "/outputs/…"
    return _KEY.sub("umr_…", path[:200])


class _ObservedSend:
    """An ASGI `send` that notes the response's status in the request's state; it is 0 before the response."""

    __slots__ = ("_send", "_state")

    def __init__(self, send: Send, state: dict[str, Any]) -> None:
        self._send = send
        self._state = state
        state["status"] = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._state["status"] = message["status"]
            message["headers"] = [*message["headers"], *_HEADERS]
        await self._send(message)


def _check_query(query: bytes) -> None:
    """Raise Problem for a query that carries an API key."""
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if value.startswith("umr_") or name.lower() in _KEY_NAMES:
            raise Problem("key_in_url")
