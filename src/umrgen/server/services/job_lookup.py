"""Finding a caller's job: the one place that checks its session."""

from umrgen.model import JOB_ID
from umrgen.server.domain.job import Job
from umrgen.server.ledger import JobStore
from umrgen.server.services.refusal import Refusal

__all__ = ["find_job"]


async def find_job(jobs: JobStore, session_id: str, job_id: str) -> Job:
    """Return the session's job. Raises Refusal `job_not_found`, for a deleted one and another session's job too."""
    job = await jobs.get(job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.session_id != session_id or job.deleted_at is not None:
        raise Refusal("job_not_found", "the job does not exist, was deleted, or belongs to another session")
    return job
