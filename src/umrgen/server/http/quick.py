"""Status calls answered before they become ASGI requests, in a few microseconds.

Most calls to this server ask for the state of a job that is over or running, with nothing to wait for. Such
a call needs no task, no scope and no queue of messages, which together cost more than its answer. The
protocol answers it when key and job can be had at once; everything else goes the usual way. What is answered
here is, byte for byte, what the usual way would have answered: a test compares them. So is the refusal of
a key that has asked too much, whatever it asks for: that must cost least of all.
"""

from collections import Counter
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar
from weakref import ref

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from umrgen.jobs import State
from umrgen.server.http import Services
from umrgen.server.http.answers import AT_ONCE
from umrgen.server.http.auth import asked_too_much
from umrgen.server.http.guarded import GuardedProtocol
from umrgen.server.http.status import PATH, View, content_headers
from umrgen.server.ledger import LedgerUnavailable

__all__ = ["quick_answer", "quick_protocol"]

_KEYED = b"/api/"
"""Calls that need a key: each may be refused here, only a status is answered."""
_BEARER = b"Bearer "
_NOT_PLAIN = frozenset(
    (
        *(b"prefer", b"if-none-match", b"expect", b"content-length", b"transfer-encoding", b"connection", b"upgrade"),
        *(b"origin", b"traceparent"),
    )
)
"""Headers that ask for more than a look, or for care with the connection."""

Headers = list[tuple[bytes, bytes]]


def quick_answer(services: Services, url: bytes, headers: Headers) -> tuple[int, Headers, bytes] | None:
    """Status, headers and body, if they can be given at once; None for anything out of the ordinary."""
    authorization = host = b""
    for name, value in headers:
        if name in _NOT_PLAIN and value.lower() != b"keep-alive":
            return None
        if name == b"authorization":
            authorization = value
        elif name == b"host":
            if host:
                return None
            host = value
    if not authorization.startswith(_BEARER) or not services.hosts.accept(host):
        return None
    try:
        path, secret = url.decode("ascii"), authorization[len(_BEARER) :].decode("ascii")
    except UnicodeDecodeError:
        return None
    key = services.keys.trusted(secret)
    if key is None:
        return None
    try:
        job = services.ledger.glance(path[len(PATH) :]) if path.startswith(PATH) else None
    except LedgerUnavailable:
        return None
    # A place in the queue cannot be had at once; and whether a job is another's is said in one place only.
    plain = job is not None and job.session_id == key.session_id and job.state is not State.QUEUED
    if not (services.limits.take(key) if plain else services.limits.may(key)):
        refusal = asked_too_much(services, key).response()  # whoever asks too often costs little
        return refusal.status_code, refusal.raw_headers, bytes(refusal.body)
    if job is None or not plain:
        return None
    view = View(services, job, None)
    body = view.body()
    return 200, [*view.headers(), *content_headers(body)], body


class QuickProtocol(GuardedProtocol):
    """uvicorn's protocol with a short way in and out for status calls. Made by `quick_protocol`."""

    services: ClassVar[Services]
    quick: ClassVar[bool] = True
    _answered = False

    def on_headers_complete(self) -> None:
        if not self.quick or not self.url.startswith(_KEYED):
            super().on_headers_complete()
        elif self._answer_quickly():
            self.head_complete()
            self._answered = True
            self.on_response_complete()
        else:
            super().on_headers_complete()
            # What a page is answered gets further headers on its way, so it goes the whole way.
            if self.scope["method"] != "HEAD" and not any(name == b"origin" for name, _ in self.headers):
                # The cycle has the scope, so the scope must not have the cycle: it would be garbage in a circle.
                extensions: dict[str, Any] = {AT_ONCE: partial(self._answer_at_once, ref(self.cycle))}
                self.scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        if self._answered:
            self._answered = False
        else:
            super().on_message_complete()

    def _answer_quickly(self) -> bool:
        """Answer what needs no waiting, if nothing is in the way: an answer that is not sent yet, or not taken."""
        if self.parser.get_method() != b"GET" or self.flow.write_paused:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        answer = quick_answer(self.services, self.url, self.headers)
        if answer is None:
            return False
        self._write(*answer)
        if answer[0] == 200:
            self.services.metrics.quick += 1
        else:
            self.services.metrics.answered(answer[0])
        return True

    def _answer_at_once(
        self, asked: "ref[RequestResponseCycle]", status: int, headers: Headers, body: bytes
    ) -> bool:
        """The whole answer in one write: half the work of `send`, which counts when thousands are woken."""
        cycle = asked()
        if cycle is None or cycle.disconnected or cycle.response_started or not cycle.keep_alive or self.flow.write_paused:
            return False
        if any(name == b"connection" for name, _ in headers):
            return False
        self._write(status, headers, body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        lines = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n", body)
        self.transport.write(b"".join(lines))


def quick_protocol(services: Services) -> type[QuickProtocol]:
    """The protocol class for a server with these services."""
    settings = services.settings
    proxies = [ip_network(text) for text in settings.trusted_proxies]

    def stands_for_many(self: QuickProtocol, address: str) -> bool:
        """This machine, for the tunnels on it, and proxies that are trusted."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return True
        return parsed.is_loopback or any(parsed in network for network in proxies)

    members = {
        "services": services,
        "quick": settings.access_log != "all",  # what is answered in here is not logged
        "head_timeout": settings.header_timeout,
        "max_connections": settings.max_connections,
        "max_of_address": settings.address_connections,
        "stands_for_many": stands_for_many,
        "company": Counter[str](),
    }
    return type("QuickProtocol", (QuickProtocol,), members)
