"""HTTP/1.1 as bytes: just enough to serve it truly, and to break it on purpose."""

import asyncio
import fcntl
import json
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

__all__ = ["BadRequest", "Connection", "Exchange", "Recorded", "Response", "html", "json_response", "read_request"]

HEAD_LIMIT = 64 * 1024


class BadRequest(Exception):
    """What came is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived. Header names are lower-case."""

    method: str
    path: str
    """The request target, exactly as it stood on the wire."""
    headers: Mapping[str, str]
    body: bytes
    at: float
    """When it was complete, on the server's clock (by default time.monotonic), in seconds."""
    connection: int
    """Which of the server's connections brought it; the first is 1."""
    version: str = "HTTP/1.1"

    @property
    def route(self) -> str:
        """The path without its query string."""
        return urlsplit("http://host" + self.path).path if self.path.startswith("/") else self.path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.path.partition("?")[2], keep_blank_values=True)

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to use the connection again."""
        return self.version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()

    def json(self) -> Any:
        """The decoded body. Raises ValueError."""
        return json.loads(self.body)

    def without(self, prefix: str) -> "Recorded | None":
        """The request as a server behind `prefix` sees it, or None when it is not for that server."""
        if not prefix:
            return self
        inside = self.path.startswith((f"{prefix}/", f"{prefix}?")) or self.path == prefix
        return replace(self, path=self.path.removeprefix(prefix)) if inside else None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer before it is put on the wire; `Content-Length` and `Date` are added there."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def with_headers(self, changes: Mapping[str, str | None]) -> "Response":
        """With `changes`, whatever the case of the names; None removes a header."""
        gone = {name.lower() for name in changes}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in gone}
        return replace(self, headers=headers | {name: value for name, value in changes.items() if value is not None})

    def has(self, name: str) -> bool:
        return any(own.lower() == name for own in self.headers)

    def head(self, *, keep_alive: bool = True) -> bytes:
        """Status line and headers, up to the empty line."""
        headers = dict(self.headers)
        if not self.has("date"):
            headers["Date"] = formatdate(usegmt=True)
        if not self.has("content-length") and not self.has("transfer-encoding") and self.status not in (204, 304):
            headers["Content-Length"] = str(len(self.body))
        if not keep_alive:
            headers["Connection"] = "close"
        known = self.status in HTTPStatus.__members__.values()
        reason = HTTPStatus(self.status).phrase if known else "Unknown"
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def json_response(
    status: int, data: Any, headers: Mapping[str, str] | None = None, *, media_type: str = "application/json"
) -> Response:
    return Response(status, {"Content-Type": media_type} | dict(headers or {}), json.dumps(data).encode())


def html(status: int, page: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, {"Content-Type": "text/html; charset=utf-8"} | dict(headers or {}), page.encode())


# --- reading -----------------------------------------------------------------------------------------


async def read_request(connection: "Connection", clock: Callable[[], float]) -> Recorded | None:
    """The next request; None when the client has no more. Raises BadRequest."""
    reader = connection.reader
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = _headers(lines[1:-2])
        body = await _body(reader, headers)
    except asyncio.IncompleteReadError:
        return None
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise BadRequest(str(error)) from error
    return Recorded(method, target, headers, body, clock(), connection.number, version)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"no header: {line[:80]!r}")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


# --- writing -----------------------------------------------------------------------------------------


class Connection(asyncio.StreamReaderProtocol):
    """One client's connection; `gone` is set as soon as the client hangs up."""

    def __init__(
        self,
        opened: Callable[["Connection"], int],
        serve: Callable[["Connection"], Coroutine[Any, Any, None]],
        left: Callable[["Connection"], None],
    ) -> None:
        super().__init__(asyncio.StreamReader(limit=HEAD_LIMIT), self._begin)
        self.number = 0
        self.gone = asyncio.Event()
        self.over = asyncio.Event()
        """Set when the socket is closed."""
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._opened = opened
        self._serve = serve
        self._left = left

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # So that `drain` returns only when all is with the kernel.
        writer.transport.set_write_buffer_limits(0)
        self.reader, self.writer = reader, writer
        await self._serve(self)

    @property
    def address(self) -> str:
        return str(self.writer.get_extra_info("peername")[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        self.number = self._opened(self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        super().eof_received()
        self._hung_up()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        super().connection_lost(exc)
        self._hung_up()

    def _hung_up(self) -> None:
        self.gone.set()
        self._left(self)

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        self._wire.abort()


class Exchange:
    """One request and the means to answer it, well or badly."""

    def __init__(self, request: Recorded, connection: Connection, own: Callable[[], Awaitable[Response]]) -> None:
        self.request = request
        self.keep_alive = request.keep_alive
        """Whether the connection goes on after this exchange."""
        self._own = own
        self._writer = connection.writer
        self._gone = connection.gone

    async def own(self) -> Response:
        """What the server's mode answers; the request takes effect (a job is made, say)."""
        return await self._own()

    def head(self, response: Response) -> bytes:
        return response.head(keep_alive=self.keep_alive)

    def body(self, response: Response) -> bytes:
        return b"" if self.request.method == "HEAD" else response.body

    async def send(self, response: Response) -> None:
        """The whole answer, as it should be."""
        await self.write(self.head(response) + self.body(response))

    async def write(self, data: bytes) -> None:
        """Put bytes on the wire; returns when the kernel has them. Raises ConnectionError."""
        self._writer.write(data)
        await self._writer.drain()

    async def pause(self, seconds: float | None) -> bool:
        """Wait (None: for ever), but not for a client that hangs up; whether it is still there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        return not self._gone.is_set()

    def close(self) -> None:
        """End the connection cleanly, after what was written."""
        self.keep_alive = False
        self._writer.close()

    async def reset(self) -> None:
        """End the connection with a TCP RST, once the client's side has what was written."""
        self.keep_alive = False
        sock = self._writer.get_extra_info("socket")
        while _unacknowledged(sock) and not self._gone.is_set():  # noqa: ASYNC110  the kernel has no event for it
            await asyncio.sleep(0.001)
        # Closing a socket that lingers for 0 seconds sends RST in place of FIN.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes the other side has not got yet, which a RST would take back; 0 where the system does not tell."""
    with suppress(OSError, ValueError):  # ValueError: it is closed already
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
        return int(count)
    return 0
