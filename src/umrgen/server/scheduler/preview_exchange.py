"""Previews across servers: one server watches a job, another one draws it.

The watching server notes in the ledger which jobs it watches. The server that draws one of them writes its last preview
there, which the other one reads. Without watchers, nothing is written.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from umrgen.clock import Clock
from umrgen.server.ledger import LedgerUnavailable, PreviewStore
from umrgen.server.scheduler.previews import Previews

__all__ = ["LARGEST", "MOST", "PreviewExchange"]

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two rounds: a server writes its previews in one transaction of a round."""
WATCH = 30_000
"""Milliseconds for which a job is watched; renewed after a third of it."""
MOST = 8
"""Jobs whose previews a server writes, and jobs whose previews it reads, in one round."""
WATCHED = 200
"""Jobs that a server watches at others: most of them may be queued, and have no preview yet."""
LARGEST = 64 << 10
"""Bytes of a preview that is written: the engines' have at most 384 pixels a side, and some 20 KiB."""


class PreviewExchange:
    """Exchanges the previews of one server with those of the other servers of its ledger."""

    def __init__(
        self, store: PreviewStore, previews: Previews, running: Callable[[], Collection[str]], clock: Clock
    ) -> None:
        """`running` returns the ids of the jobs that this server draws."""
        self._store = store
        self._previews = previews
        self._running = running
        self._clock = clock
        self._drawn: dict[str, ExitStack] = {}
        """The jobs that are drawn here and watched elsewhere: their previews are enabled."""
        self._written: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        """Of the previews that were read."""
        self._renewed: dict[str, int] = {}
        """When a job that is drawn elsewhere was last noted as watched."""

    async def run(self) -> None:
        """Exchange previews until the task is cancelled."""
        with self._ending():
            while True:
                await self._clock.sleep(INTERVAL)
                try:
                    await self.once()
                except LedgerUnavailable:
                    pass  # the dispatcher reports it; the next round tries again
                except Exception:
                    log.exception("previews could not be exchanged")

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        finally:
            for watching in self._drawn.values():
                watching.close()
            self._drawn.clear()

    async def once(self) -> None:
        """Write and read the previews that are due. Raises LedgerUnavailable."""
        await self._write()
        await self._read()

    # --- of the jobs that are drawn here ---

    async def _write(self) -> None:
        running = list(self._running())
        watched = (await self._store.watched(running, now=self._clock.now()))[:MOST] if running else []
        await self._drop([job_id for job_id in self._drawn if job_id not in watched], ended_of=running)
        for job_id in watched:
            self._enable(job_id)
        if fresh := {job_id: image for job_id in watched if (image := self._unwritten(job_id)) is not None}:
            await self._store.put(fresh, version=self._clock.now())
            self._written |= fresh

    def _enable(self, job_id: str) -> None:
        if job_id not in self._drawn:
            self._drawn[job_id] = ExitStack()
            self._drawn[job_id].enter_context(self._previews.watch(job_id))

    def _unwritten(self, job_id: str) -> bytes | None:
        image = self._previews.last(job_id)
        return None if image is None or image is self._written.get(job_id) or len(image) > LARGEST else image

    async def _drop(self, job_ids: Sequence[str], *, ended_of: Collection[str]) -> None:
        """Disable the previews of these jobs; delete those of the jobs that have ended here."""
        for job_id in job_ids:
            self._drawn.pop(job_id).close()
            self._written.pop(job_id, None)
        if ended := [job_id for job_id in job_ids if job_id not in ended_of]:
            await self._store.remove(ended)

    # --- of the jobs that are drawn at other servers ---

    async def _read(self) -> None:
        running = set(self._running())
        foreign = [job_id for job_id in self._previews.watched if job_id not in running][:WATCHED]
        self._versions = {job_id: self._versions.get(job_id, 0) for job_id in foreign}
        self._renewed = {job_id: at for job_id, at in self._renewed.items() if job_id in self._versions}
        await self._renew(foreign)
        if not foreign:
            return
        for job_id, (version, image) in (await self._store.newer(self._versions, limit=MOST)).items():
            self._versions[job_id] = version
            self._previews.put(job_id, image)

    async def _renew(self, foreign: Sequence[str]) -> None:
        now = self._clock.now()
        due = [job_id for job_id in foreign if not 0 <= now - self._renewed.get(job_id, -WATCH) < WATCH / 3]
        if due:
            await self._store.watch(due, now=now, until=now + WATCH)
            self._renewed |= dict.fromkeys(due, now)
