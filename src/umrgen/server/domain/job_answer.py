"""The API's representation of a job (contract, section 2)."""

from collections.abc import Callable
from typing import Literal, TypedDict

from umrgen.model import State
from umrgen.server.domain.job import Job

__all__ = ["JobAnswer", "job_to_wire", "retry_after_ms"]


def retry_after_ms(job: Job, eta_seconds: float | None) -> int | None:
    """Return the milliseconds until the next poll; None when the job is over."""
    if job.over:
        return None
    default = 3000 if job.state is State.QUEUED else 2000
    return default if eta_seconds is None else max(1000, min(default, int(eta_seconds * 1000)))


def _next(job: Job) -> str:
    match job.state:
        case State.COMPLETED:
            return "Append image_url to the base URL exactly as it is, and download it."
        case State.FAILED:
            return "Stop polling: this job is over. Read error and error_code; submit a new job to try again."
        case _:
            return (
                f"Not ready yet. GET /api/v1/status/{job.id} again after retry_after_ms, "
                "or now with the header Prefer: wait=25, a long poll that is answered when the job is over."
            )


class ImageAnswer(TypedDict):
    """One image of a job. Sizes in pixels, the digest in hex."""

    url: str
    thumbnail_url: str
    """A WebP of at most 384 pixels on its longer side."""
    filename: str
    bytes: int
    sha256: str
    width: int
    height: int
    media_type: str


class ResultsAnswer(TypedDict):
    images: list[ImageAnswer]


class ProgressAnswer(TypedDict):
    step: int
    total: int


class JobAnswer(TypedDict):
    """A job, as in the response of `GET /api/v1/status/{job_id}` (contract, section 2). Times in ms since the epoch."""

    success: bool
    job_id: str
    state: Literal["queued", "running", "completed", "failed"]
    image_url: str | None
    results: ResultsAnswer
    error: str | None
    error_code: str | None
    queue_position: int | None
    eta_seconds: float | None
    progress: ProgressAnswer
    created_at: int
    started_at: int | None
    completed_at: int | None
    engine: str
    seed: int
    priority: int
    favorite: bool
    attempt: int
    retry_after_ms: int | None
    next: str


def job_to_wire(
    job: Job,
    *,
    queue_position: int | None = None,
    eta_seconds: float | None = None,
    sign: Callable[[str], str] = str,
) -> JobAnswer:
    """Return the API's representation of the job; `sign` signs each URL."""
    urls = [sign(output.url) for output in job.outputs]
    return {
        "success": True,
        "job_id": job.id,
        "state": job.state.value,
        "image_url": urls[0] if urls else None,
        "results": {
            "images": [
                {
                    "url": url,
                    "thumbnail_url": sign(output.thumbnail_url),
                    "filename": output.name,
                    "bytes": output.bytes,
                    "sha256": output.sha256,
                    "width": output.width,
                    "height": output.height,
                    "media_type": output.media_type,
                }
                for url, output in zip(urls, job.outputs, strict=True)
            ]
        },
        "error": job.error,
        "error_code": job.error_code,
        "queue_position": queue_position,
        "eta_seconds": None if eta_seconds is None else round(eta_seconds, 1),
        "progress": {"step": job.step, "total": job.request.steps},
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "engine": job.engine,
        "seed": job.request.seed,
        "priority": job.priority,
        "favorite": job.favorite,
        "attempt": job.attempt,
        "retry_after_ms": retry_after_ms(job, eta_seconds),
        "next": _next(job),
    }
