"""A fake engine: its images, durations and failures are options."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from umrgen.image_files import sniff
from umrgen.testing.clock import ServerClock
from umrgen.testing.png import png_bytes

if TYPE_CHECKING:
    from umrgen.server.engines import DrawTask, EncodedImage, EngineInfo, Report

__all__ = ["Failing", "FakeEngine", "Images", "Seconds", "noise"]

Seconds = float | Callable[[int], float]
"""How long a job runs, or a function of the job's index; math.inf: until it is cancelled."""
Failing = str | Mapping[int, str] | Callable[[int], str | bool | None] | None
"""Why jobs fail: all of them, those with some indexes, or those for which a function returns a reason or True."""
Images = bytes | Callable[[int, int], bytes]
"""The image, or a function of the job's index and the image's number: PNG, JPEG or WebP."""


def noise(index: int, number: int) -> bytes:
    """Return a small PNG, another for each job and number."""
    return png_bytes(seed=index * 1000 + number)


class FakeEngine:
    """An engine that runs in the server's process and draws nothing. Implements `umrgen.server.engines.RemoteEngine`.

    The index of a job counts jobs from 0 in the order of their first start. An exception in a function of yours is
    kept in `errors`, and fails the job.
    """

    def __init__(
        self,
        *,
        seconds: Seconds = 0.0,
        fail: Failing = None,
        image: Images = noise,
        images: int = 1,
        capacity: int = 1,
        clock: ServerClock | None = None,
    ) -> None:
        """`images` per job, 1 to 8; `capacity`: jobs that run at a time; `clock`: by which jobs run (real time)."""
        self.capacity = capacity
        self.errors: list[Exception] = []
        self._seconds, self._fail, self._image, self._images = seconds, fail, image, images
        self._clock = clock
        self._indexes: dict[str, int] = {}
        self._ends: dict[str, float] = {}

    # --- what the options say ---

    def seconds(self, index: int) -> float:
        """Return how long a job runs."""
        return self._seconds(index) if callable(self._seconds) else self._seconds

    def failure(self, index: int) -> str | None:
        """Return why a job fails; None when it succeeds."""
        if isinstance(self._fail, Mapping):
            return self._fail.get(index)
        reason = self._fail(index) if callable(self._fail) else self._fail
        return "the engine failed" if reason is True else reason or None

    @property
    def draws(self) -> Images:
        """The image, or the function that returns it."""
        return self._image

    def images(self, index: int) -> list[bytes]:
        """Return a job's images."""
        image = self._image
        return [image(index, number) if callable(image) else image for number in range(self._images)]

    # --- RemoteEngine ---

    @property
    def info(self) -> "EngineInfo":
        from umrgen.server.engines import EngineInfo

        return EngineInfo(
            "fake", "procedural", "1", features=("references", "negative", "loras", "cfg"), models=("base", "large")
        )

    async def load(self, on_capacity: Callable[[], None]) -> None:
        self._clock = self._clock or ServerClock()

    async def draw(self, task: "DrawTask", report: "Report") -> "list[EncodedImage]":
        from umrgen.server.engines import EngineFailure

        index = self._indexes.setdefault(task.job_id, len(self._indexes))
        try:
            await self._run(task, self.seconds(index), report)
            reason = self.failure(index)
            if reason is None:
                return _encoded(self.images(index))
        except Exception as error:
            self.errors.append(error)
            reason = f"an option of FakeEngine raised {type(error).__name__}"
        raise EngineFailure(reason)

    async def _run(self, task: "DrawTask", seconds: float, report: "Report") -> None:
        assert self._clock is not None
        clock, steps = self._clock, task.request.steps
        start = clock.monotonic()
        self._ends[task.job_id] = start + seconds
        try:
            for step in range(1, steps + 1):
                await clock.sleep(start + seconds * step / steps - clock.monotonic())
                report(step, steps)
        finally:
            del self._ends[task.job_id]

    async def close(self) -> None:
        """Nothing to close."""

    @property
    def running(self) -> int:
        """The number of running jobs that are not due to end yet."""
        return 0 if self._clock is None else sum(end > self._clock.monotonic() for end in self._ends.values())


def _encoded(images: list[bytes]) -> "list[EncodedImage]":
    from umrgen.server.engines import EncodedImage

    return [EncodedImage(data, sniff(data) or "application/octet-stream", final=True) for data in images]
