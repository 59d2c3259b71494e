"""The middleware in front of every handler: Host and Origin checks, no keys in URLs, metrics, the access log.

A page in a browser can be made to call this server under a host name of its own (DNS rebinding), or from its own
origin; a key in a URL is written into every log on the way. Such requests are refused here.
"""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.http.auth import address_of
from umrgen.server.http.disconnect import was_disconnected
from umrgen.server.http.problems import Problem
from umrgen.server.metrics import Metrics
from umrgen.server.settings import Settings

__all__ = ["SecurityMiddleware"]

access = logging.getLogger("umrgen.access")

_LOOKS = ("/healthz", "/readyz", "/api/v1/status")
"""What balancers and waiting clients ask for all the time, and what changes nothing."""
_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"server", b"http"))
"""Headers of every response. Without the second, granian would name itself."""
_KEY = re.compile(r"umr_[\w-]+")
_KEY_NAMES = frozenset(("api_key", "apikey", "api-key", "key", "token", "access_token", "authorization", "bearer"))


class SecurityMiddleware:
    """An ASGI middleware that checks each request, counts its response, and logs it."""

    def __init__(self, app: ASGIApp, settings: Settings, hosts: AllowedHosts, metrics: Metrics) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._prefix = settings.prefix
        self._log = settings.access_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        state = scope.setdefault("state", {})
        answered = _Answered(send, state)
        begun = time.perf_counter()
        try:
            self._check(scope)
            await self._app(self._inside(scope), receive, answered)
        except Problem as problem:
            await problem.response()(scope, receive, answered)
        except asyncio.CancelledError:
            if not was_disconnected(scope):
                raise
        finally:
            self._metrics.answered(state["status"])
            self._tell(scope, state, time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        """Raises Problem."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        # Without one, as in HTTP/1.0, the client is no browser. granian adds an empty one then.
        if hosts and hosts != [b""] and (len(hosts) > 1 or not self._hosts.accept(hosts[0])):
            raise Problem("forbidden_host")
        if scope["method"] not in _READING:
            for origin in (value for name, value in scope["headers"] if name == b"origin"):
                self._check_origin(origin.decode("latin-1").lower(), b"".join(hosts).decode("latin-1").lower())
        if scope["query_string"]:
            _check_query(scope["query_string"])

    def _check_origin(self, origin: str, host: str) -> None:
        if origin in self._origins:
            return
        if origin not in (f"http://{host}", f"https://{host}"):
            raise Problem("forbidden_origin")

    def _inside(self, scope: Scope) -> Scope:
        """The scope as the handlers see it: without the prefix that a proxy has left in the path."""
        path: str = scope["path"]
        if self._prefix and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            return dict(scope) | {"path": path[len(self._prefix) :] or "/"}
        return scope

    def _tell(self, scope: Scope, state: Mapping[str, Any], seconds: float) -> None:
        """One line about the request: never its query, its key or its body."""
        status: int = state["status"]
        notable = status >= 400 or status == 0 or scope["method"] not in _READING
        # Whoever asks too often must not fill the log as well; the metrics count him.
        notable = notable and status != 429 and scope["path"] not in _LOOKS
        if self._log == "none" or (self._log == "notable" and not notable):
            return
        told: Mapping[str, Any] = {
            "method": scope["method"],
            "path": _told_path(scope["path"]),
            "status": status,
            "ms": round(seconds * 1000, 1),
            "address": address_of(scope),
            "key_id": state.get("key_id"),
            "job_id": state.get("job_id"),
        }
        access.info("request", extra=told)


def _told_path(path: str) -> str:
    """A path for the log: without what opens a door."""
    if path.startswith("/outputs/"):
        return "/outputs/…"  # the rest is the image's whole address
    return _KEY.sub("umr_…", path[:200])


class _Answered:
    """`send`, writing the status into the request's state; 0 until there is one."""

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
