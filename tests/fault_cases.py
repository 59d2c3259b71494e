"""Test cases of faults between a client and its image, each run with both clients against both kinds of server.

A case has a fault, a phase, and an expected end of the call: the image, or one exact error. After every case,
`CaseRun.check_invariants` checks that no unverified file has the final name, that all other files are partial files
which can be resumed, that no key was sent to another origin, that the deadline was kept, and that there is one job at
most.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from umrgen import (
    AsyncClient,
    Client,
    ConnectionFailed,
    OutputForbidden,
    RateLimited,
    SavedImage,
    ServerError,
    UmrgenError,
    WaitTimeout,
)
from umrgen.client.flow import Event
from umrgen.testing import (
    Drip,
    Exchange,
    FakeClock,
    Fault,
    FaultServer,
    NoResponse,
    PassThrough,
    Redirect,
    Reset,
    Respond,
    Script,
    Tamper,
    Truncate,
    png_bytes,
)

MODES = ("modern", "legacy")
DRIVERS = ("sync", "async")
KEY = "the-key-that-stays-home"
IMAGE = png_bytes(60_000, seed=7)
UNKNOWN_JOB = "ext_" + "0" * 32
PATTERNS = {"submit": "POST /api/v1/generate", "wait": "GET /api/v1/status/*", "download": "GET /outputs/*"}
SHARES = (0.01, 0.5, 0.99)

FAST: Mapping[str, Any] = {
    "timeout": 8,
    "wait": 1,
    "patience": 3,
    "submit_patience": 2,
    "queued_interval": 0.02,
    "running_interval": 0.02,
    "first_backoff": 0.01,
    "longest_backoff": 0.05,
    "request_timeout": 1.0,  # a loaded machine responds late; only a missing response may reach it
    "connect_timeout": 1,
    "drip_window": 0.2,
}
"""Client options of the cases in real time; those in simulated time use the defaults."""

SHORT = {"patience": 0.2, "submit_patience": 0.2, "request_timeout": 0.25}
"""Client options with which a retry budget ends soon."""


# --- what a case consists of ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Saves:
    """The call ends with the whole, verified image."""


@dataclass(frozen=True)
class Fails:
    """The call ends with exactly this class of error and this code."""

    kind: type[UmrgenError]
    code: str = ""
    sent: bool | None = None
    """Whether the error reports that a submit may have arrived; None: not checked."""


Expected = Saves | Fails
SAVES = Saves()
FOREIGN_OUTPUT = Fails(OutputForbidden, "foreign_output")
Faults = tuple[Fault, ...] | Callable[["CaseRun"], tuple[Fault, ...]]


@dataclass(frozen=True)
class FaultCase:
    """One line of a table of cases."""

    name: str
    faults: Faults = ()
    """Faults for the requests of the phase; a function may prepare more."""
    expected: Expected | Mapping[str, Expected] = SAVES
    """How the call ends, or how it ends in each mode."""
    times: int | None = 1
    """How often the faults are used in turn; None: without end."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the client."""
    server: Mapping[str, Any] = field(default_factory=dict)
    """Options of the FaultServer."""
    simulated: bool = False
    """Whether client and server run in simulated time."""
    job: str | None = None
    """A job to download by its id; None: one is submitted."""
    only: str | None = None
    """The one mode in which the case is possible, and `why` it is."""
    why: str = ""
    overwrite: bool = False
    keeps_parts: bool = False
    """Whether a partial file that another process holds remains."""
    check: Callable[["CaseRun"], None] = lambda run: None
    """A check after this case."""


class CaseRun:
    """One run of a case: a server, a foreign origin that must never receive the key, a folder, and clocks."""

    def __init__(
        self, mode: Any, case: FaultCase, phase: str, folder: Path, foreign: FaultServer, patch: pytest.MonkeyPatch
    ) -> None:
        self.mode: str = mode
        self.case, self.phase = case, phase
        self.folder = folder
        self.target = folder / "image.png"
        self.foreign = foreign
        self.patch = patch
        self.clock = FakeClock() if case.simulated else None
        timing = {"clock": self.clock.monotonic} if self.clock else {}
        options = {"key": KEY, "image": IMAGE, "job_seconds": 0, "rate_limit": None} | timing | dict(case.server)
        self.server = FaultServer(mode, **options)
        self.base_url = ""
        self.events: list[Event] = []
        self.unverified: list[str] = []
        """Events during which a file that is not the image had the final name."""
        self.failing_lookups = 0
        self.cleanups: list[Callable[[], object]] = []
        self.error: UmrgenError | None = None

    # --- for cases ---

    def on_phase(self, *faults: Fault, phase: str = "", times: int | None = 1) -> Script:
        """Add faults to requests of this or another phase."""
        return self.server.on(PATTERNS[phase or self.phase], *faults, times=times)

    @property
    def output_requests(self) -> list[Any]:
        """The requests for images."""
        return [request for request in self.server.requests if request.path.startswith("/outputs/")]

    @property
    def status_requests(self) -> list[Any]:
        """The requests for the status of one job."""
        return [request for request in self.server.requests if request.path.startswith("/api/v1/status/")]

    def before_phase(self, action: Callable[[], object], *, early: bool = False) -> None:
        """Call `action` before the phase's first request: now, or when the response before it was sent."""
        if self.phase == "submit":
            action()
        else:
            previous = {"wait": "submit", "download": "wait"}[self.phase]
            self.on_phase(RespondThenAct(action, early), phase=previous)

    def use_host_name(self) -> None:
        """Give the server a host name, whose lookups fail while `failing_lookups` is above 0."""
        self.base_url = self.server.url.replace("127.0.0.1", "umrgen.test")
        original = socket.getaddrinfo

        def lookup(host: Any, *arguments: Any, **more: Any) -> Any:
            if host in ("umrgen.test", b"umrgen.test"):
                if self.failing_lookups > 0:
                    self.failing_lookups -= 1
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
                host = "127.0.0.1"
            return original(host, *arguments, **more)

        self.patch.setattr(socket, "getaddrinfo", lookup)

    # --- the run ---

    def execute(self, driver: str) -> None:
        """Get the image as a user would, and compare the end with the case's."""
        case = self.case
        faults = case.faults(self) if callable(case.faults) else case.faults
        if faults:
            self.on_phase(*faults, times=case.times)
        options = ({} if case.simulated else dict(FAST)) | dict(case.options)
        self.timeout = options.get("timeout", 600)
        options |= {"on_event": self._on_event, "journal": None, "clock": self.clock}
        try:
            saved = (_sync if driver == "sync" else _async)(self, options)
        except UmrgenError as error:
            self.error = error
        finally:
            for cleanup in self.cleanups:
                cleanup()
        expected = case.expected if isinstance(case.expected, Expected) else case.expected[self.mode]
        if isinstance(expected, Saves):
            if self.error is not None:
                raise self.error
            assert saved.path == self.target
            assert saved.bytes == len(IMAGE)
        else:
            assert self.error is not None, "the call ended with an image"
            self._check_error(expected, self.error)
        self.check_invariants()
        case.check(self)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if event.kind != "saved" and self.target.exists() and self.target.read_bytes() != IMAGE:
            self.unverified.append(event.kind)

    def _check_error(self, expected: Fails, error: UmrgenError) -> None:
        assert (type(error), error.code) == (expected.kind, expected.code or expected.kind.code), error
        assert str(error)
        assert error.next, "an error has a remedy"
        if expected.sent is not None:
            assert error.sent is expected.sent
        if self.phase != "submit":
            assert error.job_id == (self.case.job or self.server.jobs[0].id)

    def check_invariants(self) -> None:
        """Check the rules that hold for every end of the call."""
        # The final name has no file, or the whole image. Other files are partial files for a later attempt.
        assert not self.unverified
        if self.target.exists():
            assert self.target.read_bytes() == IMAGE
        else:
            assert self.error is not None
        others = set(self.folder.iterdir() if self.folder.exists() else ()) - {self.target}
        assert all(path.name.startswith(".image.png.") and path.name.endswith(".part") for path in others)
        resumable = isinstance(self.error, ConnectionFailed | RateLimited | ServerError | WaitTimeout)
        assert not others or resumable or self.case.keeps_parts
        # The key: sent to its own server only, and in no error.
        for request in self.foreign.requests:
            assert "authorization" not in request.headers
            assert KEY not in repr(request)
        assert all(KEY not in request.path for request in self.server.requests)
        if self.error is not None:
            assert KEY not in repr(self.error.as_dict())
        # The deadline is kept, and at most one job was made.
        if self.clock:
            assert self.clock.monotonic() <= self.timeout + 1
        assert len(self.server.jobs) <= 1


def _sync(run: CaseRun, options: dict[str, Any]) -> SavedImage:
    case = run.case
    with Client(run.base_url or run.server.url, KEY, **options) as client:
        if case.job:
            return client.job(case.job).download(run.target, overwrite=case.overwrite)
        return client.generate("a lighthouse", run.target, overwrite=case.overwrite)


def _async(run: CaseRun, options: dict[str, Any]) -> SavedImage:
    async def work() -> SavedImage:
        case = run.case
        async with AsyncClient(run.base_url or run.server.url, KEY, **options) as client:
            if case.job:
                return await client.job(case.job).download(run.target, overwrite=case.overwrite)
            return await client.generate("a lighthouse", run.target, overwrite=case.overwrite)

    return asyncio.run(work())


# --- faults of these cases -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ActThenRespond:
    """An action when the request has arrived, then a fault."""

    action: Callable[[], object]
    fault: Fault = field(default_factory=PassThrough)

    async def apply(self, exchange: Exchange) -> None:
        await asyncio.to_thread(self.action)
        await self.fault.apply(exchange)


@dataclass(frozen=True)
class RespondThenAct:
    """The server's own response, the last of its connection, and an action after it, or `before` it is sent.

    An action after it races with a client that is fast; one before it must not affect this connection.
    """

    action: Callable[[], object]
    before: bool = False

    async def apply(self, exchange: Exchange) -> None:
        exchange.keep_alive = False
        response = await exchange.response()
        if self.before:
            self.action()
        await exchange.send(response)
        if not self.before:
            self.action()


@dataclass(frozen=True)
class HalfBody:
    """Half of the body, then an action, then the rest; with `end`, nothing more until the client disconnects."""

    action: Callable[[], object] = lambda: None
    end: bool = False

    async def apply(self, exchange: Exchange) -> None:
        response = await exchange.response()
        head, body = exchange.head(response), response.body
        middle = len(body) // 2
        await exchange.write(head + body[:middle])
        await asyncio.to_thread(self.action)
        if self.end:
            await exchange.pause(None)
            exchange.close()
        else:
            await exchange.write(body[middle:])


@dataclass(frozen=True)
class Burst:
    """A fault for some seconds of simulated time, from the first request on."""

    run: CaseRun
    fault: Fault
    seconds: float = 30.0
    since: list[float] = field(default_factory=list)

    async def apply(self, exchange: Exchange) -> None:
        assert self.run.clock
        now = self.run.clock.monotonic()
        self.since.append(now)
        await (self.fault if now < self.since[0] + self.seconds else PassThrough()).apply(exchange)


class SelfSignedServer:
    """A TLS server with a self-signed certificate; `received` is what clients sent to it nevertheless."""

    def __init__(self, folder: Path) -> None:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.received = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(5)
                with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secured:
                    if not (received := secured.recv(4096)):
                        return
                    self.received += received

    def stop(self) -> None:
        """End the thread, by a client that verifies no certificate and sends nothing."""
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(self._listening.getsockname()) as plain, trusting.wrap_socket(plain):
            pass
        self._thread.join(10)
        self._listening.close()


def self_signed_server(run: CaseRun) -> SelfSignedServer:
    """Start a server with a self-signed certificate; check after the case that it received nothing."""
    server = SelfSignedServer(run.folder.parent)

    def end() -> None:
        server.stop()
        assert server.received == b""

    run.cleanups.append(end)
    return server


def of_json(change: Callable[[dict[str, Any]], Any]) -> Tamper:
    """Return a fault that changes the JSON of the server's own response."""
    return Tamper(lambda body: json.dumps(change(json.loads(body))).encode())


def with_members(**members: Any) -> Tamper:
    """Return a fault that sets members of the server's own response."""
    return of_json(lambda data: data | members)


def without_images(data: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a job without its images."""
    return {name: value for name, value in data.items() if name not in ("image_url", "results")}


def completed(url: Any) -> Tamper:
    """Return a fault that sets the `image_url` of a completed job, and removes `results`."""
    return of_json(lambda data: {**without_images(data), "image_url": url})


def job_in_state(state: Any, **members: Any) -> Respond:
    """Return a fault that responds with a job in this state."""
    return Respond(200, {"success": True, "job_id": "x", "state": state, "image_url": None} | members)


def redirect_to_foreign(status: int, path: str = "/api/v1/generate") -> Faults:
    return lambda run: (Redirect(run.foreign.url + path, status),)


def restart(run: CaseRun) -> tuple[Fault, ...]:
    return (ActThenRespond(run.server.restart),)


def restart_and_refuse(run: CaseRun) -> tuple[Fault, ...]:
    """The server restarts in the middle of a response, and refuses connections for 0.1 s."""

    def action() -> None:
        run.server.restart()
        run.server.refuse(0.1)

    return (HalfBody(action),)


# --- checks of single cases ----------------------------------------------------------------------------


def longest_sleep(least: float, most: float) -> Callable[[CaseRun], None]:
    """Check that the longest sleep in simulated time is between these."""

    def check(run: CaseRun) -> None:
        assert run.clock
        assert least <= max(run.clock.sleeps) <= most, run.clock.sleeps

    return check


def resumed(run: CaseRun) -> None:
    """Check that only the first request was for the whole image; a restart can cut off a further one."""
    first, *further = [bool(request.headers.get("range")) for request in run.output_requests]
    assert (first, set(further)) == (False, {True})


def no_foreign_request(run: CaseRun) -> None:
    assert run.foreign.requests == []


def foreign_image_requested(run: CaseRun) -> None:
    assert [request.path for request in run.foreign.requests] == ["/image.png"]


# --- cases of every phase ------------------------------------------------------------------------------


def refuse(seconds: float | None) -> Faults:
    def prepare(run: CaseRun) -> tuple[Fault, ...]:
        run.before_phase(lambda: run.server.refuse(seconds))
        return ()

    return prepare


def dns_failure(lookups: int) -> Faults:
    def prepare(run: CaseRun) -> tuple[Fault, ...]:
        run.use_host_name()
        # The open connection needs no lookup; the next one fails for certain.
        run.before_phase(lambda: setattr(run, "failing_lookups", lookups), early=True)
        return ()

    return prepare


def burst(status: int, *, coded: bool = False) -> Faults:
    bodies: dict[int, Any] = {
        500: {"error": "Internal Server Error"},
        502: "<html><body>Bad Gateway</body></html>",
        503: b"",
        504: "<html><body>Gateway Time-out</body></html>",
    }
    body = {"success": False, "error": "draining", "code": "draining"} if coded else bodies[status]
    headers = {"Retry-After": "1"} if status == 503 else {}
    return lambda run: (Burst(run, Respond(status, body, headers)),)


def wall_clock_set_back(run: CaseRun) -> tuple[Fault, ...]:
    """The wall clock is set back an hour while `Retry-After` is a date, and the response has no valid Date."""
    assert run.clock
    clock = run.clock
    limited = Respond(429, b"", {"Date": "?", "Retry-After": "Fri, 15 Jan 2027 08:00:05 GMT"})  # it starts at :00
    return (ActThenRespond(lambda: clock.jump_wall(-3600), limited),)


DAY = "Tue, 01 Jan 2030 00:00:"
RETRY_AFTER: Mapping[str, tuple[Mapping[str, str], Callable[[CaseRun], None]]] = {
    "with seconds": ({"Retry-After": "7"}, longest_sleep(7, 7.7)),
    "with a date": ({"Date": DAY + "00 GMT", "Retry-After": DAY + "09 GMT"}, longest_sleep(9, 9.9)),
    "with 86400": ({"Retry-After": "86400"}, longest_sleep(60, 66)),
    "with nonsense": ({"Date": DAY + "49 GMT", "Retry-After": "soon"}, longest_sleep(11, 12.1)),
    "with none": ({"Date": DAY + "49 GMT"}, longest_sleep(11, 12.1)),
}
"""Headers of a 429, and how long the client waits then: a minute at most."""


def common_cases(phase: str) -> list[FaultCase]:
    """Return the cases whose faults can hit any request, with the same end in each phase but for a lost submit."""
    submitting = phase == "submit"
    # A submit that may have arrived is repeated under its idempotency key, if the server has idempotency keys; the job
    # is searched for on an older server.
    not_handled: Expected | Mapping[str, Expected] = (
        {"modern": SAVES, "legacy": Fails(ConnectionFailed, sent=True)} if submitting else SAVES
    )
    failing = {"modern": SAVES, "legacy": Fails(ServerError, sent=True) if submitting else SAVES}
    short = {"patience": 0.2, "submit_patience": 0.2}
    unreachable = Fails(ConnectionFailed, sent=False)
    patient = {"submit_patience": 60} if submitting else {}
    return [
        FaultCase("connections refused without end", refuse(None), unreachable, options=short),
        FaultCase("connections refused at first", refuse(0.1)),
        FaultCase("reset in the headers", (Reset(),)),
        FaultCase("reset in the headers, request not handled", (Reset(handled=False),), not_handled),
        *(FaultCase(f"reset in the body at {n:.0%}", (Reset(after_headers=True, share=n),)) for n in SHARES),
        *(FaultCase(f"truncated at {n:.0%}", (Truncate(n),)) for n in SHARES),
        FaultCase("headers drip", (Drip(1, 0.02, headers=True),)),
        FaultCase("response lost", (NoResponse(handled=True),)),
        FaultCase("DNS failure without end", dns_failure(10**6), unreachable, options=short),
        FaultCase("DNS failure at first", dns_failure(2)),
        *(FaultCase(f"{n} for 30 s", burst(n), failing, simulated=True, options=patient) for n in (500, 502, 503, 504)),
        *(
            FaultCase(f"429 {how}", (Respond(429, {"error": "Too many"}, headers),), simulated=True, check=check)
            for how, (headers, check) in RETRY_AFTER.items()
        ),
        FaultCase("wall clock set back an hour", wall_clock_set_back, simulated=True, check=longest_sleep(60, 66)),
    ]


# --- pytest --------------------------------------------------------------------------------------------

REAL_TIME = {
    *("TLS failure: plain HTTP", "response lost", "no response beyond patience", "no response without end"),
    *("headers drip", "body drips", "drips without end", "drips fast enough, but past the deadline"),
    *("another process finishes first", "another process finishes first, overwriting"),
    "another process holds the partial file",
}
"""Cases that take seconds: the quick run takes one combination of each, and two of all others."""


def _marks(case: FaultCase, mode: str, driver: str) -> tuple[pytest.MarkDecorator, ...]:
    quick = {("modern", "async")} if case.name in REAL_TIME else {("modern", "async"), ("legacy", "sync")}
    return () if (mode, driver) in quick or case.only is not None else (pytest.mark.slow,)


def parametrize(cases: Sequence[FaultCase]) -> Any:
    """Return the decorator that runs each case in both modes with both clients."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have one name"
    return pytest.mark.parametrize(
        ("case", "mode", "driver"),
        [
            pytest.param(case, mode, driver, id=f"{case.name}-{mode}-{driver}", marks=_marks(case, mode, driver))
            for case in cases
            for mode in MODES
            if case.only in (None, mode)
            for driver in DRIVERS
        ],
    )


def foreign_server() -> Iterator[FaultServer]:
    """Run a server of another origin, which responds to every request with an image."""
    with FaultServer("legacy") as server:
        server.on("*", Respond(200, IMAGE, {"Content-Type": "image/png"}), times=None)
        yield server


RunCase = Callable[[str, FaultCase, str, str], None]
"""Runs a case: phase, case, mode, driver."""
