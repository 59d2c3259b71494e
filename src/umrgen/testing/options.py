"""The options of a FaultServer, and its report of a job."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import EllipsisType
from typing import Any, Literal

from umrgen.model import State
from umrgen.testing.clock import ServerClock
from umrgen.testing.engine import Failing, FakeEngine, Images, Seconds, noise

__all__ = ["FaultServerOptions", "Mode", "ServerJob"]

Mode = Literal["modern", "legacy"]
LEGACY_ONLY = ("newer_version", "rate_window", "submit_status", "settle_seconds", "forget_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultServerOptions:
    """The options of a FaultServer. Times in seconds; the default `...` is the mode's own value."""

    mode: Mode = "modern"
    """"modern": the server of this package. "legacy": the first servers, in front of which no code is shared."""
    key: str = "umr_the-key-of-a-fault-server"
    """The one API key that is accepted; in the mode modern, 20 characters or more."""
    job_seconds: Seconds = 0.05
    """How long a job runs."""
    workers: int = 1
    """Jobs that run at a time."""
    fail: Failing = None
    """Why jobs fail."""
    image: Images = noise
    """The images; by default each is another small PNG."""
    images: int = 1
    """Images of a job. legacy: with 0, a job is `completed` and has none."""
    concurrency: int | EllipsisType | None = ...
    """Queued and running jobs at which a submit is refused with 429; None: no limit. legacy: 1, modern: None."""
    rate_limit: int | EllipsisType | None = ...
    """Calls of /api a minute; then 429. modern: of a key, None. legacy: of an address, 60."""
    interstitial: bool = False
    """Whether each request without the header `skip_zrok_interstitial` gets an HTML page."""
    prefix: str = ""
    """A path in front of all others, like `/umrgen`: part of the server's `url`."""
    max_wait: float = 60.0
    """modern: the longest long poll."""
    newer_version: bool = False
    """legacy: whether it is the newer of the two public versions, without uploads and without a history."""
    rate_window: float = 60.0
    """legacy: the length of the rate limit's window; by default a minute of the clock."""
    submit_status: int = 202
    """legacy: the status of an accepted submit."""
    settle_seconds: float = 60.0
    """legacy: how long a completed job has `results` and no `image_url`."""
    forget_seconds: float = 60.0
    """legacy: how long a failed job is known."""
    clock: Callable[[], float] = time.monotonic
    """The source of time for jobs, limits and `RecordedRequest.at`; called in the server's thread."""

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown mode, and for options that the mode does not have."""
        if self.mode not in ("modern", "legacy"):
            raise ValueError(f"mode must be modern or legacy; got {self.mode!r}")
        other = LEGACY_ONLY if self.mode == "modern" else ("max_wait",)
        for option in fields(self):
            if option.name in other and getattr(self, option.name) != option.default:
                raise ValueError(f"the mode {self.mode} has no option {option.name}")
        if self.mode == "modern" and not 1 <= self.images <= 8:
            raise ValueError(f"images must be 1 to 8 in the mode modern; got {self.images}")

    def limit(self, name: Literal["concurrency", "rate_limit"]) -> int | None:
        """Return a limit, with the mode's own value in place of `...`."""
        value: int | EllipsisType | None = getattr(self, name)
        if isinstance(value, EllipsisType):
            return {"concurrency": 1, "rate_limit": 60}[name] if self.mode == "legacy" else None
        return value

    def engine(self, clock: ServerClock) -> FakeEngine:
        """Return the engine that these options describe."""
        return FakeEngine(
            seconds=self.job_seconds,
            fail=self.fail,
            image=self.image,
            images=self.images,
            capacity=self.workers,
            clock=clock,
        )


@dataclass(frozen=True, slots=True)
class ServerJob:
    """A job of a FaultServer, as it was when it was read."""

    id: str
    request: Mapping[str, Any]
    """modern: the generation request with its defaults. legacy: the body of the submit."""
    state: State
    urls: tuple[str, ...] = ()
    """The URLs of its images."""
    error: str | None = None
    error_code: str | None = None
    forgotten: bool = False
    """legacy: whether the server lost it in a restart."""
