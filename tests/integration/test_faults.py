"""Everything that can go wrong between a client and its image, as one table: each row with both drivers, on both kinds
of server.

A row says what goes wrong, in which phase, and how it must end: with the image, or with one exact error. Whatever it
is, `Scene.holds` then checks what must hold after every row: nothing unverified under the final name, nothing beside
it but hidden partial files that can be resumed, the key at no second origin, the deadline kept, one job at the most.
"""

import asyncio
import errno
import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import until
from umrgen import (
    AsyncClient,
    Client,
    ConnectionFailed,
    JobNotFound,
    OutputCorrupt,
    OutputForbidden,
    OutputMissing,
    RateLimited,
    SavedImage,
    ServerError,
    UmrgenError,
    WaitTimeout,
)
from umrgen.client.flow import Event
from umrgen.errors import NotUmrgen, TargetUnusable
from umrgen.testing import (
    Answer,
    Cut,
    Drip,
    Exchange,
    FakeClock,
    Fault,
    FaultServer,
    Own,
    Page,
    Redirect,
    Reset,
    Silence,
    Tamper,
    png_bytes,
)

pytestmark = pytest.mark.timeout(30)

MODES = ("modern", "legacy")
DRIVERS = ("sync", "async")
KEY = "the-key-that-stays-home"
PICTURE = png_bytes(60_000, seed=7)
OTHER_PICTURE = png_bytes(60_000, seed=8)
NOBODY = "ext_" + "0" * 32
PATTERNS = {"submit": "POST /api/v1/generate", "status": "GET /api/v1/status/*", "download": "GET /outputs/*"}
SHARES = (0.01, 0.5, 0.99)

QUICK: Mapping[str, Any] = {
    "timeout": 8,
    "wait": 1,
    "patience": 3,
    "submit_patience": 2,
    "queued_interval": 0.02,
    "running_interval": 0.02,
    "first_backoff": 0.01,
    "longest_backoff": 0.05,
    "request_timeout": 1.0,  # a loaded machine answers late; only silence may reach it
    "connect_timeout": 1,
    "drip_window": 0.2,
}
"""Options of the rows that run on the real clock; those on a fake one have the defaults."""

RIVAL = """
import sys
from umrgen import Client
url, key, job, target = sys.argv[1:]
with Client(url, key, journal=None) as client:
    client.job(job).download(target)
"""


# --- what a row is made of -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """It ends with the whole, verified image."""


@dataclass(frozen=True)
class Fails:
    """It ends with exactly this class of error and this code."""

    kind: type[UmrgenError]
    code: str = ""
    sent: bool | None = None
    """Whether the error says that a submit may have arrived; None: that is no question here."""


Ends = Image | Fails
IMAGE = Image()
Faults = tuple[Fault, ...] | Callable[["Scene"], tuple[Fault, ...]]


@dataclass(frozen=True)
class Row:
    name: str
    faults: Faults = ()
    """Answers to the phase's requests; a function may do more to the scene before."""
    ends: Ends | Mapping[str, Ends] = IMAGE
    times: int | None = 1
    """How often the faults are gone through; None: for ever."""
    options: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    fake: bool = False
    """Whether client and server have a fake clock."""
    job: str | None = None
    """A job to pick up by its id; None: one is made."""
    only: str | None = None
    """The one mode it belongs to, and in `why`, why."""
    why: str = ""
    overwrite: bool = False
    parts: bool = False
    """Whether a partial file that somebody else holds stays."""
    also: Callable[["Scene"], None] = lambda scene: None
    """What else holds after this row."""


class Scene:
    """One row on its stage: a server, a second origin that must never see the key, a folder, perhaps a fake clock."""

    def __init__(self, mode: str, row: Row, phase: str, folder: Path, evil: FaultServer, patch: pytest.MonkeyPatch):
        self.mode, self.row, self.phase = mode, row, phase
        self.folder = folder
        self.target = folder / "image.png"
        self.evil = evil
        self.patch = patch
        self.clock = FakeClock() if row.fake else None
        timing = {"clock": self.clock.monotonic} if self.clock else {}
        own = {"key": KEY, "image": PICTURE, "job_seconds": 0, "rate_limit": None} | timing
        settings = {
            name: value(evil) if name == "image_url" and callable(value) and value.__name__ == "of_evil" else value
            for name, value in row.server.items()
        }
        self.server = FaultServer(mode, **(own | settings))  # type: ignore[arg-type]
        self.base_url = ""
        self.events: list[Event] = []
        self.early: list[str] = []
        """What stood under the final name before it was whole."""
        self.lookups_failing = 0
        self.afterwards: list[Callable[[], object]] = []
        self.error: UmrgenError | None = None

    # --- for rows ---

    def fault(self, *answers: Fault, phase: str = "", times: int | None = 1) -> Any:
        return self.server.on(PATTERNS[phase or self.phase], *answers, times=times)

    @property
    def outputs(self) -> list[Any]:
        return [request for request in self.server.requests if request.path.startswith("/outputs/")]

    def before_this_phase(self, action: Callable[[], object], *, early: bool = False) -> None:
        """Do it before the phase's first request: at once, or as soon as the answer before it has gone out."""
        if self.phase == "submit":
            action()
        else:
            self.fault(Own() if self.phase == "submit" else Then(action, early), phase=self._phase_before)

    @property
    def _phase_before(self) -> str:
        return {"status": "submit", "download": "status"}[self.phase]

    def name_host(self) -> None:
        """Give the server a host name, whose look-ups fail while `lookups_failing` is above 0."""
        self.base_url = self.server.url.replace("127.0.0.1", "umrgen.test")
        original = socket.getaddrinfo

        def lookup(host: Any, *arguments: Any, **more: Any) -> Any:
            if host in ("umrgen.test", b"umrgen.test"):
                if self.lookups_failing > 0:
                    self.lookups_failing -= 1
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
                host = "127.0.0.1"
            return original(host, *arguments, **more)

        self.patch.setattr(socket, "getaddrinfo", lookup)

    # --- the play ---

    def perform(self, driver: str) -> None:
        """Get the image as a user would, and check the end against the row's."""
        row = self.row
        faults = row.faults(self) if callable(row.faults) else row.faults
        if faults:
            self.fault(*faults, times=row.times)
        options = ({} if row.fake else dict(QUICK)) | dict(row.options)
        self.timeout = options.get("timeout", 600)
        options |= {"on_event": self._watch, "journal": None, "clock": self.clock}
        try:
            saved = (_sync if driver == "sync" else _async)(self, options)
        except UmrgenError as error:
            self.error = error
        finally:
            for action in self.afterwards:
                action()
        ends = row.ends if isinstance(row.ends, Ends) else row.ends[self.mode]
        if isinstance(ends, Image):
            if self.error is not None:
                raise self.error
            assert saved.path == self.target
            assert saved.bytes == len(PICTURE)
        else:
            assert self.error is not None, "it ended with an image"
            self._is(ends, self.error)
        self.holds()
        row.also(self)

    def _watch(self, event: Event) -> None:
        self.events.append(event)
        if event.kind != "saved" and self.target.exists() and self.target.read_bytes() != PICTURE:
            self.early.append(event.kind)

    def _is(self, ends: Fails, error: UmrgenError) -> None:
        assert (type(error), error.code) == (ends.kind, ends.code or ends.kind.code), error
        assert str(error)
        assert error.next, "an error says what to do now"
        if ends.sent is not None:
            assert error.sent is ends.sent
        if self.phase != "submit":
            assert error.job_id == (self.row.job or self.server.jobs[0].id)

    def holds(self) -> None:
        """What must hold however it ended."""
        # Under the final name: nothing, or the whole image. Beside it: nothing, or what can be resumed.
        assert not self.early
        if self.target.exists():
            assert self.target.read_bytes() == PICTURE
        else:
            assert self.error is not None
        others = set(self.folder.iterdir() if self.folder.exists() else ()) - {self.target}
        assert all(path.name.startswith(".image.png.") and path.name.endswith(".part") for path in others)
        resumable = isinstance(self.error, ConnectionFailed | RateLimited | ServerError | WaitTimeout)
        assert not others or resumable or self.row.parts
        # The key: at its own server only, and in no error.
        for request in self.evil.requests:
            assert "authorization" not in request.headers
            assert KEY not in repr(request)
        assert all(KEY not in request.path for request in self.server.requests)
        if self.error is not None:
            assert KEY not in repr(self.error.as_dict())
        # The deadline, and the job: made once.
        if self.clock:
            assert self.clock.monotonic() <= self.timeout + 1
        assert len(self.server.jobs) <= 1


def _sync(scene: Scene, options: dict[str, Any]) -> SavedImage:
    with Client(scene.base_url or scene.server.url, KEY, **options) as client:
        if scene.row.job:
            return client.job(scene.row.job).download(scene.target, overwrite=scene.row.overwrite)
        return client.generate("a lighthouse", scene.target, overwrite=scene.row.overwrite)


def _async(scene: Scene, options: dict[str, Any]) -> SavedImage:
    async def work() -> SavedImage:
        async with AsyncClient(scene.base_url or scene.server.url, KEY, **options) as client:
            if scene.row.job:
                return await client.job(scene.row.job).download(scene.target, overwrite=scene.row.overwrite)
            return await client.generate("a lighthouse", scene.target, overwrite=scene.row.overwrite)

    return asyncio.run(work())


# --- faults that only this table needs -----------------------------------------------------------------


@dataclass(frozen=True)
class First:
    """Something happens when the request has come, then it is answered."""

    action: Callable[[], object]
    fault: Fault = field(default_factory=Own)

    async def play(self, exchange: Exchange) -> None:
        await asyncio.to_thread(self.action)
        await self.fault.play(exchange)


@dataclass(frozen=True)
class Then:
    """The mode's own answer, the connection's last, and something happens: as soon as it is out, or `before` it is.

    What happens after it races with a client that is quick; what happens before must not concern this connection.
    """

    action: Callable[[], object]
    before: bool = False

    async def play(self, exchange: Exchange) -> None:
        exchange.keep_alive = False
        answer = await exchange.own()
        if self.before:
            self.action()
        await exchange.send(answer)
        if not self.before:
            self.action()


@dataclass(frozen=True)
class Half:
    """Half of the body; then something happens; then the rest, or with `end` nothing until the client hangs up."""

    action: Callable[[], object] = lambda: None
    end: bool = False

    async def play(self, exchange: Exchange) -> None:
        response = await exchange.own()
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
    """A fault for so many seconds of the fake clock."""

    scene: Scene
    fault: Fault
    seconds: float = 30.0
    since: list[float] = field(default_factory=list)

    async def play(self, exchange: Exchange) -> None:
        assert self.scene.clock
        now = self.scene.clock.monotonic()
        self.since.append(now)
        await (self.fault if now < self.since[0] + self.seconds else Own()).play(exchange)


class FullDisk(io.FileIO):
    """A file on a disk with room for so many bytes more."""

    room = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


class SelfSigned:
    """A server on TLS whose certificate nobody has signed; `got` is what clients told it all the same."""

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
        self.got = b""
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
                    if not (got := secured.recv(4096)):
                        return
                    self.got += got

    def stop(self) -> None:
        """Let a client that trusts anybody say good-bye, which ends the thread."""
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(self._listening.getsockname()) as plain, trusting.wrap_socket(plain):
            pass
        self._thread.join(10)
        self._listening.close()


def of_json(change: Callable[[dict[str, Any]], Any]) -> Tamper:
    return Tamper(lambda body: json.dumps(change(json.loads(body))).encode())


def told(**members: Any) -> Tamper:
    """The mode's own answer with other members."""
    return of_json(lambda data: data | members)


def completed(url: Any) -> Tamper:
    """A completed job whose image is said to be there."""
    return of_json(lambda data: {**_without_images(data), "image_url": url})


def _without_images(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("image_url", "results")}


def state(word: Any, **members: Any) -> Answer:
    return Answer(200, {"success": True, "job_id": "x", "state": word, "image_url": None} | members)


def flipped(body: bytes) -> bytes:
    """One byte of the picture is another."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


# --- what rows check besides ---------------------------------------------------------------------------


def slept(least: float, most: float) -> Callable[[Scene], None]:
    """The longest sleep on the fake clock lay between these."""

    def check(scene: Scene) -> None:
        assert scene.clock
        assert least <= max(scene.clock.sleeps) <= most, scene.clock.sleeps

    return check


def resumed(scene: Scene) -> None:
    """What was there already was not sent again."""
    assert [bool(request.headers.get("range")) for request in scene.outputs] == [False, True]


def asked_twice(scene: Scene) -> None:
    """The status was asked once more for a fresh address."""
    assert len(list(completions(scene))) == 2


def completions(scene: Scene) -> Iterator[Any]:
    for request in scene.server.requests:
        if request.method == "GET" and request.path.startswith("/api/v1/status/"):
            yield request


def evil_unseen(scene: Scene) -> None:
    assert scene.evil.requests == []


def evil_gave_it(scene: Scene) -> None:
    assert [request.path for request in scene.evil.requests] == ["/image.png"]


def as_named(path: str) -> Callable[[Scene], None]:
    """The image was asked for under exactly this path."""

    def check(scene: Scene) -> None:
        assert [request.path for request in scene.outputs] == [path]

    return check


def warned_once(scene: Scene) -> None:
    assert [event.kind for event in scene.events].count("unknown_state") == 1


# --- faults of any phase -------------------------------------------------------------------------------


def refuse(seconds: float | None) -> Faults:
    def script(scene: Scene) -> tuple[Fault, ...]:
        scene.before_this_phase(lambda: scene.server.refuse(seconds))
        return ()

    return script


def no_name(lookups: int) -> Faults:
    def script(scene: Scene) -> tuple[Fault, ...]:
        scene.name_host()
        # A look-up is nothing to the connection that is there; so the next one fails for certain.
        scene.before_this_phase(lambda: setattr(scene, "lookups_failing", lookups), early=True)
        return ()

    return script


def restart(scene: Scene) -> tuple[Fault, ...]:
    return (First(scene.server.restart),)


def restart_and_be_away(scene: Scene) -> tuple[Fault, ...]:
    def away() -> None:
        scene.server.restart()
        scene.server.refuse(0.1)

    return (Half(away),)


def burst(status: int, *, coded: bool = False) -> Faults:
    bodies: dict[int, Any] = {
        500: {"error": "Internal Server Error"},
        502: "<html><body>Bad Gateway</body></html>",
        503: b"",
        504: "<html><body>Gateway Time-out</body></html>",
    }
    body = {"success": False, "error": "draining", "code": "draining"} if coded else bodies[status]
    headers = {"Retry-After": "1"} if status == 503 else {}
    return lambda scene: (Burst(scene, Answer(status, body, headers)),)


def set_back(scene: Scene) -> tuple[Fault, ...]:
    """The wall clock goes back an hour while a `Retry-After` names a moment, and the answer has no time of its own."""
    assert scene.clock
    clock = scene.clock
    answer = Answer(429, b"", {"Date": "?", "Retry-After": "Fri, 15 Jan 2027 08:00:05 GMT"})  # the clock starts at :00
    return (First(lambda: clock.jump_wall(-3600), answer),)


DAY = "Tue, 01 Jan 2030 00:00:"
PAUSES: Mapping[str, tuple[Mapping[str, str], Callable[[Scene], None]]] = {
    "with seconds": ({"Retry-After": "7"}, slept(7, 7.7)),
    "with a date": ({"Date": DAY + "00 GMT", "Retry-After": DAY + "09 GMT"}, slept(9, 9.9)),
    "with 86400": ({"Retry-After": "86400"}, slept(60, 66)),
    "with nonsense": ({"Retry-After": "soon"}, slept(6, 6.6)),
    "with none": ({}, slept(6, 6.6)),
}
"""What a 429 says about when to come back, and how long the client then waits: an hour's word counts a minute."""


def everywhere(phase: str) -> list[Row]:
    """The faults that ought to pass, or to end alike, whatever was asked for."""
    submitting = phase == "submit"
    # A submit that may have arrived is repeated under its key where the server keeps keys, and nowhere else.
    blip: Ends | Mapping[str, Ends] = (
        {"modern": IMAGE, "legacy": Fails(ConnectionFailed, sent=True)} if submitting else IMAGE
    )
    short = {"patience": 0.2, "submit_patience": 0.2}
    away = Fails(ConnectionFailed, sent=False)
    failing: dict[str, Mapping[str, Ends]] = {
        "passing": {"modern": IMAGE, "legacy": Fails(ServerError, sent=True) if submitting else IMAGE},
    }
    patient = {"submit_patience": 60} if submitting else {}
    return [
        Row("connection refused for good", refuse(None), away, options=short),
        Row("connection refused at first", refuse(0.1)),
        Row("reset mid-headers", (Reset(),), blip),
        Row("reset mid-headers, the request lost", (Reset(handled=False),), blip),
        *(Row(f"reset mid-body at {share:.0%}", (Reset(after_headers=True, share=share),), blip) for share in SHARES),
        *(Row(f"cut off cleanly at {share:.0%}", (Cut(share),), blip) for share in SHARES),
        Row("headers drip", (Drip(1, 0.02, headers=True),), blip),
        Row("silence", (Silence(handled=True),), blip),
        Row("DNS failure for good", no_name(10**6), away, options=short),
        Row("DNS failure at first", no_name(2)),
        *(Row(f"{n} for 30 s", burst(n), failing["passing"], fake=True, options=patient) for n in (500, 502, 503, 504)),
        *(
            Row(f"429 {how}", (Answer(429, {"error": "Too many requests"}, headers),), fake=True, also=check)
            for how, (headers, check) in PAUSES.items()
        ),
        Row("a clock set back an hour", set_back, fake=True, also=slept(60, 66)),
    ]


# --- the table -----------------------------------------------------------------------------------------


def over_tls(scene: Scene) -> tuple[Fault, ...]:
    scene.base_url = scene.server.url.replace("http:", "https:")
    return ()


def to_self_signed(scene: Scene) -> tuple[Fault, ...]:
    scene.base_url = self_signed(scene).url
    return ()


def self_signed(scene: Scene) -> SelfSigned:
    server = SelfSigned(scene.folder.parent)

    def end() -> None:
        server.stop()
        assert server.got == b""

    scene.afterwards.append(end)
    return server


def to_evil(status: int, path: str = "/api/v1/generate") -> Faults:
    return lambda scene: (Redirect(scene.evil.url + path, status),)


def to_itself(scene: Scene) -> tuple[Fault, ...]:
    return (Redirect("/api/v1/generate", 307),)


ACCEPTED_OR_NOT = {"modern": IMAGE, "legacy": Fails(NotUmrgen, sent=True)}
"""A 202 that cannot be read: the job is made, and only a server with idempotency keys can be asked again which."""
TLS_ROWS = [
    Row("TLS failure: the port speaks plain HTTP", over_tls, Fails(ConnectionFailed, sent=False), job=NOBODY),
    Row("TLS failure: a self-signed certificate", to_self_signed, Fails(ConnectionFailed, sent=False), job=NOBODY),
]
BRIEF = {"patience": 0.2, "submit_patience": 0.2, "request_timeout": 0.25}

SUBMIT = [
    *everywhere("submit"),
    *(Row(row.name, row.faults, row.ends, options=BRIEF) for row in TLS_ROWS),
    Row(
        "silence for ever",
        (Silence(handled=True),),
        Fails(ConnectionFailed, sent=True),
        times=None,
        options={"timeout": 0.5},
    ),
    Row(
        "drips for ever",
        (Drip(1, 0.05),),
        Fails(ConnectionFailed, sent=True),
        times=None,
        options={"timeout": 0.5},
    ),
    Row("body drips", (Drip(1, 0.02),), {"modern": IMAGE, "legacy": Fails(ConnectionFailed, sent=True)}),
    *(
        Row(f"{n} for ever", (Answer(n),), Fails(ServerError, sent=True), times=None, fake=True)
        for n in (500, 502, 503, 504)
    ),
    Row("503 with its reason for 30 s", burst(503, coded=True), fake=True, options={"submit_patience": 60}),
    Row(
        "429 with 86400 for ever",
        (Answer(429, b"", {"Retry-After": "86400"}),),
        Fails(RateLimited, sent=False),
        times=None,
        fake=True,
    ),
    *(Row(f"redirect ({n}) to another host", to_evil(n), Fails(NotUmrgen), also=evil_unseen) for n in (302, 307, 308)),
    Row("redirect loop", to_itself, Fails(NotUmrgen), times=None),
    Row("a tunnel's page", (Page(),), Fails(NotUmrgen, sent=False)),
    Row("a tunnel's page for all", server={"interstitial": True}, ends=Fails(NotUmrgen, sent=False)),
    Row("an empty body", (Answer(200),), Fails(NotUmrgen, sent=False)),
    Row("a 202 with an empty body", (Tamper(lambda body: b""),), ACCEPTED_OR_NOT),
    Row("a 202 with truncated JSON", (Tamper(lambda body: body[:-9]),), ACCEPTED_OR_NOT),
    Row("a 202 with a list", (of_json(lambda data: [data]),), ACCEPTED_OR_NOT),
    Row("a 202 with a number for the id", (told(job_id=17),), ACCEPTED_OR_NOT),
    Row("a 202 with null for the id", (told(job_id=None),), ACCEPTED_OR_NOT),
    Row("a 202 with an id that is a path", (told(job_id="../../etc"),), Fails(UmrgenError, "bad_job_id")),
    Row("the server restarts", restart, {"modern": IMAGE, "legacy": Fails(ConnectionFailed, sent=True)}),
    Row("the server restarts and is away", restart_and_be_away, {"modern": IMAGE, "legacy": Fails(ConnectionFailed)}),
]


def never_seen(*faults: Fault) -> Row:
    return Row("", faults, Fails(NotUmrgen), times=None, job=NOBODY)


RESTARTED = {"modern": IMAGE, "legacy": Fails(JobNotFound, "job_gone")}
LEGACY_404 = Answer(404, {"error": "Job not found"})
MODERN_404 = Answer(404, {"success": False, "error": "there is no such job", "code": "job_not_found"})
NONSENSE: Mapping[str, Fault] = {
    "a tunnel's page": Page(),
    "an empty body": Answer(200),
    "truncated JSON": Tamper(lambda body: body[: len(body) // 2]),
    "a list": of_json(lambda data: [data]),
    "a number for the state": told(state=5),
    "a list for the state": told(state=["completed"]),
    "null for the state": told(state=None),
}
WRONG = {"queue_position": "7", "eta_seconds": [], "progress": 3, "seed": {}, "error": 5, "retry_after_ms": "soon"}


def evil_image(scene: Scene) -> tuple[Fault, ...]:
    return (completed(f"{scene.evil.url}/image.png"),)


def evil_protocol_relative(scene: Scene) -> tuple[Fault, ...]:
    return (completed(f"//127.0.0.1:{scene.evil.port}/image.png"),)


def own_absolute(scene: Scene) -> tuple[Fault, ...]:
    return (of_json(lambda data: data | {"image_url": scene.server.url + scene.server.jobs[0].urls[0]}),)


def odd_path(path: str) -> Mapping[str, Any]:
    return {"image_url": path}


FOREIGN = Fails(OutputForbidden, "foreign_output")

STATUS = [
    *everywhere("status"),
    *(Row(row.name, row.faults, row.ends, options=BRIEF, job=NOBODY) for row in TLS_ROWS),
    Row("body drips", (Drip(1, 0.02),)),
    Row("silence for ever", (Silence(),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    Row("silence beyond patience", (Silence(),), Fails(ConnectionFailed), times=None, options=BRIEF),
    Row("drips for ever", (Drip(1, 0.05),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    *(Row(f"{n} for ever", (Answer(n),), Fails(ServerError), times=None, fake=True) for n in (500, 502, 503, 504)),
    Row(
        "429 with 86400 for ever",
        (Answer(429, b"", {"Retry-After": "86400"}),),
        Fails(WaitTimeout),
        times=None,
        fake=True,
    ),
    *(
        Row(f"redirect ({n}) to another host", to_evil(n, "/api/v1/status/x"), Fails(NotUmrgen), also=evil_unseen)
        for n in (302, 307, 308)
    ),
    Row("redirect loop", (Redirect("?again"),), Fails(NotUmrgen), times=None),
    *(Row(f"{what}, once", (fault,)) for what, fault in NONSENSE.items()),
    *(
        Row(f"{what}, beyond patience", (fault,), Fails(NotUmrgen), times=None, options=BRIEF)
        for what, fault in NONSENSE.items()
    ),
    Row("a tunnel's page for a job never seen", (Page(),), Fails(NotUmrgen), times=None, job=NOBODY),
    Row("wrong types where they do no harm", (told(**WRONG),)),
    Row("an unknown state for a while", (state("paused"), state("paused"), state("warming")), also=warned_once),
    Row(
        "an unknown state for ever",
        (state("paused"),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.4},
        also=warned_once,
    ),
    Row("a state going backwards", (state("running"), state("queued", queue_position=2), state("running"))),
    Row("completed, and then running again", (completed(None), state("running"), state("queued"))),
    *(
        Row(f"completed with {what}, once", (fault,))
        for what, fault in {
            "null for the image_url": completed(None),
            "no image_url": of_json(_without_images),
            "an empty image_url": completed(""),
            "a number for the image_url": completed(5),
            "an empty list of results": of_json(lambda data: _without_images(data) | {"results": {"images": []}}),
        }.items()
    ),
    *(
        Row(f"completed with {what}", (fault,), Fails(OutputMissing), times=None)
        for what, fault in {
            "null for the image_url": completed(None),
            "no image_url": of_json(_without_images),
            "an empty image_url": completed(""),
            "a number for the image_url": completed(5),
        }.items()
    ),
    Row("completed with nothing, by the server itself", server={"images": 0}, ends=Fails(OutputMissing)),
    Row("a foreign image_url", evil_image, FOREIGN, also=evil_unseen),
    Row("a foreign image_url, allowed", evil_image, options={"follow_foreign": True}, also=evil_gave_it),
    Row("//evil/x", evil_protocol_relative, FOREIGN, also=evil_unseen),
    Row("//evil/x, foreign allowed", evil_protocol_relative, FOREIGN, options={"follow_foreign": True}),
    *(
        Row(f"{what} as the image_url", (completed(url),), FOREIGN, options={"follow_foreign": True})
        for what, url in {
            "a backslash": "/\\evil/x",
            "another scheme": "file:///etc/passwd",
            "a relative path": "outputs/x.png",
        }.items()
    ),
    Row("an absolute image_url of its own", own_absolute),
    Row(
        "a path with spaces",
        server={"image_url": "/outputs/a picture.png?session_id=a b"},
        also=as_named("/outputs/a%20picture.png?session_id=a%20b"),
    ),
    Row(
        "a path with percent signs",
        server={"image_url": "/outputs/100%25%2Fof%2fit%.png?session_id=%7Ex"},
        also=as_named("/outputs/100%25%2Fof%2fit%.png?session_id=%7Ex"),
    ),
    Row(
        "a path with dots and slashes",
        server={"image_url": "/outputs/./a//b/../c.png?session_id=x"},
        also=as_named("/outputs/./a//b/../c.png?session_id=x"),
    ),
    Row("404 before the job was seen", (), Fails(JobNotFound, "job_not_found"), job=NOBODY),
    Row(
        "404 after the job was seen",
        lambda scene: (state("running"), MODERN_404 if scene.mode == "modern" else LEGACY_404),
        Fails(JobNotFound, "job_gone"),
    ),
    Row("the server restarts", restart, RESTARTED),
    Row("the server restarts and is away", restart_and_be_away, RESTARTED),
]


def stale(status: int) -> Faults:
    """The first address is refused; the next status has another."""

    def script(scene: Scene) -> tuple[Fault, ...]:
        scene.fault(completed("/outputs/stale.png?session_id=old"), phase="status")
        scene.server.on("GET /outputs/stale.png", Answer(status))
        return ()

    return script


def redirected(location: Callable[[Scene], str], status: int = 302) -> Faults:
    return lambda scene: (Redirect(location(scene), status),)


def to_evil_image(scene: Scene) -> str:
    return f"{scene.evil.url}/image.png"


def to_other_path(scene: Scene) -> str:
    path = scene.server.jobs[0].urls[0] if scene.server.jobs else ""
    return path or "/outputs/elsewhere.png"


def moved(scene: Scene) -> tuple[Fault, ...]:
    scene.server.on("GET /outputs/elsewhere.png", Answer(200, PICTURE, {"Content-Type": "image/png"}))
    return (Redirect("/outputs/elsewhere.png"),)


def vanish(scene: Scene) -> tuple[Fault, ...]:
    return (Half(lambda: _remove(scene.folder)),)


def _remove(folder: Path) -> None:
    """As `rm -r`, until it is gone: the client may be making its partial file in this moment."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def vanish_and_break_off(scene: Scene) -> tuple[Fault, ...]:
    return (First(lambda: _remove(scene.folder), Cut(0.5)), Own())


def full_after(room: int) -> Faults:
    def script(scene: Scene) -> tuple[Fault, ...]:
        original = Path.open

        def opened(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            if path.name.endswith(".part") and mode == "x+b":
                disk = FullDisk(path, "x+")
                disk.room = room
                return io.BufferedRandom(disk)
            return original(path, mode, *arguments, **more)

        scene.patch.setattr(Path, "open", opened)
        return ()

    return script


def rival_arguments(scene: Scene) -> list[str]:
    own = [scene.server.url, KEY, scene.server.jobs[0].id, str(scene.target)]
    return [sys.executable, "-c", RIVAL, *own]


def overtaken(scene: Scene) -> tuple[Fault, ...]:
    """Another process downloads the same job to the same file while we are in the middle of it."""
    return (Half(lambda: subprocess.run(rival_arguments(scene), check=True)),)


def overtaking(scene: Scene) -> tuple[Fault, ...]:
    """Another process is in the middle of the same download, and holds its partial file, when ours begins."""

    def begin() -> None:
        rival = subprocess.Popen(rival_arguments(scene))
        scene.afterwards.append(lambda: (rival.kill(), rival.wait()))
        until(lambda: [path for path in scene.folder.glob(".*.part") if path.stat().st_size])

    scene.fault(First(begin), phase="status")
    return (Half(end=True),)


def restart_in_the_body(scene: Scene) -> tuple[Fault, ...]:
    return (Half(scene.server.restart),)


def over_tls_elsewhere(scene: Scene) -> tuple[Fault, ...]:
    scene.fault(completed(self_signed(scene).url + "/image.png"), phase="status")
    return ()


def over_tls_to_plain(scene: Scene) -> tuple[Fault, ...]:
    url = scene.evil.url.replace("http:", "https:") + "/image.png"
    scene.fault(completed(url), phase="status")
    return ()


BAD_IMAGES: Mapping[str, tuple[Fault, Fails]] = {
    "HTML": (Page(), Fails(OutputCorrupt)),
    "JSON": (Answer(200, {"error": "no"}), Fails(OutputCorrupt)),
    "zero bytes": (Answer(200), Fails(OutputMissing)),
    "cut off, its length true": (Tamper(lambda body: body[:-100]), Fails(OutputCorrupt)),
    "one byte flipped": (
        Tamper(flipped, headers={"Repr-Digest": None, "Content-Digest": None}),
        Fails(OutputCorrupt),
    ),
    "longer than it is": (
        Tamper(lambda body: body + b"junk", headers={"Repr-Digest": None, "Content-Digest": None}),
        Fails(OutputCorrupt),
    ),
}
WRONG_DIGEST = "sha-256=:" + "A" * 43 + "=:"

UNHURRIED = {"drip_window": 15, "timeout": 25}
"""For rows in which another process has to start and end in the middle of the body."""

DOWNLOAD = [
    *everywhere("download"),
    Row(
        "TLS failure: the port speaks plain HTTP",
        over_tls_to_plain,
        Fails(ConnectionFailed),
        options={"follow_foreign": True},
        also=evil_unseen,
    ),
    Row(
        "TLS failure: a self-signed certificate",
        over_tls_elsewhere,
        Fails(ConnectionFailed),
        options={"follow_foreign": True},
    ),
    *(
        Row(f"resumed after a reset at {share:.0%}", (Reset(after_headers=True, share=share),), also=resumed)
        for share in SHARES
    ),
    Row("body drips", (Drip(100, 0.02),), options={"drip_rate": 1e6}, also=resumed),
    Row("silence mid-body", (Half(end=True),), also=resumed),
    Row("silence for ever", (Silence(),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    Row("silence beyond patience", (Silence(),), Fails(ConnectionFailed), times=None, options=BRIEF),
    Row(
        "drips for ever",
        (Drip(1, 0.02),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.6, "drip_rate": 1e6},
    ),
    Row(
        "drips quickly enough, but past the deadline",
        (Drip(1, 0.02),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.5, "drip_rate": 1},
    ),
    *(Row(f"{n} for ever", (Answer(n),), Fails(ServerError), times=None, fake=True) for n in (500, 502, 503, 504)),
    Row(
        "429 with 86400 for ever",
        (Answer(429, b"", {"Retry-After": "86400"}),),
        Fails(WaitTimeout),
        times=None,
        fake=True,
    ),
    *(
        Row(f"redirect ({n}) to another host", redirected(to_evil_image, n), FOREIGN, also=evil_unseen)
        for n in (302, 307, 308)
    ),
    Row("redirect to //evil/x", redirected(lambda s: f"//127.0.0.1:{s.evil.port}/x"), FOREIGN, also=evil_unseen),
    Row(
        "redirect to another host, allowed",
        redirected(to_evil_image),
        options={"follow_foreign": True},
        also=evil_gave_it,
    ),
    Row("redirect to another path", moved),
    Row("redirect loop", (Redirect("?again"),), Fails(OutputCorrupt, "redirect_loop"), times=None),
    *(Row(f"an image that is {what}, once", (fault,)) for what, (fault, _) in BAD_IMAGES.items()),
    *(Row(f"an image that is {what}", (fault,), ends, times=None) for what, (fault, ends) in BAD_IMAGES.items()),
    Row("longer than announced", (Tamper(lambda body: body + b"junk", keep_length=True),)),
    Row("larger than allowed", (), Fails(OutputCorrupt, "too_large"), options={"max_bytes": 10_000}),
    *(
        Row(
            f"a wrong {name}",
            (Tamper(headers={"Repr-Digest": None, "Content-Digest": None, name: WRONG_DIGEST}),),
            Fails(OutputCorrupt),
            times=None,
            only="modern",
            why="older servers send no digests",
        )
        for name in ("Repr-Digest", "Content-Digest")
    ),
    Row(
        "a wrong digest, once",
        (Tamper(headers={"Repr-Digest": WRONG_DIGEST}),),
        only="modern",
        why="older servers send no digests",
    ),
    Row(
        "another image than the digest says",
        (Tamper(lambda body: OTHER_PICTURE),),
        Fails(OutputCorrupt),
        times=None,
        only="modern",
        why="only a digest can tell one whole image from another",
    ),
    Row(
        "another version when it is taken up again",
        (Cut(0.5), Answer(206, PICTURE[-100:], {"Content-Range": "bytes 59900-59999/60000", "ETag": '"other"'})),
    ),
    Row("403, then a fresh URL", stale(403), also=asked_twice),
    Row("404, then a fresh URL", stale(404), also=asked_twice),
    Row("410, then a fresh URL", stale(410), also=asked_twice),
    Row("403 for good", (Answer(403),), Fails(OutputForbidden), times=None, also=asked_twice),
    Row("404 for good", (Answer(404),), Fails(OutputMissing, "output_not_found"), times=None, also=asked_twice),
    Row("410 for good", (Answer(410),), Fails(OutputMissing, "output_expired"), times=None, also=asked_twice),
    Row("a disk that is full at once", full_after(0), Fails(TargetUnusable, "disk_full")),
    Row("a disk that is full in the middle", full_after(30_000), Fails(TargetUnusable, "disk_full")),
    Row("a disk that is full at the last byte", full_after(len(PICTURE) - 1), Fails(TargetUnusable, "disk_full")),
    Row("a folder that vanishes", vanish, Fails(TargetUnusable)),
    Row("a folder that vanishes, the rest resumed", vanish_and_break_off, Fails(TargetUnusable)),
    Row("another process is quicker", overtaken, Fails(TargetUnusable, "target_exists"), options=UNHURRIED),
    Row("another process is quicker, overwriting", overtaken, overwrite=True, options=UNHURRIED),
    Row("another process holds the partial file", overtaking, parts=True),
    Row("the server restarts in the body", restart_in_the_body, also=resumed),
    Row("the server restarts and is away", restart_and_be_away, also=resumed),
]


# --- the tests -----------------------------------------------------------------------------------------


REAL_SECONDS = {
    *("TLS failure: the port speaks plain HTTP", "silence", "silence beyond patience", "silence for ever"),
    *("headers drip", "body drips", "drips for ever", "drips quickly enough, but past the deadline"),
    *("another process is quicker", "another process is quicker, overwriting"),
    "another process holds the partial file",
}
"""Rows that take real seconds: the quick run tries one combination of each, of all other rows two."""


def marks(row: Row, mode: str, driver: str) -> tuple[pytest.MarkDecorator, ...]:
    quick = {("modern", "async")} if row.name in REAL_SECONDS else {("modern", "async"), ("legacy", "sync")}
    return () if (mode, driver) in quick or row.only is not None else (pytest.mark.slow,)


def cases(rows: Sequence[Row]) -> Any:
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), "two rows have one name"
    return pytest.mark.parametrize(
        ("row", "mode", "driver"),
        [
            pytest.param(row, mode, driver, id=f"{row.name}-{mode}-{driver}", marks=marks(row, mode, driver))
            for row in rows
            for mode in MODES
            if row.only in (None, mode)
            for driver in DRIVERS
        ],
    )


@pytest.fixture(scope="module")
def second_origin() -> Iterator[FaultServer]:
    """Another server, which gives a good image to anybody, and remembers what it was told."""
    with FaultServer(key="another-key") as server:
        server.on("*", Answer(200, PICTURE, {"Content-Type": "image/png"}), times=None)
        yield server


@pytest.fixture
def evil(second_origin: FaultServer) -> FaultServer:
    second_origin.requests.clear()
    return second_origin


@pytest.fixture
def stage(tmp_path: Path, evil: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Row, str, str, str], None]:
    folder = tmp_path / "images"
    folder.mkdir()

    def play(phase: str, row: Row, mode: str, driver: str) -> None:
        scene = Scene(mode, row, phase, folder, evil, monkeypatch)
        with scene.server:
            scene.perform(driver)

    return play


@cases(SUBMIT)
def test_while_submitting(stage: Callable[..., None], row: Row, mode: str, driver: str) -> None:
    stage("submit", row, mode, driver)


@cases(STATUS)
def test_while_waiting(stage: Callable[..., None], row: Row, mode: str, driver: str) -> None:
    stage("status", row, mode, driver)


@cases(DOWNLOAD)
def test_while_downloading(stage: Callable[..., None], row: Row, mode: str, driver: str) -> None:
    stage("download", row, mode, driver)
