"""What a finished file says of itself: how it was made, by what, for which job."""

import json
from dataclasses import asdict
from typing import Any

from umrgen import __version__
from umrgen.server.engines import DrawRequest, EngineInfo

__all__ = ["parameters_text", "source_type", "text_chunks"]


def source_type(info: EngineInfo) -> str:
    """The IPTC digital source type: a trained model's output, or the pure result of an algorithm."""
    return "trainedAlgorithmicMedia" if info.kind == "model" else "algorithmicMedia"


def parameters_text(request: DrawRequest, info: EngineInfo) -> str:
    """The settings in the one form that readers of generated images have in common (A1111's)."""
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    settings: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": info.name,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": info.name,
        "Version": f"UMRGEN {__version__}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def text_chunks(request: DrawRequest, info: EngineInfo, job_id: str) -> dict[str, str]:
    """The PNG's text chunks by key: `parameters` for other tools, `umrgen` (JSON) with everything."""
    own = {
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "steps": request.steps,
        "width": request.width,
        "height": request.height,
        "loras": [list(lora) for lora in request.loras],
        "engine": {key: value for key, value in asdict(info).items() if key in ("name", "kind", "version")},
        "job_id": job_id,
        "version": __version__,
    }
    return {"parameters": parameters_text(request, info), "umrgen": json.dumps(own, ensure_ascii=False)}
