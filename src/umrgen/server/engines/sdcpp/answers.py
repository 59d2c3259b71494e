"""The responses of sd-server, parsed. Each function raises ValueError for a body that it does not send."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from umrgen.server.engines.foreign_text import first_line

__all__ = ["JobStatus", "SdCapabilities", "SdJob", "accepted", "capabilities", "job", "refusal"]


class JobStatus(StrEnum):
    """The status of a job."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SdJob:
    """A job."""

    status: JobStatus
    images: tuple[bytes, ...] = field(default=(), repr=False)
    error: str = ""
    """A short printable line without a path."""


@dataclass(frozen=True, slots=True)
class SdCapabilities:
    """The model, its defaults, and the limits of the server."""

    model: str
    steps: int
    cfg: float
    sides: tuple[int, int]
    """The smallest and the largest width and height."""
    features: frozenset[str]
    loras: Mapping[str, str] = field(repr=False)
    """The path of each LoRA, by its name."""


class _Model(Struct):
    name: str = ""
    stem: str = ""


class _Guidance(Struct, frozen=True):
    txt_cfg: float = 7.0


class _SampleParams(Struct, frozen=True):
    sample_steps: int = 20
    guidance: _Guidance = _Guidance()


class _Defaults(Struct, frozen=True):
    sample_params: _SampleParams = _SampleParams()


class _SdLora(Struct):
    name: str
    path: str


class _SdLimits(Struct, frozen=True):
    min_width: int = 64
    max_width: int = 4096
    min_height: int = 64
    max_height: int = 4096


class _Capabilities(Struct):
    model: _Model
    defaults: _Defaults = _Defaults()
    defaults_by_mode: dict[str, _Defaults] = {}
    features: dict[str, Any] = {}
    features_by_mode: dict[str, dict[str, Any]] = {}
    supported_modes: tuple[str, ...] = ("img_gen",)
    loras: list[_SdLora] = []
    limits: _SdLimits = _SdLimits()


class _SdAccepted(Struct):
    id: str


class _SdImage(Struct):
    index: int
    b64_json: str


class _SdResult(Struct):
    images: list[_SdImage] = []


class _SdError(Struct):
    code: str = ""
    message: str = ""


class _SdJob(Struct):
    status: JobStatus
    result: _SdResult | None = None
    error: _SdError | None = None


MODE = "img_gen"


def capabilities(body: bytes) -> SdCapabilities:
    """Return the capabilities for images."""
    found = msgspec.json.decode(body, type=_Capabilities)
    if MODE not in found.supported_modes:
        raise ValueError("the model draws no images")
    defaults = found.defaults_by_mode.get(MODE, found.defaults).sample_params
    features = found.features_by_mode.get(MODE, found.features)
    limits = found.limits
    return SdCapabilities(
        model=first_line(found.model.stem or found.model.name),
        steps=defaults.sample_steps,
        cfg=defaults.guidance.txt_cfg,
        sides=(max(limits.min_width, limits.min_height), min(limits.max_width, limits.max_height)),
        features=frozenset(name for name, there in features.items() if there is True),
        loras={lora.name: lora.path for lora in found.loras},
    )


def accepted(body: bytes) -> str:
    """Return the id of a job that was accepted."""
    found = msgspec.json.decode(body, type=_SdAccepted)
    if not found.id.replace("-", "").replace("_", "").isalnum():
        raise ValueError("the job has no valid id")  # it becomes a part of a path
    return found.id


def job(body: bytes) -> SdJob:
    """Return the state of a job, with its images in their order."""
    found = msgspec.json.decode(body, type=_SdJob)
    images = sorted(found.result.images, key=lambda image: image.index) if found.result else []
    error = first_line(found.error.message) or first_line(found.error.code) if found.error else ""
    return SdJob(found.status, tuple(b64decode(image.b64_json, validate=True) for image in images), error)


def refusal(body: bytes) -> str:
    """Return the reason why a job was refused; in some versions, `error` is an object."""
    found = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    message = found.get("message") if isinstance(found, dict) else found
    return first_line(message) if isinstance(message, str) else ""
