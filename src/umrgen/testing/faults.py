"""What a FaultServer can be told to answer in its mode's place, or to do to its mode's own answer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from umrgen.testing.wire import Exchange, Response, html

__all__ = ["INTERSTITIAL", "Answer", "Cut", "Drip", "Fault", "Own", "Page", "Redirect", "Reset", "Silence", "Tamper"]

INTERSTITIAL = """<!DOCTYPE html>
<html><head><title>You are about to visit a shared address</title></head>
<body><p>Continue only if you trust whoever sent you here.</p><button>Visit</button></body></html>
"""


class Fault(Protocol):
    """How one request is answered. `keep_alive` of the exchange is False once the connection is of no use."""

    async def play(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True, slots=True)
class Own:
    """The mode's own answer, untouched: to let some requests pass before a fault."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(await exchange.own())


@dataclass(frozen=True, slots=True)
class Answer:
    """This answer, `delay` seconds after the request; the mode never sees it.

    A dict or list goes as JSON, a str as UTF-8, bytes as they are. Headers given here win over
    those that are implied; a `Content-Length` given here is announced, true or not.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        if self.delay:
            await exchange.pause(self.delay)
        response = self._response().with_headers(self.headers)
        await exchange.send(response)
        _close_if_out_of_step(exchange, response)

    def _response(self) -> Response:
        if isinstance(self.body, bytes):
            return Response(self.status, {}, self.body)
        if isinstance(self.body, str):
            return Response(self.status, {"Content-Type": "text/plain; charset=utf-8"}, self.body.encode())
        return Response(self.status, {"Content-Type": "application/json"}, json.dumps(self.body).encode())


def _close_if_out_of_step(exchange: Exchange, response: Response) -> None:
    """Close after a body whose length is not the announced one: nobody could tell where the next answer begins."""
    announced = {name.lower(): value for name, value in response.headers.items()}.get("content-length")
    if announced is not None and announced != str(len(response.body)):
        exchange.close()


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP RST: in the middle of the mode's own headers, or `after_headers` and a `share` of the body.

    With `handled=False` the request is thrown away first: nothing of it takes effect, nothing is answered.
    """

    after_headers: bool = False
    share: float = 0.5
    handled: bool = True

    async def play(self, exchange: Exchange) -> None:
        if self.handled:
            response = await exchange.own()
            head = exchange.head(response)
            if self.after_headers:
                await exchange.write(head + _part(exchange.body(response), self.share))
            else:
                await exchange.write(_part(head, self.share))
        await exchange.reset()


def _part(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@dataclass(frozen=True, slots=True)
class Cut:
    """The mode's own headers and a `share` of the body they announce, then a clean end of the connection."""

    share: float = 0.5

    async def play(self, exchange: Exchange) -> None:
        response = await exchange.own()
        await exchange.write(exchange.head(response) + _part(exchange.body(response), self.share))
        exchange.close()


@dataclass(frozen=True, slots=True)
class Drip:
    """The mode's own answer, `bytes_per_chunk` every `interval` seconds; its headers too if `headers`."""

    bytes_per_chunk: int = 1
    interval: float = 0.01
    headers: bool = False

    async def play(self, exchange: Exchange) -> None:
        response = await exchange.own()
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
class Silence:
    """Not a byte, until the client hangs up or the server stops; or for `seconds`, then the mode's own answer.

    With `handled` the request takes effect at once, and only its answer is kept back.
    """

    seconds: float | None = None
    handled: bool = False

    async def play(self, exchange: Exchange) -> None:
        response = await exchange.own() if self.handled else None
        if await exchange.pause(self.seconds):
            await exchange.send(response or await exchange.own())
        else:
            exchange.close()


@dataclass(frozen=True, slots=True)
class Tamper:
    """The mode's own answer with its body passed through `change`.

    `headers` are set over the mode's own (None takes one away), so a digest can lie. The length announced is the
    changed body's, or with `keep_length` still that of the true one.
    """

    change: Callable[[bytes], bytes] = bytes
    headers: Mapping[str, str | None] = field(default_factory=dict)
    status: int | None = None
    keep_length: bool = False

    async def play(self, exchange: Exchange) -> None:
        own = await exchange.own()
        response = replace(own, body=self.change(own.body), status=self.status or own.status)
        if self.keep_length:
            response = response.with_headers({"Content-Length": str(len(own.body))})
        response = response.with_headers(self.headers)
        await exchange.send(response)
        _close_if_out_of_step(exchange, response)


@dataclass(frozen=True, slots=True)
class Redirect:
    """To `location`, as it is."""

    location: str
    status: int = 302

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(Response(self.status, {"Location": self.location}))


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page where something else was due, as a tunnel's interstitial is."""

    page: str = INTERSTITIAL
    status: int = 200

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(html(self.status, self.page))
