"""The composition root: the whole house, and the only place that chooses what it is built of."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from umrgen.jobs import Job
from umrgen.server.clock import Clock, SystemClock
from umrgen.server.config import Settings
from umrgen.server.dispatcher import Dispatcher, Policy
from umrgen.server.engines import EngineFailure
from umrgen.server.executors import EXECUTORS, EngineCrashed, Executor
from umrgen.server.http import Services, ops, outputs, v1
from umrgen.server.http.problems import Problem, on_problem
from umrgen.server.http.status import PATH as STATUS_PATH
from umrgen.server.http.status import status
from umrgen.server.keys import Keys
from umrgen.server.ledger import LEDGERS, Ledger
from umrgen.server.storage import STORAGES, Storage
from umrgen.server.waiters import Waiters

__all__ = ["House"]

log = logging.getLogger(__name__)


def _make(table: Mapping[str, str], name: str, *args: Any, **kwargs: Any) -> Any:
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)(*args, **kwargs)


class House:
    """One server: its ledger, storage, engine, dispatcher and doors, from `open` to `close`."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.settings = settings
        self.ledger: Ledger = _make(LEDGERS, "sqlite", settings.state / "ledger.sqlite3")
        self.storage: Storage = _make(STORAGES, "local", settings.state / "outputs")
        engine_options = {"step_delay": settings.step_delay} if settings.engine == "procedural" else {}
        self.executor: Executor = _make(
            EXECUTORS, "local", settings.engine, engine_options, cancel_grace=settings.cancel_grace
        )
        self.keys = Keys(self.ledger, clock)
        self.waiters = Waiters()
        policy = Policy(settings.lease, settings.max_attempts, settings.max_interruptions)
        self.dispatcher = Dispatcher(self.ledger, self.executor, self.storage, clock, policy)
        self.services = Services(
            settings=settings,
            clock=clock,
            ledger=self.ledger,
            storage=self.storage,
            executor=self.executor,
            keys=self.keys,
            waiters=self.waiters,
        )
        self._starting: asyncio.Task[None] | None = None

    def app(self) -> ASGIApp:
        routes = [*v1.routes(self.services), *outputs.routes(self.services), *ops.routes(self.services)]
        handlers: dict[Any, Any] = {Problem: on_problem, HTTPException: _on_http_error, Exception: _on_failure}
        inner = Starlette(routes=routes, exception_handlers=handlers)
        services = self.services

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(STATUS_PATH):
                await status(services, scope, receive, send)
            else:
                await inner(scope, receive, send)

        return app

    async def open(self) -> None:
        """Open the ledger and take up what an earlier server left unfinished."""
        await self.ledger.open(self._on_change)
        await self.dispatcher.recover()

    def start(self) -> None:
        """Bring the engine up, then let jobs run; callers are served meanwhile."""
        self._starting = asyncio.create_task(self._bring_up())

    async def _bring_up(self) -> None:
        delay = 1.0
        while True:
            try:
                await self.executor.start()
                break
            except (EngineFailure, EngineCrashed) as error:
                log.error("%s; trying again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(60.0, delay * 2)
        log.info("the engine %s is ready", self.settings.engine)
        self.dispatcher.start()

    async def drain(self, limit: float) -> None:
        """Accept nothing more, let running jobs finish within `limit` seconds, answer all who wait."""
        self.services.draining = True
        if self._starting is not None:
            self._starting.cancel()
            with suppress(asyncio.CancelledError):
                await self._starting
        await self.dispatcher.drain(limit)
        self.waiters.close()

    async def close(self) -> None:
        await self.executor.stop()
        await self.ledger.close()

    def _on_change(self, jobs: Sequence[Job]) -> None:
        self.waiters.notify(jobs)
        self.dispatcher.notify(jobs)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in the API's one shape."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid_request")
    return Problem(code, headers=error.headers).response()


async def _on_failure(request: Request, error: Exception) -> Response:
    return Problem("internal").response()
