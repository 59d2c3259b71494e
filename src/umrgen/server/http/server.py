"""The HTTP server: granian, embedded through its public interface, on the application's own event loop.

granian parses HTTP in Rust (hyper) and calls the ASGI application. It bounds what a client may hold open: the head of
a request (400 KiB, 100 headers, `header_timeout`), an idle connection (`header_timeout` too) and the number of
connections (`max_connections`; further ones wait in the listen queue of the kernel).
"""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.types import ASGIApp

from umrgen.server.settings import BadSettings

__all__ = ["Address", "HttpServer", "reserve"]

BACKLOG = 2048
"""Connections that the kernel accepts ahead of the server."""
BUFFER_BYTES = 128 << 10
"""Bytes that granian buffers per connection, in each direction."""
START_SECONDS = 10.0
"""Seconds within which the server must accept connections."""
_RETRY_SECONDS = 0.005
_LOGGING: dict[str, Any] = {
    "handlers": {},
    "formatters": {},
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": False}},
}
"""granian logs only errors, through the handlers of the process."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address that is reserved for this process: nothing else can bind the port until `close`."""

    host: str
    port: int
    reservation: socket.socket

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def close(self) -> None:
        self.reservation.close()


def reserve(host: str, port: int) -> Address:
    """Reserve an address; port 0 takes a free one. Raises BadSettings when it is not available.

    granian listens with SO_REUSEPORT, with which a second server on the same port would start without an error. So
    the port is bound exclusively first. The reservation itself is bound, and never listens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with _bound(family, socket.SO_REUSEADDR, host, port) as exclusive:
            exclusive.listen(1)  # on Linux, bind alone is refused only for a port that is listened on
            port = exclusive.getsockname()[1]
        reservation = _bound(family, socket.SO_REUSEPORT, host, port)
    except OSError as error:
        raise BadSettings(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            next="Choose another with --host and --port; --port 0 takes a free one.",
        ) from None
    return Address(reservation.getsockname()[0], port, reservation)


def _bound(family: int, option: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


class HttpServer:
    """Serves one ASGI application on one address, from `start` to `stop`."""

    def __init__(self, app: ASGIApp, address: Address, *, header_timeout: float, max_connections: int) -> None:
        """`header_timeout`: seconds for the head of a request, and between two requests of a connection."""
        self._address = address
        self._server = Server(
            app,
            address=address.host,
            port=address.port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            backpressure=max_connections,
            http1_settings=HTTP1Settings(header_read_timeout=int(header_timeout * 1000), max_buffer_size=BUFFER_BYTES),
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return as soon as connections are accepted. Raises BadSettings when they are not."""
        self._serving = asyncio.create_task(self._server.serve())
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._accepts():  # noqa: ASYNC110  # granian has no event for its start
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise BadSettings(
                f"cannot listen on {self._address.url}: the HTTP server did not start within {START_SECONDS:g} s"
            ) from None

    async def _accepts(self) -> bool:
        """Return whether the server accepts a connection now. Raises BadSettings when it has ended."""
        assert self._serving is not None
        if self._serving.done():
            raise BadSettings(f"cannot listen on {self._address.url}: the HTTP server has ended")
        with socket.socket(self._address.reservation.family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(probe, self._address.reservation.getsockname())
            except OSError:
                return False
        return True

    async def ended(self) -> None:
        """Wait until the HTTP server ends without `stop`, which is a failure: raise its exception, or BadSettings."""
        assert self._serving is not None
        await asyncio.shield(self._serving)
        raise BadSettings(f"the HTTP server on {self._address.url} has ended")

    async def stop(self, limit: float) -> None:
        """Refuse new connections, and let requests in flight finish within `limit` seconds."""
        if self._serving is None:
            return
        self._server.stop()  # type: ignore[no-untyped-call]  # granian has no types for it
        await asyncio.wait({self._serving}, timeout=limit)
        self._serving.cancel()
        with suppress(asyncio.CancelledError):
            await self._serving
