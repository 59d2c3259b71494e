"""What this machine knows of a job that a server does not have."""

from datetime import datetime

from umrgen.client.journal import Journal, JournalUnusable
from umrgen.errors import JobNotFound

__all__ = ["explained"]


def explained(error: JobNotFound, journal: Journal | None, server: str) -> JobNotFound:
    """Return the error for a job that `server` does not have: by the journal, if this machine has submitted the job."""
    if journal is None or error.job_id is None or error.code == "job_gone":
        return error
    try:
        entry = journal.find_job(error.job_id)
    except JournalUnusable:
        return error
    if entry is None:
        return error
    on = _day(entry.begun_at)
    if entry.server != server and not entry.embedded:
        return JobNotFound(
            f"this server has no job {entry.job_id}: this machine submitted it to {entry.server} on {on}",
            status=error.status,
            job_id=entry.job_id,
            next=f"Set UMRGEN_BASE_URL={entry.server}",
        )
    return JobNotFound(
        f"this machine submitted job {entry.job_id} to this server on {on}; it is gone: the server has deleted it, "
        "or has lost its records",
        code="job_gone",
        status=error.status,
        job_id=entry.job_id,
        next="Submit it again.",
    )


def _day(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return "an unknown day"
