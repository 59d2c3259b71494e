"""FaultServer: a real server on a real port, in a thread, that answers well or as badly as it is told."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self, TypeVar

from umrgen.testing.faults import INTERSTITIAL, Fault, Own
from umrgen.testing.legacy import Legacy
from umrgen.testing.modern import Modern
from umrgen.testing.wire import BadRequest, Connection, Exchange, Recorded, Response, html, read_request
from umrgen.testing.world import ServerJob, Settings, World

__all__ = ["FaultServer", "Refusal", "Script"]

R = TypeVar("R")
BACKLOG = 1024
OWN = Own()


class Script:
    """Answers for the next requests that match a pattern, in their order."""

    def __init__(self, pattern: str, answers: tuple[Fault, ...], times: int | None) -> None:
        method, _, self._target = pattern.rpartition(" ")
        self._method = method or "*"
        self._answers = answers
        self._count = None if times is None else times * len(answers)
        self.played: list[Recorded] = []
        """The requests it has answered."""

    @property
    def over(self) -> bool:
        """Whether every answer has been given."""
        return self._count is not None and len(self.played) >= self._count

    def stop(self) -> None:
        """Give none of the answers that are left."""
        self._count = 0

    def take(self, request: Recorded) -> Fault | None:
        """The answer for `request`, if one is left and it matches."""
        if self.over or not self._answers or self._method not in ("*", request.method):
            return None
        if not any(fnmatchcase(path, self._target) for path in (request.path, request.route)):
            return None
        self.played.append(request)
        return self._answers[(len(self.played) - 1) % len(self._answers)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The time in which a server refuses connections: until `end`, or the end of a `with` block."""

    end: Callable[[], None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class FaultServer:
    """An UMRGEN server for tests, on a free port of 127.0.0.1, from `start` (or `with`) to `stop`.

    `options` are the fields of `Settings`. An exception in a function of yours (`fail`, `image`,
    `Tamper`, ...) breaks the connection off and is raised again by `stop`.
    """

    def __init__(self, mode: Literal["modern", "legacy"] = "modern", **options: Any) -> None:
        self.settings = Settings(mode, **options)
        self.key = self.settings.key
        self.port = 0
        self.requests: list[Recorded] = []
        """Every request so far, in the order of arrival."""
        self.connections = 0
        """TCP connections accepted so far."""
        kind = Legacy if mode == "legacy" else Modern
        self._world = World(self.settings, kind.session_id)
        self._mode: Legacy | Modern = kind(self._world)
        self._scripts: list[Script] = []
        self._errors: list[Exception] = []
        self._open: set[Connection] = set()
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._listening = False
        self._accepting: set[asyncio.Task[None]] = set()
        self._return: asyncio.TimerHandle | None = None

    # --- what tests use ---

    @property
    def url(self) -> str:
        """The base URL, with the prefix if there is one."""
        return f"http://127.0.0.1:{self.port}{self.settings.prefix}"

    @property
    def open_connections(self) -> int:
        """TCP connections open now."""
        return len(self._open)

    @property
    def jobs(self) -> list[ServerJob]:
        """Every job ever made here, in order, as it is now; forgotten ones too."""
        return self._do(self._world.everything)

    def on(self, pattern: str, *answers: Fault, times: int | None = 1) -> Script:
        """Answer the next requests that match `pattern` with `answers`, one each, before the mode's own way.

        `pattern` is `METHOD target` or only a target, with `*` and `?` as in file names; it is compared
        with the target (without a prefix), and with its part before the query. The row of answers is gone
        through `times` times; None: for ever. Of several scripts, the first that matches and has something
        left answers.
        """
        script = Script(pattern, answers, times)
        self._scripts.append(script)
        return script

    def restart(self) -> None:
        """Break every connection off, and forget what this mode keeps in memory (legacy: the jobs)."""
        self._do(self._restart)

    def refuse(self, seconds: float | None = None, *, drop: bool = True) -> Refusal:
        """Close the listening socket, so that connections are refused; back on the same port after `seconds`.

        The returned `Refusal` ends it earlier. With `drop`, open connections are broken off as well.
        """
        self._do(lambda: self._refuse(seconds, drop=drop))
        return Refusal(self.accept)

    def accept(self) -> None:
        """Take connections again, if they were refused."""
        self._do(self._listen)

    def poke(self) -> None:
        """Let held calls look at the clock again, after you moved an injected one."""
        self._do(self._world.pulse)

    def start(self) -> Self:
        """Listen; once in a server's life. Raises OSError when that fails."""
        self._thread = threading.Thread(target=self._run, name="umrgen-fault-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._loop is None:
            raise self._errors[0]
        return self

    def stop(self) -> None:
        """Close everything. Raises what went wrong in functions of yours, if anything did."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stop()
        except Exception:
            if kind is None:  # else the test's own failure says more
                raise

    # --- the server's thread ---

    def _do(self, work: Callable[[], R]) -> R:
        """The result of `work`, done in the server's thread."""
        if self._loop is None or threading.current_thread() is self._thread:
            return work()

        async def there() -> R:
            return work()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._errors.append(error)
        finally:
            self._ready.set()

    async def _main(self) -> None:
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
            await connection.over.wait()

    def _bound(self) -> socket.socket:
        """A socket that has the port and does not listen: connections are refused, and nobody else gets the port."""
        bound = socket.socket()
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _listen(self) -> None:
        assert self._loop is not None and self._socket is not None
        self._cancel_return()
        if not self._listening:
            self._listening = True
            self._socket.listen(BACKLOG)
            self._loop.add_reader(self._socket, self._accept_one)

    def _refuse(self, seconds: float | None, *, drop: bool) -> None:
        assert self._loop is not None and self._socket is not None
        self._cancel_return()
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = self._bound()
        if drop:
            self._drop()
        if seconds is not None:
            self._return = self._loop.call_later(seconds, self._listen)

    def _cancel_return(self) -> None:
        if self._return is not None:
            self._return.cancel()
            self._return = None

    def _restart(self) -> None:
        self._mode.restart()
        self._drop()

    def _drop(self) -> None:
        for connection in self._open:
            connection.abort()

    # --- connections ---

    def _accept_one(self) -> None:
        assert self._loop is not None and self._socket is not None
        try:
            client, _ = self._socket.accept()
        except OSError:  # its client is gone already
            return
        client.setblocking(False)
        task = self._loop.create_task(self._connect(client))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, client: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._new_connection, client)

    def _new_connection(self) -> Connection:
        return Connection(self._opened, self._serve, self._left)

    def _opened(self, connection: Connection) -> int:
        """Count a connection; its number."""
        self.connections += 1
        self._open.add(connection)
        return self.connections

    def _left(self, connection: Connection) -> None:
        """A client has hung up; whoever holds one of its calls should notice."""
        if connection.over.is_set():
            self._open.discard(connection)
        self._world.pulse()

    async def _serve(self, connection: Connection) -> None:
        """Answer one connection's requests, one after another, to its end."""
        try:
            while request := await read_request(connection, self.settings.clock):
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

    async def _answer(self, request: Recorded, connection: Connection) -> bool:
        """Answer one request; whether the connection may bring another."""
        prefix = self.settings.prefix
        inner = request.without(prefix)
        exchange = Exchange(request, connection, lambda: self._own(inner, connection))
        scripted = (fault for script in self._scripts if (fault := script.take(inner or request)))
        await next(scripted, OWN).play(exchange)
        return exchange.keep_alive

    async def _own(self, request: Recorded | None, connection: Connection) -> Response:
        if request is None:
            return Response(404)
        if self.settings.interstitial and "skip_zrok_interstitial" not in request.headers:
            return html(200, INTERSTITIAL)
        return await self._mode.answer(request, connection.address, connection.gone)
