"""What this machine's journal knows of a job that a server does not have."""

from datetime import UTC, datetime

from umrgen.client.journal import Journal, JournalEntry
from umrgen.errors import JobNotFound

__all__ = ["OTHER_KEY", "describe_missing", "is_from"]


def is_from(entry: JournalEntry, base_url: str) -> bool:
    """Return whether an entry's job was submitted to this server; an embedded server has another address each time."""
    return entry.embedded or entry.server == base_url


OTHER_KEY = "other_key"
"""The code of the error for a job of another key, to which the server may show it."""


def describe_missing(
    error: JobNotFound, journal: Journal | None, base_url: str, key_mark: str | None = None
) -> JobNotFound:
    """Return the error for a job that the server does not have: with the time and server of its submit, if known."""
    entry = journal.find_job(error.job_id) if journal is not None and error.job_id else None
    if entry is None:
        return error
    when = datetime.fromtimestamp(entry.begun_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    submitted = f"job {error.job_id} was submitted to {entry.server} on {when}"
    if not is_from(entry, base_url):
        return JobNotFound(
            f"{submitted}; {base_url} does not have it",
            status=error.status,
            job_id=error.job_id,
            next=f"Set UMRGEN_BASE_URL to {entry.server}.",
        )
    if entry.key_mark not in (None, key_mark):
        return JobNotFound(
            f"{submitted} with another API key; with this one, the server does not show it",
            code=OTHER_KEY,
            status=error.status,
            job_id=error.job_id,
            next="Use the key of the submit (--profile, --api-key-file, UMRGEN_API_KEY).",
        )
    return JobNotFound(
        f"{submitted}, which no longer has it: it failed earlier, or the server was restarted",
        code="job_gone",
        status=error.status,
        job_id=error.job_id,
        next="Submit it again.",
    )
