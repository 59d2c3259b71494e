"""The answers of the tools. Some hosts show only the text to the model, others only the structured half."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mcp.types import CallToolResult, ImageContent, TextContent

from umrgen.errors import UmrgenError
from umrgen.model import State, Status

__all__ = ["data_answer", "error_line", "error_text", "image_answer", "job_answer", "progress_text"]


def job_answer(
    status: Status, images: Sequence[str], delivery: str, *, failed_is_error: bool = False
) -> CallToolResult:
    """Return the answer about one job.

    `images`: the paths or URLs of a completed job's images; `delivery`: what to do with them.
    """
    values = {
        "job_id": status.job_id,
        "state": status.state,
        "images": list(images) or None,
        "seed": status.seed,
        "engine": status.engine,
        "queue_position": status.queue_position,
        "step": status.step if status.state == State.RUNNING else None,
        "steps": status.total_steps if status.state == State.RUNNING else None,
        "eta_seconds": status.eta_seconds,
        "error": status.error,
        "error_code": status.error_code,
        "next": _next(status, images, delivery),
    }
    is_error = failed_is_error and status.state == State.FAILED
    return data_answer({name: value for name, value in values.items() if value is not None}, is_error=is_error)


def _next(status: Status, images: Sequence[str], delivery: str) -> str:
    match status.state:
        case State.COMPLETED if images:
            return delivery
        case State.COMPLETED:
            return f"Completed, but its images are not here yet: call wait_for_job with job_id={status.job_id}."
        case State.FAILED:
            return "The job is over without an image. Read error; change the request, and call generate_image again."
        case _:
            return f"Not done yet; the job continues. Call wait_for_job with job_id={status.job_id}."


def progress_text(status: Status) -> str:
    """Return the state of a job that is not over, with its place or step."""
    if status.state == State.QUEUED and status.queue_position is not None:
        return f"queued, position {status.queue_position}"
    if status.state == State.RUNNING and status.total_steps:
        return f"running, step {status.step or 0} of {status.total_steps}"
    return status.state


def data_answer(data: Mapping[str, Any], *, is_error: bool = False) -> CallToolResult:
    """Return an answer with `data` in both halves: a line for each value, and the same as JSON."""
    lines = [f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in data.items()]
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))], structured_content=dict(data), is_error=is_error
    )


def image_answer(jpeg: str) -> CallToolResult:
    """Return an image, in base64, without structured content: hosts drop the image when there is any."""
    return CallToolResult(content=[ImageContent(type="image", data=jpeg, mime_type="image/jpeg")])


def error_text(error: Exception) -> str | None:
    """Return the text of a UmrgenError with its remedy, and the job that it is about; None for another exception."""
    return error_line(str(error), error.next, error.job_id) if isinstance(error, UmrgenError) else None


def error_line(text: str, remedy: str | None, job_id: str | None) -> str:
    """Return the parts of an error as one line."""
    parts = [f"{text.rstrip('.')}.", remedy or "", f"job_id: {job_id}" if job_id else ""]
    return " ".join(part for part in parts if part)
