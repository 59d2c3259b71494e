"""A worker's report in the ledger: servers without engines read that it lives, and which requests it can draw."""

import logging
from dataclasses import replace

from umrgen.clock import Clock
from umrgen.server.executors import Executor, engine_state
from umrgen.server.ledger import LedgerUnavailable, LiveWorker, WorkerStore

__all__ = ["WorkerRegistration"]

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two checks of the engine: a change of its state is reported within this time."""
LIFETIME = 30_000
"""Milliseconds for which a report is valid; it is renewed after a third of this."""


class WorkerRegistration:
    """Reports one worker for as long as it runs."""

    def __init__(self, store: WorkerStore, executor: Executor, engine: str, worker: str, clock: Clock) -> None:
        self._store = store
        self._executor = executor
        self._engine = engine
        self._worker = worker
        self._clock = clock
        self._last: LiveWorker | None = None

    def _present(self) -> LiveWorker:
        executor, until = self._executor, self._clock.now() + LIFETIME
        return LiveWorker(self._worker, self._engine, engine_state(executor), executor.capacity, executor.info, until)

    def _is_due(self, present: LiveWorker) -> bool:
        last = self._last
        if last is None or replace(last, until=present.until) != present:
            return True
        return not 0 <= present.until - last.until < LIFETIME / 3

    async def run(self) -> None:
        """Report the worker until the task is cancelled."""
        while True:
            present = self._present()
            try:
                if self._is_due(present):
                    await self._store.report(present, now=self._clock.now())
                    self._last = present
            except LedgerUnavailable:
                pass  # the dispatcher reports it; the next round tries again
            except Exception:
                log.exception("this worker could not be reported")
            await self._clock.sleep(INTERVAL)

    async def end(self) -> None:
        """Delete the report: the worker has stopped. Raises LedgerUnavailable."""
        if self._last is not None:
            await self._store.remove(self._worker)
