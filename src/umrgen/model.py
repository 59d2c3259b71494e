"""Values that the client and the server share: job states, the limits of a request, and a parsed status response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.text import ERROR_CODE, JOB_ID, printable

__all__ = ["FINAL_STATES", "JOB_ID", "LIMITS", "RequestLimits", "State", "Status", "check_job_id"]


def check_job_id(job_id: str) -> str:
    """Return `job_id`. Raises UmrgenError when it does not match `JOB_ID`."""
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        raise UmrgenError(
            f"{str(job_id)[:80]!r} is not a job id",
            code="bad_job_id",
            next="Use an id as `umrgen submit` prints it, for example ext_0123.",
        )
    return job_id


class State(StrEnum):
    """The four states of a job; `completed` and `failed` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether the state is final."""
        return self in FINAL_STATES


FINAL_STATES = (State.COMPLETED, State.FAILED)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of a request (contract, section 2)."""

    prompt_chars: int = 2000
    side_min: int = 512
    side_max: int = 2048
    side_default: int = 1024
    steps_max: int = 50
    steps_default: int = 4
    seed_max: int = 2**53 - 1
    """The largest integer that every JSON reader represents exactly."""
    references: int = 10
    priority: int = 10
    """The largest absolute value of a job's priority."""


LIMITS = RequestLimits()
OUR_MEMBERS = {"attempt", "engine", "error_code", "retry_after_ms"}
"""Members of a status that the first UMRGEN servers do not send."""


@dataclass(frozen=True, slots=True)
class Status:
    """A job's status as reported by a server; missing values and values of a wrong type are None.

    `state` is the server's string, which may be unknown to this client. Its texts are printable. `raw` is the whole
    response, unchanged.
    """

    job_id: str
    state: str
    images: tuple[str, ...] = ()
    """The image URLs in the form of the response: usually paths relative to the base URL."""
    error: str | None = None
    error_code: str | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    step: int | None = None
    total_steps: int | None = None
    seed: int | None = None
    engine: str | None = None
    retry_after_ms: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def over(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL_STATES

    @property
    def known(self) -> bool:
        """Whether the state is one of the four."""
        return self.state in tuple(State)

    @property
    def image_url(self) -> str | None:
        """The URL of the first image."""
        return self.images[0] if self.images else None

    @property
    def progress_key(self) -> tuple[Any, ...]:
        """The values whose change counts as progress and resets the stall timer."""
        return (self.state, self.queue_position, self.step)

    @classmethod
    def parse(cls, data: Mapping[str, Any], job_id: str) -> "Status | None":
        """Parse a status response of any UMRGEN server; return None when it has no state."""
        state = data.get("state")
        if not isinstance(state, str) or not state:
            return None
        progress = data.get("progress")
        progress = progress if isinstance(progress, Mapping) else {}
        return cls(
            job_id=job_id,
            state=printable(state, 40),
            images=_image_urls(data),
            error=_text(data.get("error")),
            error_code=_code(data.get("error_code")),
            queue_position=_queue_position(data),
            eta_seconds=_number(data.get("eta_seconds")),
            step=_integer(progress.get("step")),
            total_steps=_integer(progress.get("total")),
            seed=_integer(data.get("seed"), LIMITS.seed_max),
            engine=_text(data.get("engine")),
            retry_after_ms=_number(data.get("retry_after_ms")),
            raw=data,
        )


def _queue_position(data: Mapping[str, Any]) -> int | None:
    """Return the place in the queue from 1; the first servers, which send none of our other members, count from 0."""
    place = _integer(data.get("queue_position"))
    older = not OUR_MEMBERS & data.keys()
    return None if place is None else place + (older and data.get("state") == State.QUEUED)


def _image_urls(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the images of `results`, the first of which is `image_url`; older servers send one of the two."""
    results = data.get("results")
    listed = results.get("images") if isinstance(results, Mapping) else None
    found = [image.get("url") if isinstance(image, Mapping) else image for image in _list(listed)]
    urls = [url for url in found if isinstance(url, str) and url]
    first = data.get("image_url")
    if isinstance(first, str) and first:
        urls = [first, *(urls if first in urls else urls[1:])]
    return tuple(dict.fromkeys(urls))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return printable(value) or None if isinstance(value, str) else None


def _code(value: Any) -> str | None:
    return value if isinstance(value, str) and ERROR_CODE.fullmatch(value) else None


def _number(value: Any, most: float = 1e12) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= most else None


def _integer(value: Any, most: int = 10**12) -> int | None:
    return None if _number(value, most) is None else int(value)
