"""HTTP/1.1 as bytes: requests are parsed and responses are written here, so that a fault can alter each byte."""

import asyncio
import fcntl
import json
import socket
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

__all__ = [
    "BadRequest",
    "Connection",
    "Exchange",
    "RecordedRequest",
    "Response",
    "html",
    "json_response",
    "read_request",
]

HEAD_LIMIT = 64 * 1024


class BadRequest(Exception):
    """The bytes of a connection are not an HTTP/1.1 request."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived. Header names are lower-case."""

    method: str
    path: str
    """The request target, exactly as it was sent."""
    headers: Mapping[str, str]
    body: bytes
    at: float
    """When it was complete, in seconds on the server's clock (by default time.monotonic)."""
    connection: int
    """The number of its connection; the server's first is 1."""
    version: str = "HTTP/1.1"

    @property
    def route(self) -> str:
        """The path without its query string."""
        return urlsplit("http://host" + self.path).path if self.path.startswith("/") else self.path

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query string."""
        return parse_qs(self.path.partition("?")[2], keep_blank_values=True)

    @property
    def keep_alive(self) -> bool:
        """True if the client may use the connection again."""
        return self.version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()

    def json(self) -> Any:
        """Return the decoded body. Raises ValueError."""
        return json.loads(self.body)

    def without(self, prefix: str) -> "RecordedRequest | None":
        """Return the request as a server behind `prefix` receives it; None when it is not for that server."""
        if not prefix:
            return self
        inside = self.path.startswith((f"{prefix}/", f"{prefix}?")) or self.path == prefix
        return replace(self, path=self.path.removeprefix(prefix)) if inside else None


@dataclass(frozen=True, slots=True)
class Response:
    """A response before it is encoded; `Content-Length` and `Date` are added then."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    """The parts of the body after `body`, of a response without a known length."""

    def with_headers(self, changes: Mapping[str, str | None]) -> "Response":
        """Return the response with these headers (names in any case); None removes a header."""
        changed = {name.lower() for name in changes}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in changed}
        return replace(self, headers=headers | {name: value for name, value in changes.items() if value is not None})

    def has(self, name: str) -> bool:
        """Return whether there is a header of this (lower-case) name."""
        return any(own.lower() == name for own in self.headers)

    async def whole(self) -> "Response":
        """Return the response with its whole body; waits until its stream has ended."""
        if self.stream is None:
            return self
        return replace(self, body=self.body + b"".join([part async for part in self.stream]), stream=None)

    def head(self, *, keep_alive: bool = True) -> bytes:
        """Return the status line and the headers, up to the empty line."""
        headers = dict(self.headers)
        if not self.has("date"):
            headers["Date"] = formatdate(usegmt=True)
        if self.stream is None and not self.has("content-length") and self.status not in (204, 304):
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
    """Return a response with `data` as JSON."""
    return Response(status, {"Content-Type": media_type} | dict(headers or {}), json.dumps(data).encode())


def html(status: int, page: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with an HTML page."""
    return Response(status, {"Content-Type": "text/html; charset=utf-8"} | dict(headers or {}), page.encode())


# --- reading -----------------------------------------------------------------------------------------


async def read_request(connection: "Connection", clock: Callable[[], float]) -> RecordedRequest | None:
    """Return the next request; None when the client has closed the connection. Raises BadRequest."""
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
    return RecordedRequest(method, target, headers, body, clock(), connection.number, version)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"not a header: {line[:80]!r}")
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
    """A client's connection; `disconnected` is set as soon as the client closes it."""

    def __init__(
        self,
        on_open: Callable[["Connection"], int],
        serve: Callable[["Connection"], Coroutine[Any, Any, None]],
        on_close: Callable[["Connection"], None],
    ) -> None:
        """`on_open` returns the number of the connection; `on_close` is called when its socket is closed."""
        super().__init__(asyncio.StreamReader(limit=HEAD_LIMIT), self._begin)
        self.number = 0
        self.disconnected = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when the socket is closed."""
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._on_open = on_open
        self._serve = serve
        self._on_close = on_close

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # With this limit, `drain` returns only when the kernel has all bytes.
        writer.transport.set_write_buffer_limits(0)
        self.reader, self.writer = reader, writer
        await self._serve(self)

    @property
    def address(self) -> str:
        """The client's IP address."""
        return str(self.writer.get_extra_info("peername")[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport_of_client = cast("asyncio.Transport", transport)
        self.number = self._on_open(self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        super().eof_received()
        self.disconnected.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        super().connection_lost(exc)
        self.disconnected.set()
        self._on_close(self)

    def abort(self) -> None:
        """Close the connection immediately; bytes that were not sent yet are lost."""
        self._transport_of_client.abort()


class Exchange:
    """One request, and the means by which a fault responds to it."""

    def __init__(
        self, request: RecordedRequest, connection: Connection, respond: Callable[[], Awaitable[Response]]
    ) -> None:
        """`respond` passes the request to the server."""
        self.request = request
        self.keep_alive = request.keep_alive
        """Whether the connection stays open after this exchange."""
        self._respond = respond
        self._writer = connection.writer
        self._disconnected = connection.disconnected

    async def response(self) -> Response:
        """Pass the request to the server, so that it takes effect; return the server's whole response."""
        return await (await self._respond()).whole()

    def head(self, response: Response) -> bytes:
        """Return the response's head for this connection."""
        return response.head(keep_alive=self.keep_alive)

    def body(self, response: Response) -> bytes:
        """Return the response's body; no bytes for a HEAD request."""
        return b"" if self.request.method == "HEAD" else response.body

    async def pass_through(self) -> None:
        """Pass the request to the server, and its response to the client; a stream part by part."""
        response = await self._respond()
        if response.stream is None:
            await self.send(response)
            return
        self.keep_alive = False  # the end of the connection is the end of the stream
        await self.send(response)
        async for part in response.stream:
            await self.write(part)

    async def send(self, response: Response) -> None:
        """Write a response without any fault."""
        await self.write(self.head(response) + self.body(response))

    async def write(self, data: bytes) -> None:
        """Write bytes; return when the kernel has them. Raises ConnectionError."""
        self._writer.write(data)
        await self._writer.drain()

    async def pause(self, seconds: float | None) -> bool:
        """Wait (None: without a limit) unless the client disconnects; return whether it is still connected."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._disconnected.wait()
        return not self._disconnected.is_set()

    def close(self) -> None:
        """Close the connection cleanly, after the bytes that were written."""
        self.keep_alive = False
        self._writer.close()

    async def reset(self) -> None:
        """Close the connection with a TCP RST, after the client's side has received all bytes."""
        self.keep_alive = False
        sock = self._writer.get_extra_info("socket")
        while _unacknowledged(sock) and not self._disconnected.is_set():  # noqa: ASYNC110  the kernel has no event for it
            await asyncio.sleep(0.001)
        # Closing a socket that lingers for 0 seconds sends RST in place of FIN.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _unacknowledged(sock: socket.socket) -> int:
    """Return the number of bytes that the other side has not received, which a RST would discard; 0 if unknown."""
    with suppress(OSError, ValueError):  # ValueError: it is closed already
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
        return int(count)
    return 0
