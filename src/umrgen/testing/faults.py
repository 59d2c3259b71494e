"""The faults of a FaultServer: responses in place of the server's, and changes of its responses."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from umrgen.testing.http1 import Exchange, Response, html

__all__ = [
    "INTERSTITIAL",
    "Delay",
    "Drip",
    "Fault",
    "HtmlPage",
    "NoResponse",
    "PassThrough",
    "Redirect",
    "Reset",
    "Respond",
    "Tamper",
    "Truncate",
]

INTERSTITIAL = """<!DOCTYPE html>
<html><head><title>You are about to visit a shared address</title></head>
<body><p>Continue only if you trust the sender of this link.</p><button>Visit</button></body></html>
"""


class Fault(Protocol):
    """A response to one request. The exchange's `keep_alive` is False afterwards if the connection must be closed."""

    async def apply(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True, slots=True)
class PassThrough:
    """The server's own response, without a fault: for requests before one with a fault."""

    async def apply(self, exchange: Exchange) -> None:
        await exchange.pass_through()


@dataclass(frozen=True, slots=True)
class Respond:
    """This response, after `delay` seconds. The server does not receive the request: a gateway's 502, a 429.

    A dict or list is sent as JSON, a str as UTF-8, bytes as they are. `headers` replace those that are implied; a
    `Content-Length` among them is sent as it is, even when it is wrong.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    async def apply(self, exchange: Exchange) -> None:
        if self.delay:
            await exchange.pause(self.delay)
        response = self._response().with_headers(self.headers)
        await exchange.send(response)
        _close_unless_framed(exchange, response)

    def _response(self) -> Response:
        if isinstance(self.body, bytes):
            return Response(self.status, {}, self.body)
        if isinstance(self.body, str):
            return Response(self.status, {"Content-Type": "text/plain; charset=utf-8"}, self.body.encode())
        return Response(self.status, {"Content-Type": "application/json"}, json.dumps(self.body).encode())


def _close_unless_framed(exchange: Exchange, response: Response) -> None:
    """Close the connection if the body's length differs from its header: the next response has no start."""
    announced = {name.lower(): value for name, value in response.headers.items()}.get("content-length")
    if announced is not None and announced != str(len(response.body)):
        exchange.close()


@dataclass(frozen=True, slots=True)
class Delay:
    """The server's own response, `seconds` late. With `handled` the request takes effect before the delay."""

    seconds: float
    handled: bool = False

    async def apply(self, exchange: Exchange) -> None:
        response = await exchange.response() if self.handled else None
        if await exchange.pause(self.seconds):
            await exchange.send(response or await exchange.response())
        else:
            exchange.close()


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No byte, until the client disconnects or the server stops.

    With `handled` the request takes effect: only its response is lost.
    """

    handled: bool = False

    async def apply(self, exchange: Exchange) -> None:
        if self.handled:
            await exchange.response()
        await exchange.pause(None)
        exchange.close()


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset: within the headers of the server's response, or `after_headers` and a `share` of the body.

    With `handled=False` the server does not receive the request, and no byte is sent.
    """

    after_headers: bool = False
    share: float = 0.5
    handled: bool = True

    async def apply(self, exchange: Exchange) -> None:
        if self.handled:
            response = await exchange.response()
            head = exchange.head(response)
            if self.after_headers:
                await exchange.write(head + _part(exchange.body(response), self.share))
            else:
                await exchange.write(_part(head, self.share))
        await exchange.reset()


def _part(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@dataclass(frozen=True, slots=True)
class Truncate:
    """The headers of the server's response and a `share` of its body, then a clean end of the connection."""

    share: float = 0.5

    async def apply(self, exchange: Exchange) -> None:
        response = await exchange.response()
        await exchange.write(exchange.head(response) + _part(exchange.body(response), self.share))
        exchange.close()


@dataclass(frozen=True, slots=True)
class Drip:
    """The server's own response, `bytes_per_chunk` every `interval` seconds; with `headers`, its headers as well."""

    bytes_per_chunk: int = 1
    interval: float = 0.01
    headers: bool = False

    async def apply(self, exchange: Exchange) -> None:
        response = await exchange.response()
        head, body = exchange.head(response), exchange.body(response)
        if not self.headers:
            await exchange.write(head)
        data = head + body if self.headers else body
        for start in range(0, len(data), self.bytes_per_chunk):
            if start and not await exchange.pause(self.interval):
                exchange.close()
                break
            await exchange.write(data[start : start + self.bytes_per_chunk])


@dataclass(frozen=True, slots=True)
class Tamper:
    """The server's own response, its body passed through `change`.

    `headers` replace those of the response; None removes one. The announced length is that of the changed body, with
    `keep_length` that of the original.
    """

    change: Callable[[bytes], bytes] = bytes
    headers: Mapping[str, str | None] = field(default_factory=dict)
    status: int | None = None
    keep_length: bool = False

    async def apply(self, exchange: Exchange) -> None:
        original = await exchange.response()
        response = replace(original, body=self.change(original.body), status=self.status or original.status)
        length = len(original.body if self.keep_length else response.body)
        response = response.with_headers({"Content-Length": str(length)}).with_headers(self.headers)
        await exchange.send(response)
        _close_unless_framed(exchange, response)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to `location`, which is sent as it is."""

    location: str
    status: int = 302

    async def apply(self, exchange: Exchange) -> None:
        await exchange.send(Response(self.status, {"Location": self.location}))


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """An HTML page in place of a response, as gateways and tunnels send it."""

    page: str = INTERSTITIAL
    status: int = 200

    async def apply(self, exchange: Exchange) -> None:
        await exchange.send(html(self.status, self.page))
