"""The diffusers engine with failures that prompts select: `too large` and `nan`."""

from collections.abc import Sequence
from typing import Any

from umrgen.server.engines.diffusers import DiffusersEngine
from umrgen.server.engines.diffusers.drawing import BatchedTask
from umrgen.server.engines.diffusers.session import ModelSession


class FailingSession(ModelSession):
    """Runs out of memory in each call with the prompt `too large`, and decodes NaN for `nan`."""

    def _call(self, jobs: Sequence[BatchedTask]) -> bool:
        vae: Any = self._model.pipeline.vae
        decode, prompts = vae.decode, [job.task.request.prompt for job in jobs]

        def failing(latents: Any, *arguments: Any, **named: Any) -> Any:
            import torch

            if "too large" in prompts:
                raise torch.OutOfMemoryError("CUDA out of memory")
            images = decode(latents, *arguments, **named)[0].clone()
            images[[prompt == "nan" for prompt in prompts]] = float("nan")
            return (images,)

        vae.decode = failing
        try:
            return super()._call(jobs)
        finally:
            del vae.decode


class FailingDiffusersEngine(DiffusersEngine):
    """A DiffusersEngine with a `FailingSession`."""

    def _switch(self, name: str) -> ModelSession:
        session = super()._switch(name)
        session.__class__ = FailingSession
        return session
