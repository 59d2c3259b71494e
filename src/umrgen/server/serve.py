"""`umrgen serve`: from settings to a listening server, and back to a quiet state folder."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import uvicorn

from umrgen.server.app import House
from umrgen.server.config import BadSettings, Settings
from umrgen.server.http.quick import quick_protocol
from umrgen.server.keys import Grant, check_usable
from umrgen.server.state import own_state

__all__ = ["Announcement", "serve"]

OTHER_FILES = 256
"""Descriptors that are not connections: the ledger, images, engines, the decoding of uploads, webhooks."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a started server tells: where it listens, the first key if it has just made one, and the address that
    opens the studio once, on loopback."""

    url: str
    key: str | None
    settings: Settings
    studio: str | None = None


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise BadSettings(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            next="Choose another with --host and --port; --port 0 takes a free one.",
        ) from None
    listener.setblocking(False)
    return listener


def _open_many_files(settings: Settings) -> Settings:
    """As many connections as the system lets us have, and no more: files and processes need room, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 20)), hard))
    room = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES)
    return replace(settings, max_connections=min(settings.max_connections, room))


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, told to drain the house before it closes its doors, and to exit with 0 after a signal."""

    def __init__(self, config: uvicorn.Config, house: House, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._house = house
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Stop in good order; called a second time, at once."""
        if self.should_exit:
            self.force_exit = True
            self._house.hurry()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()  # from here on callers are served and signals understood

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._house.drain(self._house.settings.drain)
        await super().shutdown(sockets)


async def _first_key(house: House) -> str | None:
    """Make sure that somebody can come in; the key made for that, if one had to be."""
    settings = house.settings
    await house.keys.adopt(settings.api_key)
    if await house.keys.usable():
        return None
    if not settings.loopback:
        raise BadSettings(
            f"there is no API key yet, and {settings.host} can be reached by others",
            next="Make one first: umrgen keys create --state DIR",
        )
    secret, _ = await house.keys.create(Grant("first"))
    return secret


def _studio(house: House, url: str) -> str | None:
    """A link for whoever reads this server's terminal. Its ticket stands behind the #, which no browser sends."""
    if not house.settings.studio or not house.settings.loopback:
        return None
    return f"{url}/#start={house.services.tickets.issue()}"


def _collect_garbage_seldom() -> None:
    """A full collection walks through all that thousands of held calls are made of, and holds everybody up for
    longer than waking them takes. Little here is garbage in a circle; what is, is mostly found young."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve_on(
    listener: socket.socket,
    house: House,
    key: str | None,
    announce: Callable[[Announcement], None],
    *,
    until_eof: bool,
) -> None:
    settings = house.settings
    config = uvicorn.Config(
        house.app(),
        http=quick_protocol(house.services),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        ws="none",
    )
    told = Announcement(_url(listener), key, settings, _studio(house, _url(listener)))
    server = _Server(config, house, lambda: announce(told))
    house.start()
    _collect_garbage_seldom()
    if until_eof:
        _stop_at_eof(server)
    await server.serve(sockets=[listener])


async def _serve(settings: Settings, announce: Callable[[Announcement], None], *, until_eof: bool) -> None:
    house = House(settings)
    await house.open()
    try:
        key = await _first_key(house)
        with contextlib.closing(_listen(settings)) as listener:
            await _serve_on(listener, house, key, announce, until_eof=until_eof)
    finally:
        await house.close()


def _stop_at_eof(server: _Server) -> None:
    """Stop when standard input ends: whoever started us for one call is gone."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended first
            loop.call_soon_threadsafe(server.stop)

    threading.Thread(target=watch, daemon=True).start()


def serve(settings: Settings, announce: Callable[[Announcement], None], *, until_eof: bool = False) -> None:
    """Serve until a signal (or, with `until_eof`, the end of standard input).

    Raises BadSettings and UnusableKey before anything is started.
    """
    if settings.api_key:
        check_usable(settings.api_key)
    settings = _open_many_files(settings)
    with own_state(settings.state):
        try:
            import uvloop
        except ImportError:
            asyncio.run(_serve(settings, announce, until_eof=until_eof))
        else:
            uvloop.run(_serve(settings, announce, until_eof=until_eof))
