"""Short ways: status calls are answered, or held, before they become ASGI requests, in a few microseconds, and other
calls may take a whole body, and send a whole answer, in one step.

Most calls to this server ask for the state of a job that is over or running, or wait for its end. Such
a call needs no task, no scope and no queue of messages, which together cost more than its answer. The
protocol answers or holds it when key and job can be had at once; everything else goes the usual way. What is answered
here is, byte for byte, what the usual way would have answered: a test compares them. So is the refusal of
a key that has asked too much, whatever it asks for: that must cost least of all.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar
from weakref import ref

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from umrgen.jobs import Job, State
from umrgen.server.http import Services
from umrgen.server.http.answers import AT_ONCE
from umrgen.server.http.auth import asked_too_much
from umrgen.server.http.bodies import WHOLE_BODY
from umrgen.server.http.endings import pack
from umrgen.server.http.guarded import GuardedProtocol
from umrgen.server.http.held import HeldCall, ending
from umrgen.server.http.status import PATH, View, answer_of, requested_wait
from umrgen.server.ledger import Key, LedgerUnavailable

__all__ = ["Hold", "quick_answer", "quick_protocol"]

_KEYED = b"/api/"
"""Calls that need a key: each may be refused here, only a status is answered."""
_BEARER = b"Bearer "
_NOT_PLAIN = frozenset(
    (
        *(b"if-none-match", b"expect", b"content-length", b"transfer-encoding", b"connection", b"upgrade"),
        *(b"origin", b"traceparent"),
    )
)
"""Headers that ask for more than a look, or for care with the connection."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Hold:
    """A call to be held until the job is over, for `wait` seconds at most."""

    key: Key
    job: Job
    wait: int


def quick_answer(services: Services, url: bytes, headers: Headers) -> tuple[int, bytes] | Hold | None:
    """The status and packed answer, if they can be had at once, or what to hold the call for; None for anything
    out of the ordinary."""
    plain = _plain(headers)
    if plain is None:
        return None
    authorization, host, prefer = plain
    if not authorization.startswith(_BEARER) or not services.hosts.accept(host):
        return None
    try:
        path, secret = url.decode("ascii"), authorization[len(_BEARER) :].decode("ascii")
    except UnicodeDecodeError:
        return None
    try:
        key = services.keys.at_once(secret)
        job = services.ledger.glance(path[len(PATH) :]) if path.startswith(PATH) else None
    except LedgerUnavailable:
        return None
    if key is None:
        return None
    fits, wait = False, None
    # Whether a job is another's is said in one place only.
    if job is not None and job.session_id == key.session_id:
        wait = requested_wait({b"prefer": prefer}, b"", services.settings.max_wait) if prefer else None
        # A place in the queue, for those who are told at once, is not to be had at once.
        fits = _can_be_held(services, key, job) if wait else not prefer and job.state is not State.QUEUED
    if not (services.limits.take(key) if fits else services.limits.may(key)):
        status, refused, body = asked_too_much(services, key).answer()  # whoever asks too often costs little
        return status, pack(refused, body)
    if job is None or not fits:
        return None
    if job.over:
        return 200, ending(services, job, wait)
    if wait:
        return Hold(key, job, wait)
    status, told, body = answer_of(View(services, job, None), None)
    return status, pack(told, body)


def _plain(headers: Headers) -> tuple[bytes, bytes, bytes] | None:
    """Authorization, Host and Prefer (b"" for one that is absent); None if there is more to heed."""
    authorization = host = prefer = b""
    for name, value in headers:
        if name in _NOT_PLAIN and value.lower() != b"keep-alive":
            return None
        if name == b"authorization":
            authorization = value
        elif name == b"host":
            if host:
                return None
            host = value
        elif name == b"prefer":
            if prefer:
                return None
            prefer = value
    return authorization, host, prefer


def _can_be_held(services: Services, key: Key, job: Job) -> bool:
    """Whether a caller who wants to wait for this job can be held now, or told at once that it is over."""
    return job.over or not (services.waiters.closing or services.waiters.full(key.id))


class QuickProtocol(GuardedProtocol):
    """uvicorn's protocol with short ways in and out. Made by `quick_protocol`."""

    services: ClassVar[Services]
    common: ClassVar[list[Any]]
    """The headers that every answer has, and those headers packed."""
    quick: ClassVar[bool] = True
    _answered = False
    _held: HeldCall | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._held is not None:
            self._held.leave()
            self._held.response_complete = True  # nobody is left to complete it for
            self._held = None
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        keyed = self.quick and self.url.startswith(_KEYED)
        if keyed and self._answer_quickly():
            self.head_complete()
            self._answered = True
            if self._held is None:
                self.on_response_complete()
            return
        super().on_headers_complete()
        if keyed:
            self._offer_shortcuts()

    def _offer_shortcuts(self) -> None:
        """Tell the app of the short ways in and out. What a page is answered gets further headers on its way, so it
        goes the whole way."""
        if self.scope["method"] == "HEAD" or any(name == b"origin" for name, _ in self.headers):
            return
        # The cycle has the scope, so the scope must not have the cycle: it would be garbage in a circle.
        asked = ref(self.cycle)
        extensions: dict[str, Any] = {
            AT_ONCE: partial(self._answer_at_once, asked),
            WHOLE_BODY: partial(_whole_body, asked),
        }
        self.scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        if self._answered:
            self._answered = False
        else:
            super().on_message_complete()

    def _answer_quickly(self) -> bool:
        """Answer or hold a plain call, if nothing is in the way: an answer that is not sent yet, or not taken."""
        if self.parser.get_method() != b"GET" or self.flow.write_paused:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        answer = quick_answer(self.services, self.url, self.headers)
        if isinstance(answer, Hold):
            self._held = HeldCall(self, self.services, answer.key, answer.job, answer.wait)
            self.cycle = self._held  # type: ignore[assignment]  # what uvicorn uses of it
            self.scope, self.headers = None, []  # type: ignore[assignment]  # the largest part of what a call costs
        elif answer is not None:
            self._tell(*answer)
        return answer is not None

    def _tell(self, status: int, answer: bytes) -> None:
        self._write(status, answer)
        if status == 200:
            self.services.metrics.quick += 1
        else:
            self.services.metrics.answered(status)

    def tell_held(self, status: int, answer: bytes) -> None:
        """Send the packed answer to the call that is held."""
        held = self._held
        if held is not None and not self.transport.is_closing():
            self._tell(status, answer if held.keep_alive else b"connection: close\r\n" + answer)

    def end_hold(self) -> None:
        """Go on to what was asked behind the call that was held: it has its answer."""
        held, self._held = self._held, None
        if held is None or self.transport.is_closing():
            return
        if not held.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _answer_at_once(self, asked: "ref[RequestResponseCycle]", status: int, headers: Headers, body: bytes) -> bool:
        """The whole answer in one write: half the work of `send`, which counts when thousands are woken."""
        cycle = asked()
        if (
            cycle is None
            or cycle.disconnected
            or cycle.response_started
            or not cycle.keep_alive
            or self.flow.write_paused
        ):
            return False
        for name, value in headers:
            # uvicorn knows what to do about the one, and refuses the other.
            if name == b"connection" or b"\n" in value or b"\r" in value:
                return False
        self._write(status, pack(headers, body))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _write(self, status: int, answer: bytes) -> None:
        common = self.server_state.default_headers
        if common is not self.common[0]:  # they are made anew every second, for the date
            self.common[:] = common, pack(common, b"")[:-2]
        self.transport.write(b"".join((STATUS_LINE[status], self.common[1], answer)))


def _whole_body(asked: "ref[RequestResponseCycle]", limit: int) -> bytes | None:
    """The body, if it is here and so is its end: no waiting, so nothing to bound by time."""
    cycle = asked()
    if cycle is None or cycle.more_body or cycle.disconnected or len(cycle.body) > limit:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    cycle.flow.resume_reading()
    return body


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
        "common": [None, b""],
        "quick": settings.access_log != "all",  # what is answered in here is not logged
        "head_timeout": settings.header_timeout,
        "max_connections": settings.max_connections,
        "max_of_address": settings.address_connections,
        "stands_for_many": stands_for_many,
        "company": Counter[str](),
    }
    return type("QuickProtocol", (QuickProtocol,), members)
