"""`umrgen work`: draw the jobs of a ledger that servers share, without the API."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial

from umrgen.server.application import Application
from umrgen.server.http.app import make_operator_app
from umrgen.server.http.server import HttpServer, reserve
from umrgen.server.serve import LAST_RESPONSES, StopRequest, loop_factory, reload_settings
from umrgen.server.settings import BadSettings, Settings
from umrgen.server.state import own_state

__all__ = ["work"]

log = logging.getLogger(__name__)

CONNECTIONS = 100
"""Concurrent connections for /metrics and the probes."""


def _checked(settings: Settings) -> Settings:
    """Return the settings without MCP.

    Raises BadSettings unless the ledger and the blobs can be those of another process.
    """
    if not settings.shares_ledger:
        raise BadSettings(
            f"a worker needs the ledger of the servers; got {settings.ledger}",
            next="Name it with --ledger postgresql://… or sqlite:FILE, as for each server.",
        )
    if settings.blobs in ("local", "memory"):
        raise BadSettings(
            f"a worker needs the images of the servers; got {settings.blobs}",
            next="Name them with --blobs s3://… or local:FOLDER, as for each server.",
        )
    if not settings.engines:
        raise BadSettings("a worker without engines draws nothing", next="Omit engines = false.")
    return replace(settings, mcp=False)


async def _work(settings: Settings, announce: Callable[[], None], load: Callable[[], Settings]) -> None:
    application = Application(settings)
    await application.open()
    try:
        stop = StopRequest(application, partial(reload_settings, application, load))
        async with _for_operators(application, settings):
            application.start()
            await _draw(application, stop, settings, announce)
    finally:
        await application.close()


@asynccontextmanager
async def _for_operators(application: Application, settings: Settings) -> AsyncIterator[None]:
    """Serve the calls for operators at `work_port`, if it is set. Raises BadSettings."""
    if not settings.work_port:
        yield
        return
    with closing(reserve(settings.host, settings.work_port)) as address:
        app = make_operator_app(application.services)
        http = HttpServer(app, address, header_timeout=settings.header_timeout, max_connections=CONNECTIONS)
        await http.start()
        log.info("metrics at %s/metrics", address.url)
        try:
            yield
        finally:
            await http.stop(LAST_RESPONSES)


async def _draw(application: Application, stop: StopRequest, settings: Settings, announce: Callable[[], None]) -> None:
    with stop.on_signals():
        log.info("drawing the jobs of %s, engine %s", settings.ledger_name, settings.engine)
        announce()
        await stop.requested.wait()
        await application.drain(settings.drain)


def work(settings: Settings, announce: Callable[[], None], load: Callable[[], Settings]) -> None:
    """Draw jobs until a signal; `announce` is called when the worker has started.

    `load` returns the settings as they are written now, for SIGHUP. Raises BadSettings.
    """
    settings = _checked(settings)
    with own_state(settings.state), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_work(settings, announce, lambda: _checked(load())))
