"""The choice of an engine for a request: that of this server, or one that workers report in the ledger."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

import msgspec

from umrgen.clock import Clock
from umrgen.server.domain.engine_info import EngineInfo, unsupported
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.executors import Executor
from umrgen.server.ledger import LedgerUnavailable, LiveWorker, WorkerStore

__all__ = ["EngineRouter", "LiveEngines", "OwnEngineRouter", "Route"]

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two reads of the workers that live."""
DEMAND_INTERVAL = 60.0
"""Seconds between two checks for queued jobs that no worker can draw."""


@dataclass(frozen=True, slots=True)
class Route:
    """The engine that draws a request."""

    engine: str
    """Its name, for the job's record."""
    request: GenerationRequest
    """With the name of the model, where the engine's workers have different ones."""
    errors: Sequence[tuple[str, str]] = ()
    """The parameters that the engine does not support; empty while no engine is known."""


class EngineRouter(Protocol):
    """Chooses the engine of a request."""

    def route(self, request: GenerationRequest) -> Route: ...


@dataclass(frozen=True, slots=True)
class OwnEngineRouter:
    """Implements `EngineRouter` for a server with an engine of its own."""

    executor: Executor
    engine: str

    def route(self, request: GenerationRequest) -> Route:
        info = self.executor.info  # until it is known, the attempt checks the request
        return Route(self.engine, request, unsupported(info, request) if info else ())


class LiveEngines:
    """Implements `EngineRouter` for a server without an engine, by the reports of the workers that live."""

    def __init__(self, store: WorkerStore, clock: Clock, engine: str) -> None:
        """`engine`: the engine of requests that name no model, if a worker has it; the first one otherwise."""
        self._store = store
        self._clock = clock
        self._engine = engine
        self._workers: list[LiveWorker] = []
        self._unserved: set[tuple[str, str]] = set()

    # --- reading ---

    async def refresh(self) -> None:
        """Read the workers that live. Raises LedgerUnavailable."""
        self._workers = sorted(await self._store.live(now=self._clock.now()), key=self._rank)

    def _rank(self, worker: LiveWorker) -> tuple[bool, str, tuple[str, ...]]:
        """Sort the engine of the settings first; the order does not depend on which worker started first."""
        return worker.engine != self._engine, worker.engine, worker.info.models if worker.info else ()

    async def run(self) -> None:
        """Keep the workers up to date, and log which jobs no worker can draw, until the task is cancelled."""
        checked = self._clock.monotonic()
        while True:
            await self._clock.sleep(INTERVAL)
            try:
                await self.refresh()
                if self._clock.monotonic() - checked >= DEMAND_INTERVAL:
                    checked = self._clock.monotonic()
                    await self.check_demand()
            except LedgerUnavailable:
                pass  # the listener of the ledger reports it; the last result stays valid
            except Exception:
                log.exception("the workers could not be read")

    async def check_demand(self) -> None:
        """Log each engine and model that queued jobs need and no worker has, once. Raises LedgerUnavailable."""
        queued = await self._store.queued()
        unserved = {need for need in queued if not any(_serves(worker, *need) for worker in self._workers)}
        for engine, model in sorted(unserved - self._unserved):
            log.warning(
                "%d queued jobs wait for a worker with the engine %s%s; those that live have %s",
                queued[engine, model],
                engine,
                f" and the model {model}" if model else "",
                ", ".join(sorted({worker.engine for worker in self._workers})) or "none",
            )
        self._unserved = unserved

    # --- what the workers can draw ---

    @property
    def alive(self) -> bool:
        """True while a worker lives."""
        return bool(self._workers)

    @property
    def capacity(self) -> int:
        """The number of batches that all workers draw at a time."""
        return sum(worker.capacity for worker in self._workers)

    def _known(self) -> Iterator[tuple[str, EngineInfo]]:
        return ((worker.engine, worker.info) for worker in self._workers if worker.info is not None)

    @property
    def info(self) -> EngineInfo | None:
        """The engine of requests that name no model, with the models of all workers; None until one is loaded."""
        default = next(self._known(), None)
        if default is None:
            return None
        steps = {model: info.steps_of(model) for _, info in reversed(list(self._known())) for model in info.models}
        models = dict.fromkeys(chain.from_iterable(info.models for _, info in self._known()))
        return replace(default[1], models=tuple(models), model_steps=steps)

    def route(self, request: GenerationRequest) -> Route:
        known = list(self._known())
        if not known:
            return Route(self._engine, request)
        if request.model is None:
            engine, default = known[0]
            same = [(name, info) for name, info in known if name == engine]
            if any(info.models[:1] != default.models[:1] for _, info in same):
                request = msgspec.structs.replace(request, model=default.models[0] if default.models else None)
            fitting = [(name, info) for name, info in same if info.models[:1] == default.models[:1]]
        else:
            fitting = [(name, info) for name, info in known if request.model in info.models]
        if not fitting:
            assert self.info is not None
            return Route(known[0][0], request, unsupported(self.info, request))
        routes = [Route(name, request, unsupported(info, request)) for name, info in fitting]
        return min(routes, key=lambda route: len(route.errors))


def _serves(worker: LiveWorker, engine: str, model: str) -> bool:
    """Return whether the worker draws such jobs, or may when it is loaded."""
    return worker.engine == engine and (not model or worker.info is None or model in worker.info.models)
