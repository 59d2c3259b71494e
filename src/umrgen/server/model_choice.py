"""The choice of an engine by the name of a model: `umrgen serve --model NAME`."""

import re
from dataclasses import dataclass
from pathlib import Path

from umrgen.errors import UmrgenError

__all__ = ["ModelChoice", "UnknownModel", "choose"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FORMS = "Give a hub name (owner/name), a diffusers folder, a .safetensors or .gguf file, or the URL of a ComfyUI."


class UnknownModel(UmrgenError):
    """No engine is known for this model."""

    code = "unknown_model"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The engine that can draw with a model, the engine's option that names it, and why."""

    engine: str
    option: str
    """"": the engine needs none."""
    reason: str


def choose(model: str) -> ModelChoice:
    """Return the engine for `model`. Raises UnknownModel."""
    path = Path(model).expanduser()
    if model == "procedural":
        return ModelChoice("procedural", "", "it draws without a model")
    if model.startswith(("http://", "https://")):
        return ModelChoice("comfyui", "url", "the URL is that of a ComfyUI")
    if path.suffix == ".gguf":
        return ModelChoice("sdcpp", "model", "a .gguf file is a model of stable-diffusion.cpp")
    if path.suffix == ".safetensors":
        return ModelChoice("diffusers", "model", "diffusers loads single .safetensors files")
    if (path / "model_index.json").is_file():
        return ModelChoice("diffusers", "model", "the folder has diffusers' model_index.json")
    if path.exists():
        raise UnknownModel(f"{model!r} is no model: a diffusers folder has a model_index.json", next=_FORMS)
    if _HUB_NAME.fullmatch(model):
        return ModelChoice("diffusers", "model", "the name is that of a model on the hub, which diffusers loads")
    raise UnknownModel(f"{model!r} is not there, and not the name of a model on the hub", next=_FORMS)
