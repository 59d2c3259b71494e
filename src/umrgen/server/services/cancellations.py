"""Cancelling a job."""

from contextlib import suppress
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.domain.job import Change, Conflict, Job
from umrgen.server.ledger import JobStore
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_lookup import find_job

__all__ = ["Cancellations"]


@dataclass(frozen=True, slots=True)
class Cancellations:
    """Cancels jobs."""

    jobs: JobStore
    clock: Clock

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """End the job as `failed` with `cancelled`; a job that is over does not change.

        Raises Refusal and LedgerUnavailable.
        """
        job = await find_job(self.jobs, caller.session_id, job_id)
        with suppress(Conflict):
            return await self.jobs.change(
                job.id, Change.CANCEL, now=self.clock.now(), error="the job was cancelled", error_code="cancelled"
            )
        return await find_job(self.jobs, caller.session_id, job_id)
