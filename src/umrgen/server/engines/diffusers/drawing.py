"""One call of a pipeline: its arguments, progress and cancellation in each step, and the images as pixels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from umrgen.server.engines import Cancelled, DrawTask, EngineFailure, Phase, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Drawn, Pixels

__all__ = ["BatchedTask", "StepWatch", "generators", "pixels", "run"]

NO_IMAGE = "the model returned no image (NaN); try another dtype, or other parameters"
Preview = Callable[[Any, int], "Pixels"]
"""Returns the unfinished image number n of a step's latents."""


class BatchedTask:
    """A task in a batch, its report, and how it ended if it did."""

    def __init__(self, task: DrawTask, report: Report) -> None:
        self.task = task
        self.report = report
        self.result: Drawn | None = None

    def step(self, step: int, total: int, preview: Callable[[], "Pixels"] | None) -> None:
        """Report a step, and observe a cancellation. A cancelled job is drawn on with its batch, without reports."""
        self._observe(lambda: self.report(step, total, preview))

    def phase(self, phase: Phase) -> None:
        """Report a phase, and observe a cancellation."""
        self._observe(lambda: self.report.phase(phase))

    def _observe(self, report: Callable[[], None]) -> None:
        if self.result is None:
            try:
                report()
            except Cancelled as cancelled:
                self.result = cancelled


class AllEnded(Exception):
    """Raised through the pipeline when every job of the batch is cancelled."""


def mark(latents: Any) -> Any:
    """Return an event of the GPU that ends when these latents are computed; None on other devices."""
    import torch

    if latents is None or not latents.is_cuda:
        return None
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(latents.device))
    return event


class StepWatch:
    """Reports the steps of a batch; raising is the only way to stop a pipeline without an image of noise.

    A GPU computes asynchronously: without waiting, the loop of a few steps would end while the first one is computed,
    and a cancellation would have no effect. The loop is kept one step ahead, so that the GPU is never idle.
    """

    def __init__(
        self,
        jobs: Sequence[BatchedTask],
        preview: Preview | None,
        every: int,
        mark: Callable[[Any], Any] = mark,
    ) -> None:
        self._jobs = jobs
        self._preview = preview
        self._every = every
        self._mark = mark
        self._newest: Any = None
        """The end of the newest step, which may not be computed yet."""

    def _keep_pace(self, latents: Any) -> None:
        """Wait until the step before this one is computed."""
        before, self._newest = self._newest, self._mark(latents)
        if before is not None:
            before.synchronize()

    def finished(self, step: int, total: int, latents: Any) -> None:
        """Report the step, counted from 1. Raises AllEnded."""
        self._keep_pace(latents)
        shown = self._preview is not None and latents is not None and step % self._every == 0
        for number, job in enumerate(self._jobs):
            job.step(step, total, partial(self._preview, latents, number) if shown and self._preview else None)
        if all(job.result is not None for job in self._jobs):
            raise AllEnded

    def callback(self, steps: int) -> Callable[..., dict[str, Any]]:
        """Return a `callback_on_step_end`. It returns no tensors, so that the pipeline keeps its own."""

        def on_step_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            total = getattr(pipeline, "num_timesteps", steps) or steps
            self.finished(step + 1, max(total, step + 1), tensors.get("latents"))
            return {}

        return on_step_end

    @contextmanager
    def wrapped(self, scheduler: Any, steps: int) -> Iterator[None]:
        """Report each `scheduler.step`, for a pipeline without a callback."""
        original, done = scheduler.step, 0

        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            result = original(*arguments, **named)
            done += 1
            self.finished(min(done, steps), steps, result[0] if isinstance(result, tuple) else None)
            return result

        scheduler.step = step
        try:
            yield
        finally:
            del scheduler.step


def generators(jobs: Sequence[BatchedTask]) -> list[Any]:
    """Return a generator for each job, on the CPU: a seed means the same on every device and in every batch."""
    import torch

    return [torch.Generator("cpu").manual_seed(job.task.request.seed) for job in jobs]


def run(pipeline: Any, watch: StepWatch, arguments: dict[str, Any]) -> Any:
    """Call the pipeline; return its images as a tensor, shape (n, 3, height, width), or None if all were cancelled.

    Arguments are passed by name: the first parameter of Flux2KleinPipeline is `image`.
    """
    import torch

    known = signature(pipeline.__call__).parameters
    steps = arguments["num_inference_steps"]
    given = {name: value for name, value in arguments.items() if name in known} | {"output_type": "pt"}
    try:
        with torch.inference_mode():
            if "callback_on_step_end" in known:
                return pipeline(**given, callback_on_step_end=watch.callback(steps)).images
            with watch.wrapped(pipeline.scheduler, steps):
                return pipeline(**given).images
    except AllEnded:
        pipeline.maybe_free_model_hooks()
        return None


def pixels(image: Any) -> "Pixels":
    """Return an image of values 0 to 1, shape (3, height, width), as pixels. Raises EngineFailure for NaN."""
    import torch

    image = image.float()
    if not torch.isfinite(image).all():
        raise EngineFailure(NO_IMAGE)
    whole = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    array: Pixels = whole.permute(1, 2, 0).contiguous().cpu().numpy()
    return array
