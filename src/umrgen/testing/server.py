"""FaultServer: a server on a free port, in a thread, whose responses a test can break."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, Self, TypeVar

from umrgen.testing.clock import ServerClock
from umrgen.testing.faults import INTERSTITIAL, Fault, PassThrough
from umrgen.testing.http1 import BadRequest, Connection, Exchange, RecordedRequest, Response, html, read_request
from umrgen.testing.in_process import InProcessServer
from umrgen.testing.legacy import LegacyServer
from umrgen.testing.options import FaultServerOptions, Mode, ServerJob

__all__ = ["FaultServer", "RefusedConnections", "Script"]

R = TypeVar("R")
BACKLOG = 1024
PASS_THROUGH = PassThrough()


class Backend(Protocol):
    """The server behind the faults."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def restart(self) -> None:
        """Lose what this server keeps in memory only."""
        ...

    async def catch_up(self) -> None:
        """Start and finish the jobs that are due by the clock."""
        ...

    async def jobs(self) -> list[ServerJob]:
        """Return all jobs, oldest first, the lost ones too."""
        ...

    async def respond(self, request: RecordedRequest, address: str, disconnected: asyncio.Event) -> Response:
        """Return the response to a request from `address`. Raises ConnectionError when the client disconnects."""
        ...


class Script:
    """Faults for the next requests that match a pattern, in their order."""

    def __init__(self, pattern: str, faults: tuple[Fault, ...], times: int | None) -> None:
        method, _, self._target = pattern.rpartition(" ")
        self._method = method or "*"
        self._faults = faults
        self._count = None if times is None else times * len(faults)
        self.requests: list[RecordedRequest] = []
        """The requests that it has answered."""

    @property
    def exhausted(self) -> bool:
        """True when every fault has been used."""
        return self._count is not None and len(self.requests) >= self._count

    def stop(self) -> None:
        """Use none of the remaining faults."""
        self._count = 0

    def take(self, request: RecordedRequest) -> Fault | None:
        """Return the fault for `request`, if one is left and the request matches."""
        if self.exhausted or not self._faults or self._method not in ("*", request.method):
            return None
        if not any(fnmatchcase(path, self._target) for path in (request.path, request.route)):
            return None
        self.requests.append(request)
        return self._faults[(len(self.requests) - 1) % len(self._faults)]


@dataclass(frozen=True, slots=True)
class RefusedConnections:
    """The time in which a server refuses connections: until `end`, or the end of a `with` block."""

    end: Callable[[], None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class FaultServer:
    """An UMRGEN server for tests, on a free port of 127.0.0.1, from `start` (or `with`) to `stop`.

    `options` are the fields of `FaultServerOptions`. An exception in a function of yours (`fail`, `image`,
    `Tamper.change`, …) is raised again by `stop`.
    """

    def __init__(self, mode: Mode = "modern", **options: Any) -> None:
        """Raises TypeError for an unknown option, ValueError for an unknown mode."""
        self.options = FaultServerOptions(mode=mode, **options)
        self.key = self.options.key
        self.port = 0
        self.requests: list[RecordedRequest] = []
        """Every request so far, in the order of arrival."""
        self.connections = 0
        """TCP connections accepted so far."""
        clock = ServerClock(self.options.clock)
        self._engine = self.options.engine(clock)
        self._server: Backend = (LegacyServer if mode == "legacy" else InProcessServer)(
            self.options, self._engine, clock
        )
        self._scripts: list[Script] = []
        self._jobs: list[ServerJob] = []
        self._errors: list[Exception] = []
        self._open: set[Connection] = set()
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._listening = False
        self._accepting: set[asyncio.Task[None]] = set()
        self._reopening: asyncio.TimerHandle | None = None

    # --- what tests use ---

    @property
    def url(self) -> str:
        """The base URL, with the prefix if there is one."""
        return f"http://127.0.0.1:{self.port}{self.options.prefix}"

    @property
    def open_connections(self) -> int:
        """TCP connections open now."""
        return len(self._open)

    @property
    def jobs(self) -> list[ServerJob]:
        """All jobs in order, as they are now; lost ones too."""
        if self._loop is not None:
            self._do(self._read_jobs)
        return list(self._jobs)

    async def _read_jobs(self) -> None:
        await self._server.catch_up()
        self._jobs = await self._server.jobs()

    def on(self, pattern: str, *faults: Fault, times: int | None = 1) -> Script:
        """Apply `faults` to the next requests that match `pattern`, one each.

        `pattern` is `METHOD target` or only a target, with `*` and `?` as in file names; it is compared with the
        target (without the prefix), and with its part before the query. The faults are used `times` times in turn;
        None: without end. Of several scripts, the first that matches and is not exhausted is used.
        """
        script = Script(pattern, faults, times)
        self._scripts.append(script)
        return script

    def restart(self) -> None:
        """Break all connections and restart: legacy servers lose their jobs, modern ones run unfinished jobs again."""
        self._do(self._restart)

    def refuse(self, seconds: float | None = None, *, drop: bool = True) -> RefusedConnections:
        """Close the listening socket, so that connections are refused; accept on the same port after `seconds`.

        The result ends it earlier. With `drop`, open connections are broken as well.
        """
        self._do_now(lambda: self._refuse(seconds, drop=drop))
        return RefusedConnections(self.accept)

    def accept(self) -> None:
        """Accept connections again, if they are refused."""
        self._do_now(self._listen)

    def catch_up(self) -> None:
        """Start and finish the jobs that are due, after you advanced the clock; answers long polls."""
        self._do(self._server.catch_up)

    def start(self) -> Self:
        """Listen; once in a server's life. Raises OSError when that fails, UnusableKey for a key that is too short."""
        self._thread = threading.Thread(target=self._run, name="umrgen-fault-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._loop is None:
            raise self._errors[0]
        return self

    def stop(self) -> None:
        """Close everything. Raises the first exception of a function of yours, if there was one."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None
        for error in (*self._errors, *self._engine.errors):
            raise error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stop()
        except Exception:
            if kind is None:  # the exception of the test is more specific
                raise

    # --- the server's thread ---

    def _do(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Return the result of `work`, done in the server's thread."""
        assert self._loop is not None, "the server does not run"
        assert threading.current_thread() is not self._thread, "this call waits for the thread that makes it"
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def _do_now(self, work: Callable[[], R]) -> R:
        """Return the result of `work`, done in the server's thread; it may be called there, too."""
        if threading.current_thread() is self._thread:
            return work()

        async def there() -> R:
            return work()

        return self._do(there)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._errors.append(error)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        await self._server.start()
        self._socket = self._bound()
        self.port = self._socket.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._listen()
        self._ready.set()
        await self._stopping.wait()
        self._refuse(None, drop=False)
        self._socket.close()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._drop()
        for connection in list(self._open):
            await connection.closed.wait()
        await self._read_jobs()
        await self._server.stop()

    def _bound(self) -> socket.socket:
        """Return a bound socket that does not listen: connections are refused, and the port stays reserved."""
        bound = socket.socket()
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        self._cancel_reopening()
        if not self._listening:
            self._listening = True
            self._socket.listen(BACKLOG)
            loop.add_reader(self._socket, self._accept_one)

    def _refuse(self, seconds: float | None, *, drop: bool) -> None:
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        self._cancel_reopening()
        if self._listening:
            self._listening = False
            loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = self._bound()
        if drop:
            self._drop()
        if seconds is not None:
            self._reopening = loop.call_later(seconds, self._listen)

    def _cancel_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None

    async def _restart(self) -> None:
        self._drop()
        await self._server.restart()

    def _drop(self) -> None:
        for connection in self._open:
            connection.abort()

    # --- connections ---

    def _accept_one(self) -> None:
        assert self._socket is not None
        try:
            client, _ = self._socket.accept()
        except OSError:  # the client has disconnected already
            return
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, client: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._new_connection, client)

    def _new_connection(self) -> Connection:
        return Connection(self._on_open, self._serve, self._open.discard)

    def _on_open(self, connection: Connection) -> int:
        """Count a connection; return its number."""
        self.connections += 1
        self._open.add(connection)
        return self.connections

    async def _serve(self, connection: Connection) -> None:
        """Answer the requests of one connection in turn, until it ends."""
        try:
            while request := await read_request(connection, self.options.clock):
                self.requests.append(request)
                if not await self._answer(request, connection):
                    break
        except ConnectionError:
            connection.abort()
        except BadRequest as error:
            connection.writer.write(Response(400, {}, str(error).encode()).head(keep_alive=False))
        except Exception as error:
            self._errors.append(error)
            connection.abort()
        finally:
            connection.writer.close()

    async def _answer(self, request: RecordedRequest, connection: Connection) -> bool:
        """Answer one request; return whether the connection stays open."""
        inner = request.without(self.options.prefix)
        exchange = Exchange(request, connection, lambda: self._respond(inner, connection))
        scripted = (fault for script in self._scripts if (fault := script.take(inner or request)))
        await next(scripted, PASS_THROUGH).apply(exchange)
        return exchange.keep_alive

    async def _respond(self, request: RecordedRequest | None, connection: Connection) -> Response:
        """Return the response without any fault."""
        if request is None:
            return Response(404)
        if self.options.interstitial and "skip_zrok_interstitial" not in request.headers:
            return html(200, INTERSTITIAL)
        return await self._server.respond(request, connection.address, connection.disconnected)
