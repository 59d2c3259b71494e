"""The engine: its options, and the drawing of one job."""

import asyncio
import logging
import shlex
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from umrgen.image_files import sniff
from umrgen.model import LIMITS
from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.engines import (
    Cancelled,
    DrawTask,
    EncodedImage,
    EngineCrashed,
    EngineFailure,
    EngineInfo,
    OutOfMemory,
    Phase,
    Report,
)
from umrgen.server.engines.foreign_text import is_out_of_memory
from umrgen.server.engines.remote_http import ServerUnreachable
from umrgen.server.engines.sdcpp.answers import JobStatus, SdCapabilities, SdJob
from umrgen.server.engines.sdcpp.process import SdProcess
from umrgen.server.engines.sdcpp.transport import SdClient, SdQueueFull

__all__ = ["SdServerEngine"]

log = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:1234"
SIZE_MULTIPLE = 16
"""The models' latent images are 8 or 16 times smaller."""
NO_GUIDANCE = 1.0
"""With a guidance scale up to this, the negative prompt has no effect."""
START_POLL = 0.1
"""Seconds between two tries to reach a process that loads its model."""
LORA_FOLDER = "--lora-model-dir"
"""Without it, each model file below the working directory is a LoRA for sd-server; an empty one has none."""
CANCEL_WAIT = 60.0
"""Seconds until a job that does not stop is left to itself."""


class SdServerEngine:
    """Implements `RemoteEngine` with an sd-server of stable-diffusion.cpp."""

    def __init__(
        self,
        *,
        url: str = "",
        model: str = "",
        binary: str = "sd-server",
        arguments: str | list[str] = "",
        capacity: int = 1,
        timeout: float = 30.0,
        poll_interval: float = 0.5,
    ) -> None:
        """`url`: a server that runs already. `model`: a file, for which `binary` is started with `arguments`.

        `capacity`: jobs that it has at a time. `timeout`: seconds for a call; `poll_interval`: seconds between two
        polls of a job. Raises ValueError, and EngineFailure for a file that is not there.
        """
        for name, number in (("timeout", timeout), ("poll_interval", poll_interval)):
            if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
                raise ValueError(f"{name} must be a number of seconds above 0; got {number!r}")
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= 64:
            raise ValueError(f"capacity must be 1 to 64; got {capacity!r}")
        if url and (model or arguments):
            raise ValueError("give url for a server that runs already, or model to start one, not both")
        if model and not Path(model).expanduser().is_file():
            raise EngineFailure(f"there is no file {Path(model).name!r} for the option model")
        given = shlex.split(arguments) if isinstance(arguments, str) else [str(part) for part in arguments]
        self._arguments = _arguments(model, given)
        self._binary = binary
        self._url = url or DEFAULT_URL
        self._timeout = timeout
        self._poll_interval = poll_interval
        self._capacity = capacity
        self._process: SdProcess | None = None
        self._client: SdClient | None = None
        self._capabilities: SdCapabilities | None = None
        self._loading = asyncio.Lock()

    @property
    def info(self) -> EngineInfo:
        assert self._capabilities is not None
        return _describe(self._capabilities)

    @property
    def capacity(self) -> int:
        return self._capacity if self._capabilities is not None else 0

    async def load(self, on_capacity: Callable[[], None]) -> None:
        """Start sd-server if it is started here, and wait until it has loaded its model. Raises EngineFailure."""
        async with self._loading:
            await self._load()

    async def _load(self) -> SdClient:
        if self._arguments and (self._process is None or self._process.code is not None):
            await self._stop()
            self._process = await SdProcess.start(self._binary, self._arguments)
            self._url = self._process.url
        if self._client is None:
            self._client = SdClient(self._url, self._timeout)
        self._capabilities = await self._reach(self._client)
        return self._client

    async def _loaded(self) -> SdClient:
        """Return the client; start the process again if it was unloaded."""
        async with self._loading:
            return self._client or await self._load()

    async def _reach(self, client: SdClient) -> SdCapabilities:
        while True:
            try:
                return await client.capabilities()
            except ServerUnreachable:
                if self._process is None:
                    raise
                if self._process.code is not None:
                    raise EngineFailure(
                        f"sd-server ended with code {self._process.code} while it loaded the model; "
                        "the log has its output"
                    ) from None
            await asyncio.sleep(START_POLL)

    async def draw(self, task: DrawTask, report: Report) -> list[EncodedImage]:
        """Raises EngineFailure, OutOfMemory and EngineCrashed."""
        report.phase(Phase.LOADING)
        client = await self._loaded()
        assert self._capabilities is not None
        job_id = await self._submit(client, _request(task, self._capabilities))
        try:
            images = _images(await self._wait(client, job_id), task)
            for step in range(1, task.request.steps + 1):  # sd-server reports no steps
                report(step, task.request.steps)
            return images
        except (asyncio.CancelledError, Cancelled):
            await self._cancel(client, job_id)
            raise

    async def _submit(self, client: SdClient, request: dict[str, Any]) -> str:
        """Submit a job, as soon as the server's queue has a place."""
        while True:
            submitting = asyncio.ensure_future(client.submit(request))
            try:
                return await asyncio.shield(submitting)
            except SdQueueFull:
                await asyncio.sleep(self._poll_interval)
            except asyncio.CancelledError:
                with suppress(SdQueueFull, EngineFailure, EngineCrashed):
                    await self._cancel(client, await submitting)  # its id is known only now
                raise

    async def _wait(self, client: SdClient, job_id: str) -> SdJob:
        """Return a job that is over."""
        while True:
            job = await client.job(job_id)
            if job is None:
                raise EngineCrashed("sd-server does not have the job any more: it was restarted")
            if job.status not in (JobStatus.QUEUED, JobStatus.GENERATING):
                return job
            await asyncio.sleep(self._poll_interval)

    async def _cancel(self, client: SdClient, job_id: str) -> None:
        """Cancel a job, and wait until it is over: one that is drawn already goes on to its end in most versions."""
        try:
            async with asyncio.timeout(CANCEL_WAIT):
                await client.cancel(job_id)
                await self._wait(client, job_id)
        except (EngineCrashed, TimeoutError) as error:
            log.warning("sd-server's job %s could not be stopped: %s", job_id, type(error).__name__)

    async def unload(self) -> None:
        """End the process that was started here; the next job starts it again."""
        async with self._loading:
            if self._process is not None:
                await self._stop()

    async def close(self) -> None:
        await self._stop()

    async def _stop(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._process is not None:
            await self._process.stop()
            self._process = None


def _arguments(model: str, given: list[str]) -> list[str]:
    """Return the arguments of the process; none if none is started here."""
    arguments = [*_model_arguments(model, given), *given]
    return [*arguments, LORA_FOLDER, ""] if arguments and LORA_FOLDER not in given else arguments


def _model_arguments(model: str, given: list[str]) -> list[str]:
    """Return the arguments for the model: with a text encoder or a VAE of its own, it is a diffusion model only."""
    if not model:
        return []
    parts = {"--vae", "--llm", "--t5xxl", "--clip_l", "--clip_g", "--tae", "--taesd"}
    return ["--diffusion-model" if parts & set(given) else "--model", str(Path(model).expanduser())]


def _describe(found: SdCapabilities) -> EngineInfo:
    there = {
        "references": "ref_images" in found.features,
        "negative": found.cfg > NO_GUIDANCE,
        "loras": "lora" in found.features and bool(found.loras),
        "cfg": True,
    }
    low, high = found.sides
    return EngineInfo(
        name="sdcpp",
        kind="model",
        version="",
        revision=found.model,
        size_multiple=SIZE_MULTIPLE,
        min_side=max(LIMITS.side_min, low),
        max_side=min(LIMITS.side_max, high),
        default_steps=max(1, min(found.steps, LIMITS.steps_max)),
        default_cfg=found.cfg,
        features=tuple(name for name, supported in there.items() if supported),
        loras=tuple(found.loras),
        notes=(f"sd-server with the model {found.model}",),
    )


def _request(task: DrawTask, found: SdCapabilities) -> dict[str, Any]:
    """Return the body of a job. LoRAs are named by the path that the server has for them."""
    request = task.request
    cfg = found.cfg if request.cfg is None else request.cfg
    unknown = [lora.name for lora in request.loras if lora.name not in found.loras]
    if unknown:
        raise EngineFailure(f"sd-server has no LoRA {unknown[0]!r}")
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative,
        "width": request.width,
        "height": request.height,
        "seed": request.seed,
        "batch_count": 1,
        "sample_params": {"sample_steps": request.steps, "guidance": {"txt_cfg": cfg}},
        "lora": [{"path": found.loras[lora.name], "multiplier": lora.strength} for lora in request.loras],
        "ref_images": [b64encode(image).decode() for image in task.references],
        "output_format": "png",
    }


def _images(job: SdJob, task: DrawTask) -> list[EncodedImage]:
    """Return the images of a job that is over. Raises EngineFailure and OutOfMemory."""
    request = task.request
    if job.status is JobStatus.CANCELLED:
        raise EngineFailure("the job was cancelled in sd-server")
    if job.status is JobStatus.FAILED and is_out_of_memory("", job.error):
        size = f"{request.width} x {request.height}"
        raise OutOfMemory(f"sd-server has too little memory; lower width and height ({size})")
    if job.status is JobStatus.FAILED:
        raise EngineFailure(f"sd-server: {job.error or 'it failed without a message'}; its log may have the reason")
    if not 1 <= len(job.images) <= MAX_IMAGES:
        raise EngineFailure(f"sd-server returned {len(job.images)} images; a job may have 1 to {MAX_IMAGES}")
    return [EncodedImage(data, sniff(data[:16]) or "image/png") for data in job.images]
