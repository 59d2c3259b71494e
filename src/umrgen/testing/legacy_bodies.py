"""The JSON bodies of the first servers."""

from typing import Any

from umrgen.model import State

__all__ = ["CONCURRENT_LIMIT", "INVALID_FILE", "JOB_NOT_FOUND", "RATE_LIMITED", "job_body", "receipt_body"]

JOB_NOT_FOUND = {"error": "Job not found"}
RATE_LIMITED = {"error": "Too many requests, please try again later."}
INVALID_FILE = {"error": "Invalid file type."}
CONCURRENT_LIMIT = {"error": "CONCURRENT_LIMIT", "message": "A generation is already in progress."}
"""With the `job_id` of the job that runs."""


def receipt_body(job_id: str) -> dict[str, Any]:
    """Return the body for an accepted submit."""
    return {"success": True, "job_id": job_id}


def job_body(
    job_id: str,
    state: str,
    *,
    urls: tuple[str, ...] = (),
    settled: bool = False,
    error: str | None = None,
    created_at: int = 0,
    queue_index: int | None = None,
    eta_seconds: int | None = None,
) -> dict[str, Any]:
    """Return the body for a job's status. `settled`: a minute has passed since it was completed.

    `queue_index` counts the jobs before this one; None when it is not queued.
    """
    body: dict[str, Any] = {"success": True, "job_id": job_id, "state": state}
    if state == State.COMPLETED and settled:
        return body | {"image_url": urls[0] if urls else ""}
    body |= {"created_at": created_at}
    if state == State.COMPLETED:
        return body | {"results": {"images": [{"url": url} for url in urls]}}
    if state == State.FAILED:
        return body | {"error": error}
    return body | {"queue_position": queue_index, "eta_seconds": eta_seconds}
