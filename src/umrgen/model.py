"""Values that the client and the server share: job states, the bounds of a request, and a parsed status answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["FINAL_STATES", "JOB_ID", "LIMITS", "Limits", "State", "Status"]

JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
"""What may stand where a job id belongs, in a path and in a file name."""


class State(StrEnum):
    """The four states of the guide; only the last two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = (State.COMPLETED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a request (contract, section 2)."""

    prompt_chars: int = 2000
    side_min: int = 512
    side_max: int = 2048
    side_default: int = 1024
    steps_max: int = 50
    steps_default: int = 4
    seed_max: int = 2**53 - 1
    """The largest integer that JSON carries safely to every reader."""
    references: int = 10
    priority: int = 10
    """A session may set its jobs from minus this to plus this."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Status:
    """A job as a server told it; whatever is missing or of a wrong type is None.

    `state` is the server's own word. `raw` is the whole answer.
    """

    job_id: str
    state: str
    images: tuple[str, ...] = ()
    """The image URLs as the server gave them: normally paths relative to the base URL."""
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
        return self.state in FINAL_STATES

    @property
    def known(self) -> bool:
        """Whether the state is one of the four."""
        return self.state in tuple(State)

    @property
    def image_url(self) -> str | None:
        return self.images[0] if self.images else None

    @property
    def place(self) -> tuple[Any, ...]:
        """What counts as progress: a change of this resets the stall clock."""
        return (self.state, self.queue_position, self.step)

    @classmethod
    def parse(cls, data: Mapping[str, Any], job_id: str) -> "Status | None":
        """Read an answer of any UMRGEN server; None when it does not tell a state at all."""
        state = data.get("state")
        if not isinstance(state, str) or not state:
            return None
        progress = data.get("progress")
        progress = progress if isinstance(progress, Mapping) else {}
        return cls(
            job_id=job_id,
            state=state,
            images=_image_urls(data),
            error=_text(data.get("error")),
            error_code=_text(data.get("error_code")),
            queue_position=_integer(data.get("queue_position")),
            eta_seconds=_number(data.get("eta_seconds")),
            step=_integer(progress.get("step")),
            total_steps=_integer(progress.get("total")),
            seed=_integer(data.get("seed")),
            engine=_text(data.get("engine")),
            retry_after_ms=_number(data.get("retry_after_ms")),
            raw=data,
        )


def _image_urls(data: Mapping[str, Any]) -> tuple[str, ...]:
    """`image_url` first, then every further image of `results`; old servers give only the latter."""
    urls = [data.get("image_url")]
    results = data.get("results")
    listed = results.get("images") if isinstance(results, Mapping) else None
    if isinstance(listed, list):
        urls += [image.get("url") if isinstance(image, Mapping) else image for image in listed]
    return tuple(dict.fromkeys(url for url in urls if isinstance(url, str) and url))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value == value and 0 <= value < 1e12 else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
