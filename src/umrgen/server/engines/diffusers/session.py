"""A loaded model that draws: prompts, LoRAs, references, batches and memory, together."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineFailure, Phase
from umrgen.server.engines.diffusers.batches import BatchCaps, measure, split
from umrgen.server.engines.diffusers.drawing import BatchedTask, StepWatch, generators, pixels, run
from umrgen.server.engines.diffusers.families import Family
from umrgen.server.engines.diffusers.loaded import LoadedModel
from umrgen.server.engines.diffusers.loras import LoraSet
from umrgen.server.engines.diffusers.memory import alone, fitting
from umrgen.server.engines.diffusers.model_limits import check_task
from umrgen.server.engines.diffusers.options import DiffusersOptions, Size
from umrgen.server.engines.diffusers.plan import Plan
from umrgen.server.engines.diffusers.previews import LatentPreview, fit
from umrgen.server.engines.diffusers.prompts import PromptCache
from umrgen.server.engines.diffusers.references import cover, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umrgen.server.engines import Drawn

__all__ = ["ModelSession"]

WARM_STEPS = 2
WARM_PROMPT = "a lighthouse on a cliff"


class _Silent:
    """Implements `Report` for the warm-up."""

    def __call__(self, step: int, total: int, preview: object = None, /) -> None:
        """Report nothing."""

    def phase(self, phase: Phase, /) -> None:
        """Report nothing."""

    def together(self, images: int, /) -> None:
        """Report nothing."""


class ModelSession:
    """Draws tasks with one loaded model."""

    def __init__(self, model: LoadedModel, options: DiffusersOptions, loras: "Mapping[str, Path]") -> None:
        self._model = model
        self._options = options
        self._loras = LoraSet(model.pipeline, loras)
        self.prompts = PromptCache(model.files.family, model.plan.device)
        self._preview = self._fit() if options.preview_every else None
        self.caps = BatchCaps(model.plan.max_batch)

    @property
    def family(self) -> Family:
        return self._model.files.family

    @property
    def name(self) -> str:
        """The name of the model, as in requests."""
        return self._model.files.name

    @property
    def revision(self) -> str:
        return self._model.files.revision

    @property
    def plan(self) -> Plan:
        """The choices that were made when the model was loaded."""
        return self._model.plan

    @property
    def has_previews(self) -> bool:
        return self._preview is not None

    def _fit(self) -> LatentPreview | None:
        """Fit the previews, unless weights are offloaded: then the VAE is not on its device."""
        return fit(self._model.pipeline, self.family.packed) if self._model.plan.offload == "none" else None

    # --- warm-up ---

    def warm_up(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw each of the stated sizes, so that compiling happens here, and measure which batches gain."""
        if self.family.references == "needed":
            return
        for size in self._model.plan.sizes:
            self._warm(size, 1)
        if self._model.plan.device.startswith("cuda"):
            caps = {size: self._measured(size, clock) for size in self._model.plan.sizes}
            self.caps = BatchCaps(self._model.plan.max_batch, caps)

    def _measured(self, size: Size, clock: Callable[[], float]) -> int:
        return measure(lambda count: self._warm(size, count), self._model.plan.max_batch, clock)

    def _warm(self, size: Size, count: int) -> bool:
        """Draw images of a size; return False if they do not fit in memory."""
        request = GenerationRequest(WARM_PROMPT, 1, width=size[0], height=size[1], steps=WARM_STEPS)
        jobs = [BatchedTask(DrawTask("warm-up", request), _Silent()) for _ in range(count)]
        return fitting(lambda: self._call(jobs)) is not None

    # --- drawing ---

    def draw(self, jobs: Sequence[BatchedTask]) -> "list[Drawn]":
        """Return the result of each job of a batch."""
        request = jobs[0].task.request
        try:
            check_task(self.family, self.name, jobs[0].task)
            self._loras.use(request.loras)
        except EngineFailure as failure:
            return [failure for _ in jobs]
        cap = 1 if jobs[0].task.references else self.caps.of((request.width, request.height))
        for batch in split(jobs, cap):
            self._draw(batch)
        return [job.result for job in jobs if job.result is not None]

    def _draw(self, jobs: Sequence[BatchedTask]) -> None:
        """Draw a batch; halve it when it does not fit, down to single jobs with the memory ladder."""
        jobs = [job for job in jobs if job.result is None]
        if len(jobs) > 1 and fitting(lambda: self._call(jobs)) is None:
            for half in split(jobs, (len(jobs) + 1) // 2):
                self._draw(half)
        elif len(jobs) == 1:
            self._draw_alone(jobs[0])

    def _draw_alone(self, job: BatchedTask) -> None:
        try:
            alone(self._model, lambda: self._call([job]))
        except EngineFailure as failure:
            job.result = failure

    def _call(self, jobs: Sequence[BatchedTask]) -> bool:
        """Call the pipeline, and set the results of the jobs that were not cancelled. Return True."""
        task = jobs[0].task
        pipeline = self._pipeline(task)
        if self._preview is not None:
            self._preview.size = (task.request.width, task.request.height)
        watch = StepWatch(jobs, self._preview, self._options.preview_every)
        images = run(pipeline, watch, self._arguments(pipeline, jobs))
        for number, job in enumerate(jobs):
            if job.result is None:
                job.report.together(len(jobs))
                job.result = _result(images[number])
        return True

    def _pipeline(self, task: DrawTask) -> Any:
        uses_image = task.references and not self.family.references
        return self._model.image_pipeline if uses_image else self._model.pipeline

    def _guidance(self, request: GenerationRequest) -> float | None:
        own = self.family.guidance if self._options.cfg is None or self.family.distilled else self._options.cfg
        return own if request.cfg is None else request.cfg

    def _arguments(self, pipeline: Any, jobs: Sequence[BatchedTask]) -> dict[str, Any]:
        """Return the arguments of the call, all by name, each list new."""
        request, guidance = jobs[0].task.request, self._guidance(jobs[0].task.request)
        guided = guidance is not None and guidance > self.family.guided_above and not self.family.distilled
        texts = [(job.task.request.prompt, job.task.request.negative) for job in jobs]
        arguments = self.prompts.arguments(pipeline, texts, guided, request.loras) | {
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.steps,
            "generator": generators(jobs),
            "max_area": request.width * request.height,
            **self._images(jobs[0].task),
        }
        if self.family.guidance_name and guidance is not None:
            arguments[self.family.guidance_name] = guidance
        return arguments

    def _images(self, task: DrawTask) -> dict[str, Any]:
        """Return the arguments for the reference images. Raises EngineFailure for one that cannot be decoded."""
        images = [decode(data) for data in task.references]
        if not images:
            return {}
        if self.family.references == "list":
            return {"image": images}
        if self.family.references:
            return {"image": images[0]}
        size = task.request.width, task.request.height
        return {"image": cover(images[0], *size), "strength": self._options.strength}


def _result(image: Any) -> "Drawn":
    try:
        return [pixels(image)]
    except EngineFailure as failure:
        return failure
