"""Checks that images and the ledger can be stored, for readiness and for the log."""

import asyncio
import logging

from umrgen.clock import Clock
from umrgen.errors import UmrgenError
from umrgen.server.blobs import BlobStore
from umrgen.server.ledger import CoordinationStore
from umrgen.server.services.admission import Admission

__all__ = ["StorageHealth"]

log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""Seconds between two checks; each writes a small file and a row."""
KNOWN_SECONDS = 10.0
"""Seconds for which a good result is used."""
RETRY_SECONDS = 2.0
"""Seconds between two checks while something cannot be stored."""
WITHIN_SECONDS = 3.0
"""Seconds that a readiness probe waits for the result of a check."""
REMIND_SECONDS = 600.0
"""Seconds between two log lines about the same failure."""


class StorageHealth:
    """Checks the storage by storing: regularly, and for a readiness probe.

    The log gets a line when a failure begins or changes, then one every REMIND_SECONDS, and one when it is over.
    """

    def __init__(
        self, blobs: BlobStore, coordination: CoordinationStore, admission: Admission, clock: Clock, worker: str
    ) -> None:
        self.trouble: str | None = None
        """Why images or the ledger could not be stored at the last check."""
        self._blobs = blobs
        self._coordination = coordination
        self._admission = admission
        self._clock = clock
        self._worker = worker
        self._known_until = float("-inf")
        self._began = self._logged_at = 0.0
        self._checking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Check regularly, until the task is cancelled."""
        while True:
            await self.is_well()
            await self._clock.sleep(CHECK_SECONDS if self.trouble is None else RETRY_SECONDS)

    async def is_well(self) -> bool:
        """Return whether images and the ledger can be stored; a check that takes longer than WITHIN_SECONDS counts as
        a failure."""
        if self._clock.monotonic() < self._known_until:
            return self.trouble is None
        if self._checking is None:
            self._checking = asyncio.create_task(self._check())
        await asyncio.wait({self._checking}, timeout=WITHIN_SECONDS)
        if self._checking is not None:
            self._note("the storage does not respond")
        return self.trouble is None

    async def _check(self) -> None:
        try:
            trouble = await self._trouble()
        finally:
            self._checking = None
        self._note(trouble)
        self._known_until = self._clock.monotonic() + (KNOWN_SECONDS if trouble is None else RETRY_SECONDS / 2)

    async def _trouble(self) -> str | None:
        now = self._clock.now()
        try:
            await self._blobs.check()
            await self._admission.check_storage()
            await self._coordination.acquire("storage check", self._worker, now=now, until=now)
        except UmrgenError as error:
            return f"{error} ({error.code})"
        except Exception:
            log.exception("the storage could not be checked")
            return "the storage could not be checked"
        return None

    def _note(self, trouble: str | None) -> None:
        now = self._clock.monotonic()
        if trouble is None and self.trouble is not None:
            log.warning("images and the ledger can be stored again, after %.0f s", now - self._began)
        elif trouble is not None and (trouble != self.trouble or now - self._logged_at >= REMIND_SECONDS):
            log.error("the server is not ready: %s", trouble)
            self._began = now if self.trouble is None else self._began
            self._logged_at = now
        self.trouble = trouble

    async def stop(self) -> None:
        """Cancel a check in progress."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})
