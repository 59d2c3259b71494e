"""The provenance record of an image that an engine made."""

import hashlib

from umrgen import __version__
from umrgen.provenance import Provenance
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineInfo

__all__ = ["record_of"]


def record_of(task: DrawTask, info: EngineInfo, batch: int = 1) -> Provenance:
    """Return the record: the only place that decides what a file states. `batch`: the images drawn together."""
    request = task.request
    return Provenance(
        source_type="trainedAlgorithmicMedia" if info.kind == "model" else "algorithmicMedia",
        version=__version__,
        engine=info.name,
        engine_version=info.version,
        model=request.model or (info.models[0] if info.models else None),
        revision=info.revision,
        prompt=request.prompt if task.with_prompt else None,
        negative=request.negative or None if task.with_prompt else None,
        seed=request.seed,
        steps=request.steps,
        cfg=_cfg(request, info),
        width=request.width,
        height=request.height,
        loras=tuple((lora.name, lora.strength) for lora in request.loras),
        references=tuple(hashlib.sha256(image).hexdigest() for image in task.references),
        batch=batch,
        job_id=task.job_id,
        created_at=task.created_at or None,
    )


def _cfg(request: GenerationRequest, info: EngineInfo) -> float | None:
    """Return the guidance scale of the request; None for an engine without one."""
    return info.default_cfg if request.cfg is None else request.cfg
