"""The metadata of a finished file: how it was made, by which engine, for which job."""

import json
from dataclasses import asdict
from typing import Any

from umrgen import __version__
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineInfo

__all__ = ["cfg_of", "model_of", "parameters_text", "source_type", "text_chunks"]


ENGINE_FACTS = ("name", "kind", "version", "revision")


def model_of(request: GenerationRequest, info: EngineInfo) -> str | None:
    """Return the name of the model that draws the request; None for an engine that names none."""
    return request.model or (info.models[0] if info.models else None)


def cfg_of(request: GenerationRequest, info: EngineInfo) -> float | None:
    """Return the guidance scale of the request; None for an engine without one."""
    return info.default_cfg if request.cfg is None else request.cfg


def source_type(info: EngineInfo) -> str:
    """Return the IPTC digital source type: output of a trained model, or of an algorithm."""
    return "trainedAlgorithmicMedia" if info.kind == "model" else "algorithmicMedia"


def parameters_text(request: GenerationRequest, info: EngineInfo) -> str:
    """Return the settings in the form that most readers of generated images understand (A1111's)."""
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    settings: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": info.name,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": model_of(request, info) or info.name,
        "Version": f"UMRGEN {__version__}",
    }
    if (cfg := cfg_of(request, info)) is not None:
        settings["CFG scale"] = cfg
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def text_chunks(task: DrawTask, info: EngineInfo) -> dict[str, str]:
    """Return the PNG's text chunks by key: `parameters` for other tools, `umrgen` (JSON) with everything."""
    request = task.request
    own = {
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "steps": request.steps,
        "width": request.width,
        "height": request.height,
        "cfg": cfg_of(request, info),
        "model": model_of(request, info),
        "loras": [[lora.name, lora.strength] for lora in request.loras],
        "engine": {key: value for key, value in asdict(info).items() if key in ENGINE_FACTS},
        "job_id": task.job_id,
        "version": __version__,
    }
    return {"parameters": parameters_text(request, info), "umrgen": json.dumps(own, ensure_ascii=False)}
