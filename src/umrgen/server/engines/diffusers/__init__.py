"""Models of the diffusers library, in the engine's own process: Z-Image, FLUX.2, Qwen-Image, SDXL and others.

This module imports no framework; `load` does.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from umrgen.server.engines import DrawTask, EngineFailure, EngineInfo, Phase, Report
from umrgen.server.engines.diffusers.allocation import released
from umrgen.server.engines.diffusers.drawing import BatchedTask
from umrgen.server.engines.diffusers.info import engine_info
from umrgen.server.engines.diffusers.loaded import load_model
from umrgen.server.engines.diffusers.loras import lora_files
from umrgen.server.engines.diffusers.model_files import find
from umrgen.server.engines.diffusers.options import check
from umrgen.server.engines.diffusers.plan import Machine, Plan, machine_here, plan
from umrgen.server.engines.diffusers.session import ModelSession

if TYPE_CHECKING:
    from umrgen.server.engines import Drawn, EncodedImage, Pixels

__all__ = ["DiffusersEngine"]

NOT_INSTALLED = "the diffusers engine needs torch and diffusers: pip install 'umrgen[server,diffusers]'"


def _say(line: str) -> None:
    """Write a line into the server's log."""
    print(f"diffusers engine: {line}", file=sys.stderr, flush=True)


class DiffusersEngine:
    """Draws with one model at a time, of those that the operator allows."""

    def __init__(
        self,
        *,
        model: str = "",
        models: Mapping[str, str] | None = None,
        config: str | None = None,
        revision: str | None = None,
        loras: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        devices: str | Sequence[str] = (),
        offload: str = "auto",
        attention: str = "auto",
        compile: str | bool = "auto",
        max_batch: int | None = None,
        sizes: str | Sequence[str] | None = None,
        preview_every: int = 1,
        steps: int | None = None,
        cfg: float | None = None,
        strength: float = 0.6,
    ) -> None:
        """Check the options, which docs/engines-diffusers.md describes, and examine the files of all models.

        Raises ValueError, with the refused value, for a wrong option, and EngineFailure for a model that is not on
        this machine, is of an unknown family, or could execute code.
        """
        self._options = check(
            model=model,
            models=models,
            config=config,
            revision=revision,
            loras=loras,
            dtype=dtype,
            device=device,
            devices=devices,
            offload=offload,
            attention=attention,
            compile=compile,
            max_batch=max_batch,
            sizes=sizes,
            preview_every=preview_every,
            steps=steps,
            cfg=cfg,
            strength=strength,
        )
        options = self._options
        self._files = {
            name: find(name, source, config=options.config, revision=options.revision)
            for name, source in options.models.items()
        }
        self._loras = lora_files(options.loras)
        self.info = EngineInfo("diffusers", "model", "")
        self._machine: Machine | None = None
        self._session: ModelSession | None = None

    def load(self) -> None:
        """Load the first model, and warm up. Raises EngineFailure."""
        os.environ["HF_HUB_OFFLINE"] = (
            "1"  # read when the hub's library is imported; files are read from this machine only
        )
        self._machine = self._machine_here()
        self._switch(self._default)

    def draw(self, task: DrawTask, report: Report) -> "Sequence[Pixels | EncodedImage]":
        """See `Engine.draw`: a batch of one."""
        (result,) = self.draw_batch([task], [report])
        if isinstance(result, Exception):
            raise result
        return result

    def draw_batch(self, tasks: Sequence[DrawTask], reports: Sequence[Report]) -> "Sequence[Drawn]":
        """See `BatchEngine.draw_batch`."""
        jobs = [BatchedTask(task, report) for task, report in zip(tasks, reports, strict=True)]
        try:
            return self._ready(tasks[0].request.model or self._default, jobs).draw(jobs)
        except EngineFailure as failure:
            return [failure for _ in tasks]

    def plans(self) -> dict[str, Plan]:
        """Return how each model would be loaded on this machine. It loads none. Raises EngineFailure."""
        machine = self._machine_here()
        return {name: plan(files, self._options, machine) for name, files in self._files.items()}

    @property
    def _default(self) -> str:
        return next(iter(self._files))

    def _machine_here(self) -> Machine:
        """Return this process's device. Raises EngineFailure."""
        try:
            number = int(os.environ.get("UMRGEN_DEVICE", "0"))
            return machine_here(self._options.device(number), number)
        except ImportError:
            raise EngineFailure(NOT_INSTALLED) from None
        except ValueError as error:
            raise EngineFailure(str(error)) from None

    def _ready(self, name: str, jobs: Sequence[BatchedTask]) -> ModelSession:
        """Return the session of a model, which is loaded if it is not. Raises EngineFailure."""
        if name not in self._files:
            raise EngineFailure(f"there is no model {name!r}; there are: {', '.join(self._files)}")
        if self._session is not None and self._session.name == name:
            return self._session
        for job in jobs:
            job.phase(Phase.LOADING)
        return self._switch(name)

    def _switch(self, name: str) -> ModelSession:
        """Load a model; the one before is released first, because two may not fit. Raises EngineFailure."""
        assert self._machine is not None  # `load` has set it
        self._session = None
        released()
        began = time.monotonic()
        session = ModelSession(load_model(self._files[name], self._options, self._machine), self._options, self._loras)
        loaded = time.monotonic()
        session.warm_up()
        _say(f"{name}: loaded in {loaded - began:.1f} s, warm-up in {time.monotonic() - loaded:.1f} s")
        if session.caps.line():
            _say(session.caps.line())
        self._session = session
        self.info = engine_info(list(self._files.values()), self._options, session, tuple(self._loras))
        return session
