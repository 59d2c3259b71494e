"""`umrgen serve`: start the server from its settings, run it, and stop it."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.server.application import Application
from umrgen.server.http.server import Address, HttpServer, reserve
from umrgen.server.services.api_keys import NewKey, check_usable
from umrgen.server.services.one_time_links import OneTimeLinks
from umrgen.server.settings import BadSettings, Settings
from umrgen.server.state import own_state, write_studio_address

__all__ = ["LAST_RESPONSES", "Announcement", "StopRequest", "loop_factory", "reload_settings", "serve", "studio_link"]

log = logging.getLogger(__name__)

LAST_RESPONSES = 5.0
"""Seconds that responses in flight have to finish when the server stops."""
OTHER_FILES = 256
"""File descriptors reserved for other uses than connections: the ledger, images, engines, uploads, webhooks."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The output of a started server: its URL, the first key if it was created now, and on loopback a one-time link to
    the studio."""

    url: str
    key: str | None
    settings: Settings
    studio: str | None = None


def _open_many_files(settings: Settings) -> Settings:
    """Raise the limit of open files, and bound the connections by it: files and processes need descriptors, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 20)), hard))
    available = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES)
    return replace(settings, max_connections=min(settings.max_connections, available))


class StopRequest:
    """A stop request, by a signal or the end of standard input; a second request stops without draining."""

    def __init__(self, application: Application, reload: Callable[[], None]) -> None:
        self._application = application
        self._reload = reload
        self._releasing: asyncio.Future[None] | None = None
        self.requested = asyncio.Event()
        self.immediately = asyncio.Event()

    def __call__(self) -> None:
        if self.requested.is_set():
            self.immediately.set()
            self._application.stop_now()
        elif sys.stderr.isatty():
            log.info("Ctrl-C again stops at once")
        self.requested.set()

    def _release_engine(self) -> None:
        self._releasing = asyncio.ensure_future(self._application.release_engine())

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Request a stop on SIGINT and SIGTERM, and on SIGHUP if a terminal started the server.

        A service gets SIGHUP to reload its settings. SIGUSR1 unloads the engine (`umrgen engine release`).
        """
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGINT: self,
            signal.SIGTERM: self,
            signal.SIGHUP: self if _in_terminal() else self._reload,
            signal.SIGUSR1: self._release_engine,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)


def _in_terminal() -> bool:
    """Return whether this process has a controlling terminal, whose end sends SIGHUP."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _first_key(application: Application, *, shown: bool) -> str | None:
    """Create an API key if there is no valid one, and `shown` is true; return its secret, or None.

    `shown`: a person or a program reads it. A log keeps what is written to it.
    """
    settings = application.settings
    await application.keys.adopt(settings.api_key)
    if await application.keys.usable():
        return None
    if not settings.loopback:
        raise BadSettings(
            f"there is no API key yet, and other machines can reach {settings.host}",
            next=f"Create a key first: umrgen keys create --state {settings.state}",
        )
    if not shown:
        log.warning("there is no API key yet; create one: umrgen keys create --state %s", settings.state)
        return None
    secret, _ = await application.keys.create(NewKey("first"))
    return secret


def _studio(application: Application, url: str) -> str | None:
    """Return a link for the reader of this terminal, and note the studio's address for `umrgen studio`."""
    settings = application.settings
    if not settings.studio or not settings.loopback:
        return None
    try:
        write_studio_address(settings.state, url)
        return studio_link(url, application.services.tickets)
    except OSError as error:
        log.warning("no link to the studio could be stored in %s: %s", settings.state, error.strerror)
        return None


def studio_link(address: str, tickets: OneTimeLinks) -> str:
    """Return a new link. Its ticket is in the fragment, which browsers do not send. Raises OSError."""
    return f"{address}/#start={tickets.issue()}"


def _collect_garbage_rarely() -> None:
    """Collect the oldest generation rarely.

    A full collection visits all objects of thousands of waiting calls, and blocks the loop for longer than it takes to
    wake them. The server makes few reference cycles, and the young generations find most of those.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve_on(
    address: Address,
    application: Application,
    key: str | None,
    announce: Callable[[Announcement], None],
    reload: Callable[[], None],
    *,
    until_eof: bool,
) -> None:
    settings = application.settings
    http = HttpServer(
        application.app(),
        address,
        header_timeout=settings.header_timeout,
        max_connections=settings.max_connections,
    )
    application.start()
    _collect_garbage_rarely()
    stop = StopRequest(application, reload)
    with stop.on_signals():
        await http.start()
        if until_eof:
            _stop_at_eof(stop)
        log.info("listening on %s, engine %s, state in %s", address.url, settings.engine, settings.state)
        announce(Announcement(address.url, key, settings, _studio(application, address.url)))
        await _first(stop.requested.wait(), http.ended())
        await application.drain(settings.drain)
        await _first(http.stop(LAST_RESPONSES), stop.immediately.wait())


async def _first(*awaitables: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of these is done, cancel the others, and raise its exception if it has one."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


def reload_settings(application: Application, load: Callable[[], Settings]) -> None:
    """Apply the settings that can change while the server runs; keys are read from the ledger all the time."""
    try:
        application.reload(load())
    except UmrgenError as error:
        log.error("the settings were not reloaded: %s", error)


async def _serve(
    settings: Settings,
    announce: Callable[[Announcement], None],
    load: Callable[[], Settings],
    *,
    until_eof: bool,
    show_key: bool,
) -> None:
    application = Application(settings)
    await application.open()
    try:
        key = await _first_key(application, shown=show_key)
        with contextlib.closing(reserve(settings.host, settings.port)) as address:
            await _serve_on(
                address, application, key, announce, partial(reload_settings, application, load), until_eof=until_eof
            )
    finally:
        await application.close()


def _stop_at_eof(stop: StopRequest) -> None:
    """Stop when standard input ends: the process that started this server for one call has ended."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended first
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=watch, daemon=True).start()


def serve(
    settings: Settings,
    announce: Callable[[Announcement], None],
    *,
    load: Callable[[], Settings] | None = None,
    until_eof: bool = False,
    show_key: bool = True,
) -> None:
    """Serve until a signal (or, with `until_eof`, the end of standard input).

    `load` returns the settings as they are written now, for SIGHUP. `show_key`: `announce` shows a first key to a
    reader; otherwise none is created. Raises BadSettings and UnusableKey before anything is started.
    """
    if settings.api_key:
        check_usable(settings.api_key)
    settings = _open_many_files(settings)

    def load_again() -> Settings:
        return settings if load is None else _open_many_files(load())

    with own_state(settings.state), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings, announce, load_again, until_eof=until_eof, show_key=show_key))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the function that makes uvloop's event loop, or None, for asyncio's own, where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
