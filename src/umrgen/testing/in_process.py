"""The mode `modern`: the server of this package, in this process, behind its ASGI interface.

`umrgen.server` is imported when a server starts, so that clients can be tested with the legacy mode without it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from umrgen.testing.clock import ServerClock
from umrgen.testing.engine import FakeEngine
from umrgen.testing.http1 import RecordedRequest, Response
from umrgen.testing.options import FaultServerOptions, ServerJob

if TYPE_CHECKING:
    from umrgen.server.application import Application
    from umrgen.server.domain.job import Job

__all__ = ["InProcessServer"]

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
Message = Mapping[str, Any]

NEVER_STALLED = 1e9
"""Seconds: the engine's watchdog uses real time, and the engine's clock may be a test's."""
CATCH_UP_SECONDS = 2.0
"""How long a request waits at most for jobs that are due."""


class InProcessServer:
    """The real application over a ledger and a blob store in memory, with a fake engine."""

    def __init__(self, options: FaultServerOptions, engine: FakeEngine, clock: ServerClock) -> None:
        self._options = options
        self._engine = engine
        self._clock = clock
        self._application: Application
        self._app: AsgiApp
        self._restarting = asyncio.Lock()

    async def start(self) -> None:
        """Open the application. Raises UnusableKey, and ImportError without the extra `server`."""
        try:
            await self._open()
        except ModuleNotFoundError as missing:
            raise ImportError(
                f"FaultServer in the mode modern needs {missing.name}: pip install 'umrgen[server]'"
            ) from missing

    async def _open(self, **stores: Any) -> None:
        from umrgen.server.application import Application
        from umrgen.server.executors import WatchdogLimits
        from umrgen.server.executors.remote import RemoteExecutor
        from umrgen.server.settings import Settings

        options = self._options
        settings = Settings(
            state=Path(os.devnull),  # nothing is written
            ledger="memory",
            blobs="memory",
            engine="fake",
            rate=options.limit("rate_limit") or 0,
            concurrent=options.limit("concurrency") or 0,
            max_wait=options.max_wait,
            prefix=options.prefix,
            allowed_hosts=("*",),
            access_log="none",
        )
        executor = RemoteExecutor(self._engine, {}, watchdog=WatchdogLimits(stall_after=NEVER_STALLED))
        self._application = Application(settings, self._clock, executor=executor, **stores)
        await self._application.open()
        await self._application.keys.adopt(options.key)
        self._application.start()
        self._app = self._application.app()

    async def stop(self) -> None:
        """Stop the application."""
        await self._application.drain(0)
        await self._application.close()

    async def restart(self) -> None:
        """Stop the application and start another on the same ledger and blob store: running jobs run again."""
        async with self._restarting:
            before = self._application
            await before.drain(0)
            await before.close()
            await self._open(ledger=before.ledger, blobs=before.blobs)

    async def catch_up(self) -> None:
        """Wait until the jobs that are due by the clock have started or ended, and until a restart has ended."""
        self._clock.wake()
        with suppress(TimeoutError):
            async with self._restarting, asyncio.timeout(CATCH_UP_SECONDS):
                while not await self._caught_up():  # noqa: ASYNC110  commits are reported to the application only
                    await asyncio.sleep(0.0005)

    async def _caught_up(self) -> bool:
        active = await self._application.ledger.jobs.count()
        running = active.running
        idle = self._engine.capacity - running
        return running == self._engine.running and (idle <= 0 or not active.queued)

    async def jobs(self) -> list[ServerJob]:
        """Return all jobs, oldest first."""
        (key,) = await self._application.keys.usable()
        jobs, _ = await self._application.ledger.jobs.page(key.session_id, limit=1_000_000, before=None)
        return [_snapshot(job) for job in reversed(jobs)]

    async def respond(self, request: RecordedRequest, address: str, disconnected: asyncio.Event) -> Response:
        """Return the response to a request. Raises ConnectionResetError when the client disconnects before it."""
        await self.catch_up()
        return await _Call(self._app, request, address, disconnected).response()


def _snapshot(job: "Job") -> ServerJob:
    request = {name: getattr(job.request, name) for name in job.request.__struct_fields__}
    urls = tuple(output.url for output in job.outputs)
    return ServerJob(job.id, request, job.state, urls, job.error, job.error_code)


class _Call:
    """One request to an ASGI application."""

    def __init__(self, app: AsgiApp, request: RecordedRequest, address: str, disconnected: asyncio.Event) -> None:
        self._body: bytes | None = request.body
        self._disconnected = disconnected
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(app, _scope(request, address)))

    async def _run(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._messages.put)
        except Exception:
            if not self._disconnected.is_set():  # a restart ends the connection, then the ledger
                raise
        finally:
            self._messages.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def response(self) -> Response:
        start = await self._messages.get()
        if start is None:
            await self._task  # raises the exception of an application that has not responded
            raise ConnectionResetError("the client disconnected")
        headers: dict[str, str] = {}
        for name, value in start["headers"]:
            text = value.decode("latin-1")
            headers[name.decode()] = f"{headers[name.decode()]}, {text}" if name.decode() in headers else text
        response = Response(start["status"], headers, stream=self._parts())
        return await response.whole() if response.has("content-length") or start["status"] == 304 else response

    async def _parts(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            if message.get("body"):
                yield message["body"]
        await self._task


def _scope(request: RecordedRequest, address: str) -> dict[str, Any]:
    path, _, query = request.path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": request.version.removeprefix("HTTP/"),
        "method": request.method,
        "scheme": "http",
        "path": unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace"),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()],
        "client": (address, 0),
        "server": None,
        "state": {},
    }
