"""Executors, which run engines. One folder or file per alternative; only the ledger decides about retries."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from umrgen.errors import UmrgenError
from umrgen.image_files import verify
from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.engines import DrawTask, EncodedImage, EngineCrashed, EngineInfo
from umrgen.server.executors.batch import JobBatch
from umrgen.server.thumbnails import LARGEST

__all__ = [
    "EXECUTORS",
    "EngineState",
    "Executor",
    "JobBatch",
    "OnPreview",
    "OnStep",
    "VerifiedImage",
    "WatchdogLimits",
    "engine_state",
    "verified",
]

EXECUTORS: Mapping[str, str] = {
    "subprocess": "umrgen.server.executors.subprocess.executor:SubprocessExecutor",
    "ray": "umrgen.server.executors.ray.executor:RayExecutor",
    "remote": "umrgen.server.executors.remote:RemoteExecutor",
    "absent": "umrgen.server.executors.absent:AbsentExecutor",
}

EngineState = Literal["ready", "loading", "unloaded", "unavailable", "elsewhere"]
"""Whether an engine can draw now; an unloaded one is loaded for the next job; elsewhere: workers draw the jobs."""

OnStep = Callable[[int, int], None]
"""A callback with (step, total), called on the event loop."""

OnPreview = Callable[[bytes], None]
"""A callback with a small JPEG of the unfinished image, called on the event loop."""


@dataclass(frozen=True, slots=True)
class WatchdogLimits:
    """The limits of an engine: seconds, and MiB."""

    stall_after: float = 60.0
    """An engine without a sign of life for so long is stopped."""
    cancel_grace: float = 5.0
    """Time to stop by itself when a job is cancelled."""
    load_timeout: float = 600.0
    """Time to start, and to load or compile for a job."""
    memory: int = 0
    """Memory of an engine process; 0: no limit."""


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An encoded image that was checked. Sizes in pixels, the digest in hex."""

    data: bytes
    sha256: str
    width: int
    height: int
    media_type: str = "image/png"
    thumbnail: bytes = b""
    """A small WebP of it; b"" if there is none."""
    pdq: bytes = b""
    """The perceptual hash; b"" without one."""


async def verified(images: Sequence[EncodedImage]) -> tuple[VerifiedImage, ...]:
    """Check the images of an engine. Raises EngineCrashed if there are none, too many, or an incomplete one."""
    if not 1 <= len(images) <= MAX_IMAGES:
        raise EngineCrashed(f"it returned {len(images)} images; 1 to {MAX_IMAGES} are possible")
    return tuple([await asyncio.to_thread(_verify, image) for image in images])


def _verify(image: EncodedImage) -> VerifiedImage:
    try:
        facts = verify(image.data)
    except UmrgenError as error:
        raise EngineCrashed(f"its result is not an image: {error}") from None
    if not facts.width or not facts.height:
        raise EngineCrashed("it returned an image without a size")
    small = image.thumbnail if _is_thumbnail(image.thumbnail) else b""
    return VerifiedImage(image.data, facts.sha256, facts.width, facts.height, facts.media_type, small, image.pdq)


def _is_thumbnail(data: bytes) -> bool:
    """Return whether this is a whole and small WebP; without it, a thumbnail is made when it is requested."""
    try:
        return 0 < len(data) <= LARGEST and verify(data).media_type == "image/webp"
    except UmrgenError:
        return False


class Executor(Protocol):
    """Runs one engine, on one or more devices."""

    @property
    def info(self) -> EngineInfo | None:
        """The engine's description; None until it is loaded for the first time."""
        ...

    @property
    def trouble(self) -> str | None:
        """The reason why no engine can run now, as shown to callers; None while one can."""
        ...

    @property
    def capacity(self) -> int:
        """The number of batches that are drawn at a time now; it changes with the number of devices."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether the engine is loaded or will be; one that was unloaded is loaded again for a job only."""
        ...

    @property
    def until_loaded(self) -> float:
        """The estimated seconds until an engine can draw: the time of its last load; 0 while one can."""
        ...

    def watch(self, on_capacity: Callable[[], None]) -> None:
        """Call `on_capacity` on the event loop whenever the capacity has grown."""
        ...

    async def ready(self) -> None:
        """Wait until an engine is loaded and idle. Loads and replaces engines as often as needed."""
        ...

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: JobBatch | None = None
    ) -> tuple[VerifiedImage, ...]:
        """Draw, together with the other jobs of `batch`, which is released when their drawing has ended.

        Raises EngineFailure (a retry will not help), EngineCrashed and EngineStalled (it may). Cancelling the awaiting
        task stops the engine at its next step, or ends it after a grace period; in a batch the other jobs continue.
        """
        ...

    def show(self, job_id: str, wanted: bool) -> None:
        """Start or stop previews of a job; no effect for a job that is not drawn here."""
        ...

    async def unload(self) -> None:
        """Take the engine out of memory. `ready` loads it again."""
        ...

    async def stop(self) -> None: ...


def engine_state(executor: Executor) -> EngineState:
    """Return the state of the executor's own engine."""
    if executor.trouble:
        return "unavailable"
    if not executor.loaded:
        return "unloaded"
    return "ready" if executor.capacity else "loading"
