"""Wild HTTP responses on real sockets against every call of the Python client.

    python tests/wild_responses.py --answers 100000     random ones; prints the ends of the calls
    python tests/wild_responses.py --memory             the memory that a process needs for the worst bodies

`tests/unit/test_wild_responses.py` does the same with few. Every call must return, or raise a UmrgenError, whose texts
are printable, before its deadline. Sleeps are simulated; the transports, the sockets and HTTP are real.
"""

import argparse
import asyncio
import gzip
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from umrgen import AsyncClient, Client, Event, UmrgenError
from umrgen.client.address import Server
from umrgen.client.flow import CallContext, Options, Reply, Step, TransportFailure, drive
from umrgen.client.flows.submit import submit
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.stdlib_transport import StdlibTransport
from umrgen.testing import FakeClock, png_bytes

__all__ = ["CALLS", "ENDLESS", "Report", "WildServer", "random_answers", "run_call", "wild_server"]

KEY = "umr_a-secret-key"
JOB = "ext_1"
IMAGE = png_bytes(2000)
ENDLESS = b"endless"
"""An answer whose body is sent until the client closes the connection."""
ENDLESS_MOST = 1 << 30
"""Bytes after which an endless answer ends all the same, for the sake of the machine."""
TIMEOUT = 12.0
OPTIONS: dict[str, Any] = {"timeout": TIMEOUT, "patience": 6.0, "wait": 0}


# --- the answers ----------------------------------------------------------------------------------------

TEXTS = (
    *("", "ext_1", "running", "completed", "failed", "a\x1b]0;t\x07\x1b[2J\r\nok: saved", "\u202eevil", "\ud800"),
    *("/outputs/a.png", "//evil.example/x", "http://[::1", "http://\x00/", "/\ud800", "\\", "javascript:1", "0"),
    *("\x00", "x" * 70_000, "/" + "x" * 70_000, "/a\r\nb", "https://evil.example:99999/"),
)
NUMBERS = (0, -1, 1, 2**53, 10**300, -(10**400), 0.5, -0.0, 1e308, float("nan"), float("inf"), True, False, None)
NAMES = (
    *("success", "job_id", "state", "image_url", "results", "error", "error_code", "queue_position", "eta_seconds"),
    *("progress", "created_at", "seed", "engine", "retry_after_ms", "jobs", "unknown", "cursor", "next_cursor", "next"),
    *("filename", "code", "detail", "message", "warnings", "status", "status_url", "features", "limits", "request"),
)
HEADERS = (
    *("Retry-After", "ETag", "Preference-Applied", "Date", "Location", "Content-Type", "Content-Range", "Repr-Digest"),
    *("Content-Digest", "Content-Encoding", "Set-Cookie", "Connection", "Last-Modified", "Transfer-Encoding", "X"),
)
VALUES = (
    *("", "0", "-1", "9" * 400, "Jan 99999999999999 12:00:00 2024", "Tue, 24 Nov 2026 08:00:09 GMT", "wait=60"),
    *('"1"', 'W/"1"', "text/html", "application/json; charset=utf-16", "image/png", "gzip", "deflate", "br"),
    *("bytes 0-9/10", "bytes 5-1/0", "bytes */*", "sha-256=:AAAA:", "http://[::1", "https://evil.example/", "/"),
    *("chunked", "close", "keep-alive", "\x1b[2J", "\xe9\xff", "a=b; Path=/", "Mon, 00 Zzz 0000 99:99:99 GMT"),
    *("wait=9999999", "identity", "?again"),
)
STATUSES = (
    *[200] * 12,
    *[202] * 4,
    *(201, 204, 206, 300, 301, 302, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 413, 414, 415),
    *(416, 418, 421, 422, 425, 426, 429, 431, 451, 460, 500, 501, 502, 503, 504, 507, 511, 520, 530, 599, 600, 999),
    *(100, 101, 102, 103, 0, 42),
)


def _value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(8 if depth < 4 else 4):
        case 0 | 1:
            return rng.choice(TEXTS)
        case 2 | 3:
            return rng.choice(NUMBERS)
        case 4:
            return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return _object(rng, depth + 1)


def _object(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    return {rng.choice(NAMES): _value(rng, depth + 1) for _ in range(rng.randrange(8))}


def _status(rng: random.Random) -> dict[str, Any]:
    """Return a status of which some values are wild."""
    valid = {
        "job_id": JOB,
        "state": rng.choice(["queued", "running", "completed", "failed"]),
        "image_url": "/outputs/a.png",
        "results": {"images": [{"url": "/outputs/a.png"}]},
        "jobs": [{"job_id": JOB, "state": "completed", "image_url": "/outputs/a.png"}],
        "filename": "a.png",
    }
    return valid | {rng.choice(NAMES): _value(rng) for _ in range(rng.randrange(3))}


def _body(rng: random.Random) -> bytes:
    match rng.randrange(16):
        case 0:
            return b""
        case 1:
            return b"<!DOCTYPE html><html>\x1b[2J</html>"
        case 2:
            return rng.randbytes(rng.randrange(200))
        case 3:
            return b"[" * rng.choice((1, 100, 900, 100_000))
        case 4:
            return b'{"state": "running", "x": ' + b"[" * 500 + b"]" * 500 + b"}"
        case 5:
            return json.dumps(_status(rng)).encode()[: -rng.randrange(1, 20)]
        case 6:
            return json.dumps(_value(rng)).encode(rng.choice(("utf-8", "utf-16", "utf-8-sig")))
        case 7:
            return '{"state": "running", "error": "caf\xe9"}'.encode("latin-1")
        case 8:
            return IMAGE if rng.randrange(2) else IMAGE[: rng.randrange(len(IMAGE))]
        case 9:
            return b'{"state": "running", "state": ' + b"9" * rng.choice((20, 6000)) + b"}"
        case 10 if rng.randrange(60) == 0:
            return b'{"a": [' + b"[]," * rng.choice((300_000, 1_300_000)) + b"0]}"
        case 11:
            return json.dumps(_object(rng)).encode()
        case _:
            return json.dumps(_status(rng)).encode()


def _framed(rng: random.Random, body: bytes) -> tuple[list[str], bytes]:
    """Return the headers of the body's length, some of which are wrong, and the body as it is sent."""
    match rng.randrange(10):
        case 0:
            return [], body
        case 1:
            wrong = rng.choice(
                ("-1", "abc", "", str(len(body) + 7), str(max(0, len(body) - 3)), "9" * 30, "+5", "1, 2")
            )
            return [f"Content-Length: {wrong}"], body
        case 2:
            chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"
            return ["Transfer-Encoding: chunked"], chunk + rng.choice((b"0\r\n\r\n", b"", b"zz\r\n", b"-1\r\n"))
        case 3:
            return ["Content-Encoding: gzip", f"Content-Length: {len(body)}"], body
        case 4:
            packed = gzip.compress(rng.choice((body, b"", bytes(8 << 20))), 1)
            return ["Content-Encoding: gzip", f"Content-Length: {len(packed)}"], packed
        case _:
            return [f"Content-Length: {len(body)}"], body


def random_answer(rng: random.Random) -> bytes:
    """Return one response as its bytes."""
    kind = rng.randrange(400)
    if kind == 0:
        return ENDLESS
    if kind < 8:
        return rng.choice(
            (b"", b"\x15\x03\x01\x00\x02", b"HTTP/1.1\r\n\r\n", b"HTTP/9.9 abc\r\n\r\n", rng.randbytes(60))
        )
    if kind < 12:
        return b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * rng.choice((99, 101, 20_000)) + b"\r\n{}"
    length, body = _framed(rng, _body(rng))
    extra = [f"{rng.choice(HEADERS)}: {rng.choice(VALUES)}" for _ in range(rng.randrange(4))]
    lines = [f"HTTP/1.{rng.choice('1110')} {rng.choice(STATUSES)} {rng.choice(('OK', '', 'x' * 99))}", *length, *extra]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _json_answer(status: int, data: dict[str, Any]) -> bytes:
    body = json.dumps(data).encode()
    return f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


RECEIPT = _json_answer(202, {"job_id": JOB})
RUNNING = _json_answer(200, {"job_id": JOB, "state": "running"})
COMPLETED = _json_answer(200, {"job_id": JOB, "state": "completed", "image_url": "/outputs/a.png"})
BATCH = _json_answer(200, {"jobs": [{"job_id": JOB, "state": "running"}], "cursor": "1", "unknown": []})
VALID = {
    "wait": [RUNNING],
    "watch": [RUNNING],
    "download": [COMPLETED],
    "download_all": [COMPLETED],
    "generate": [RECEIPT, COMPLETED],
    "many": [BATCH],
}
"""Valid answers to the first requests of calls, so that later requests are sent."""


def random_answers(rng: random.Random, name: str) -> list[bytes]:
    """Return the answers to the requests of one call; the last is repeated."""
    before = VALID.get(name, []) if rng.randrange(3) else []
    return [*before, *(random_answer(rng) for _ in range(rng.randrange(1, 5)))]


# --- the server ----------------------------------------------------------------------------------------


class WildServer:
    """Sends the next of `answers` to each request on a new connection, then closes it."""

    def __init__(self) -> None:
        self.answers: Sequence[bytes] = [b""]
        self.sent = 0
        self.endless_bytes = 0
        self.port = 0
        self._at = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def play(self, answers: Sequence[bytes]) -> None:
        """Send these answers from now on."""
        self.answers, self._at = answers, 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].partition(b":")[2]) if length else 0)
            answer = self.answers[min(self._at, len(self.answers) - 1)]
            self._at += 1
            self.sent += 1
            await (self._endless(writer) if answer == ENDLESS else self._send(writer, answer))
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, ValueError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    async def _send(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        for start in range(0, len(answer), 1 << 16):
            writer.write(answer[start : start + (1 << 16)])
            await writer.drain()

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while self.endless_bytes < ENDLESS_MOST:
            writer.write(b" " * (1 << 16))
            self.endless_bytes += 1 << 16
            await writer.drain()


@contextmanager
def wild_server() -> Iterator[WildServer]:
    """Run a WildServer in a thread."""
    server, loop, ready = WildServer(), asyncio.new_event_loop(), threading.Event()
    stopping = asyncio.Event()

    async def serve() -> None:
        listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        await stopping.wait()
        listening.close()
        open_connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.close()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


# --- the calls -----------------------------------------------------------------------------------------


async def _watch(client: AsyncClient, to: Path) -> Any:
    return [status async for status in client.job(JOB).watch()]


async def _many(client: AsyncClient, to: Path) -> Any:
    return [job.id async for job in client.as_completed([client.job(JOB), client.job("ext_2")])]


async def _jobs(client: AsyncClient, to: Path) -> Any:
    return [job async for job in client.jobs(limit=300)]


ASYNC_CALLS: dict[str, Callable[[AsyncClient, Path], Any]] = {
    "submit": lambda client, to: client.submit("a boat"),
    "status": lambda client, to: client.job(JOB).status(),
    "wait": lambda client, to: client.job(JOB).wait(),
    "watch": _watch,
    "download": lambda client, to: client.job(JOB).download(to / "image.png", overwrite=True),
    "download_all": lambda client, to: client.job(JOB).download_all(to / "image.png", overwrite=True),
    "generate": lambda client, to: client.generate("a boat", to / "image.png", overwrite=True, timeout=TIMEOUT),
    "cancel": lambda client, to: client.job(JOB).cancel(),
    "many": _many,
    "jobs": _jobs,
    "image": lambda client, to: client.job(JOB).image(),
    "upload": lambda client, to: client.upload(IMAGE),
    "verify": lambda client, to: client.verify(IMAGE),
    "capabilities": lambda client, to: client.capabilities(),
}
SYNC_CALLS: dict[str, Callable[[Client, Path], Any]] = {
    "submit": lambda client, to: client.submit("a boat"),
    "status": lambda client, to: client.job(JOB).status(),
    "watch": lambda client, to: list(client.job(JOB).watch()),
    "download": lambda client, to: client.job(JOB).download(to / "image.png", overwrite=True),
    "many": lambda client, to: client.wait_all([client.job(JOB)]),
    "jobs": lambda client, to: list(client.jobs(limit=300)),
}
STDLIB_CALLS: dict[str, Callable[[CallContext], Any]] = {
    "status": lambda context: StatusPoller(context, JOB).next_change(),
    "wait": lambda context: StatusPoller(context, JOB).result(),
    "submit": lambda context: submit(context, {"prompt": "x"}, "key"),
}
CALLS = [
    *(("async", name) for name in ASYNC_CALLS),
    *(("sync", name) for name in SYNC_CALLS),
    *(("stdlib", name) for name in STDLIB_CALLS),
]


@dataclass
class Report:
    """The ends of calls, and their violations."""

    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def run_call(server: WildServer, kind: str, name: str, answers: Sequence[bytes], folder: Path, report: Report) -> None:
    """Run one call against these answers; add a violation to the report if it breaks a rule."""
    server.play(answers)
    clock, events = FakeClock(), list[Event]()
    try:
        result = {"async": _run_async, "sync": _run_sync, "stdlib": _run_stdlib}[kind](
            server, name, folder, clock, events
        )
        report.ends[f"{kind} {name}: {type(result).__name__}"] += 1
        problems = []
    except UmrgenError as error:
        report.ends[f"{kind} {name}: {type(error).__name__}"] += 1
        problems = _problems(error, events)
    except Exception as error:
        problems = [f"{type(error).__name__}: {error!r}"[:300]]
    if clock.monotonic() > TIMEOUT + 0.1:
        problems.append(f"the call ended after {clock.monotonic():.1f} s")
    report.violations += [f"{kind} {name}: {text}; answers {[answer[:200] for answer in answers]}" for text in problems]


def _problems(error: UmrgenError, events: Sequence[Event]) -> list[str]:
    texts = [str(error), error.next, error.code, str(error.job_id), *(event.message for event in events)]
    texts += [str(event.status) for event in events if event.status is not None and event.status.image_url is None]
    wrong = [f"not printable: {text!r}" for text in texts if not text.isprintable()]
    return wrong + [f"shows the key: {text!r}" for text in texts if KEY in text]


def _run_async(server: WildServer, name: str, folder: Path, clock: FakeClock, events: list[Event]) -> Any:
    async def call() -> Any:
        client = AsyncClient(server.url, KEY, journal=None, clock=clock, on_event=events.append, **OPTIONS)
        async with client:
            return await ASYNC_CALLS[name](client, folder)

    return asyncio.run(call())


def _run_sync(server: WildServer, name: str, folder: Path, clock: FakeClock, events: list[Event]) -> Any:
    with Client(server.url, KEY, journal=None, on_event=events.append, **OPTIONS) as client:
        client._async.transport.clock = clock
        return SYNC_CALLS[name](client, folder)


def _run_stdlib(server: WildServer, name: str, folder: Path, clock: FakeClock, events: list[Event]) -> Any:
    transport = StdlibTransport(Server(server.url, KEY), 5.0)
    context = CallContext(Options(**OPTIONS), time.monotonic(), notify=events.append)
    waited = 0.0

    def sleep(seconds: float) -> None:
        nonlocal waited
        waited += seconds

    def send(step: Step) -> Reply:
        """Send the step; the time of its reply includes the sleeps that were simulated."""
        try:
            found = transport.send(step)
        except TransportFailure as failure:
            raise TransportFailure(str(failure), at=failure.at + waited, sent=failure.sent) from None
        return replace(found, at=found.at + waited)

    try:
        return drive(STDLIB_CALLS[name](context), send, sleep)
    finally:
        clock.advance(waited)


def worst_bodies() -> dict[str, bytes]:
    """Return the bodies that take most memory: by their size, their values, their characters, or compressed."""
    most = 4 << 20
    return {
        "32 MiB of values": b'{"jobs": [' + b"[]," * (11 << 20) + b"0]}",
        "4 MiB of values": b'{"jobs": [' + b"[]," * (most // 3 - 10) + b"0]}",
        "as many values as are accepted": b'{"jobs": [' + b'{"a":{}},' * 30_000 + b"0]}",
        "4 MiB of text beyond the BMP": b'{"jobs": [], "x": "' + "\U0001f6a2".encode() * (most // 4 - 20) + b'"}',
        "32 MiB of text": b'{"jobs": [], "x": "' + b"x" * (32 << 20) + b'"}',
    }


def print_memory() -> None:
    """Print the most memory that a process needs for one call with each of the worst bodies."""
    with wild_server() as server, tempfile.TemporaryDirectory() as folder:
        for name, body in worst_bodies().items():
            packed = gzip.compress(body, 1)
            for how, sent, extra in (("", body, ""), (", compressed", packed, "Content-Encoding: gzip\r\n")):
                head = f"HTTP/1.1 200 OK\r\n{extra}Content-Length: {len(sent)}\r\n\r\n".encode()
                server.play([head + sent])
                needed = [_memory_of(server, call, folder) for call in (("async", "jobs"), ("stdlib", "status"))]
                print(f"{max(needed) / 1024:5.0f} MB  {name}{how}")


def _memory_of(server: WildServer, call: tuple[str, str], folder: str) -> int:
    command = [sys.executable, __file__, "--one", *call, str(server.port), folder]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_one(kind: str, name: str, port: str, folder: str) -> None:
    """Run one call against a server of another process; print the memory that this process needed, in KiB."""
    server, report = WildServer(), Report()
    server.port = int(port)
    run_call(server, kind, name, [], Path(folder), report)
    if report.violations:
        raise SystemExit(report.violations[0])
    # Not the resource usage of the process, which begins with that of its parent.
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    print(peak.split()[1])


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        return run_one(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="print the memory of calls with the worst bodies")
    arguments = parser.parse_args()
    if arguments.memory:
        return print_memory()
    rng, report, started = random.Random(arguments.seed), Report(), time.monotonic()
    with wild_server() as server, tempfile.TemporaryDirectory() as folder:
        while server.sent < arguments.answers and len(report.violations) < 5:
            kind, name = rng.choice(CALLS)
            run_call(server, kind, name, random_answers(rng, name), Path(folder), report)
        sent = server.sent
    for name, count in sorted(report.ends.items()):
        print(f"{count:8}  {name}")
    print(f"{sent} answers, {sum(report.ends.values())} calls, {time.monotonic() - started:.0f} s")
    for violation in report.violations:
        print(f"violation: {violation}")
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
