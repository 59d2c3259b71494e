"""Changes that owners make to their jobs, but for cancelling them: mark favorites, and delete."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore, BlobStoreUnavailable
from umrgen.server.domain.job import Job
from umrgen.server.ledger import DeletedJobs, JobStore, OutputStore
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_lookup import find_job
from umrgen.server.services.refusal import Refusal

__all__ = ["JobEdits"]

SLICE = 50
"""Jobs that are deleted in one transaction: a longer one would delay other writes."""
AT_A_TIME = 8
"""Files that are deleted at a time."""


@dataclass(frozen=True, slots=True)
class JobEdits:
    """Marks jobs as favorites, and deletes them."""

    jobs: JobStore
    outputs: OutputStore
    blobs: BlobStore
    clock: Clock
    forget: Callable[[str, str], None]
    """Called with the session and name of each deleted file, so that caches drop it."""

    async def set_favorite(self, caller: Caller, job_id: str, favorite: bool) -> Job:
        """Mark the caller's job as a favorite, or not; return it. Raises Refusal `job_not_found`."""
        job = await find_job(self.jobs, caller.session_id, job_id)
        try:
            return await self.jobs.set_favorite(caller.session_id, job.id, favorite, now=self.clock.now())
        except KeyError:  # it has been deleted since
            return await find_job(self.jobs, caller.session_id, job_id)

    async def delete(self, caller: Caller, job_id: str) -> None:
        """Delete the caller's job; again is the same as once. Raises Refusal `job_not_found` for an unknown id."""
        if (await self.delete_many(caller, [job_id])).unknown:
            raise Refusal("job_not_found", "the job does not exist, or belongs to another session")

    async def delete_many(self, caller: Caller, job_ids: Sequence[str]) -> DeletedJobs:
        """Delete the caller's jobs among these.

        Jobs that are not over are cancelled. When the records are written, their files are deleted; a file that cannot
        be deleted now, or for which there is no time because the server stops, is deleted by retention. The first one
        that cannot is the last that is tried: each try takes seconds while the blob store does not respond.
        """
        total, can_delete = DeletedJobs([], [], []), True
        for start in range(0, len(job_ids), SLICE):
            part = await self.jobs.delete(caller.session_id, job_ids[start : start + SLICE], now=self.clock.now())
            for file in part.files:
                self.forget(*file)
            can_delete = can_delete and await self._delete_files(part.files)
            for all_of, some in zip((total.deleted, total.unknown), (part.deleted, part.unknown), strict=True):
                all_of.extend(some)
        return total

    async def _delete_files(self, files: Sequence[tuple[str, str]]) -> bool:
        """Delete obsolete files, and note which are gone; return False after some that cannot be deleted."""
        for start in range(0, len(files), AT_A_TIME):
            part = files[start : start + AT_A_TIME]
            gone = await asyncio.gather(*(self._delete_file(*file) for file in part))
            done = [file for file, is_gone in zip(part, gone, strict=True) if is_gone]
            await self.outputs.forget_files(done, now=self.clock.now())
            if len(done) < len(part):
                return False
        return True

    async def _delete_file(self, session_id: str, name: str) -> bool:
        try:
            await self.blobs.delete(session_id, name)
        except BlobStoreUnavailable:
            return False
        return True
