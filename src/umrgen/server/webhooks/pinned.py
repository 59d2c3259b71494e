"""Connections to the very address that was checked: a name is resolved once, here (no DNS rebinding)."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address

import httpcore2

from umrgen.server.webhooks.address_policy import Address, Allow
from umrgen.server.webhooks.delivery_result import PermanentFailure, TransientFailure

__all__ = ["PinnedBackend", "Resolve", "resolve"]

Resolve = Callable[[str], Awaitable[list[Address]]]

ADDRESSES_TRIED = 3


async def resolve(host: str) -> list[Address]:
    """Return the addresses of `host`, in the system's order of preference. Raises TransientFailure.

    Runs in a new daemon thread: a name server that does not respond must neither use up the threads that sync files,
    nor delay the end of the server.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def settle(addresses: list[Address] | None) -> None:
        if found.done():
            return
        if addresses:
            found.set_result(addresses)
        else:
            found.set_exception(TransientFailure("the receiver's name cannot be resolved"))

    def work() -> None:
        addresses = None
        with suppress(OSError, UnicodeError):
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = [ip_address(info[4][0]) for info in infos]
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, addresses)

    threading.Thread(target=work, name="umrgen-resolve", daemon=True).start()
    return await found


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """A network backend that resolves a name, checks every address of it, and connects to one of them."""

    def __init__(self, allow: Allow, resolve: Resolve = resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises PermanentFailure for a host that is not allowed, TransientFailure for one without an address."""
        addresses = await self._addresses(host)
        if not self._allow.all(host, addresses):
            raise PermanentFailure("the receiver's name resolves to an address that is not public")
        failure: Exception = httpcore2.ConnectError()
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> list[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            return await self._resolve(host)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
