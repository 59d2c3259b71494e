"""The description of an engine, and whether it can draw a request exactly: the server rounds and drops no value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from umrgen.model import LIMITS
from umrgen.server.domain.request import GenerationRequest

__all__ = ["EngineInfo", "unsupported"]

Error = tuple[str, str]
"""The name of a request's parameter, and what is wrong with its value."""
LISTED = 20
"""Names in an error text."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The name and the features of an engine; `kind` is "procedural" or "model"."""

    name: str
    kind: str
    version: str
    size_multiple: int = 1
    """Width and height must be multiples of this."""
    max_steps: int = LIMITS.steps_max
    default_steps: int = LIMITS.steps_default
    """The steps of a request that gives none."""
    features: tuple[str, ...] = ()
    """Of "previews", "references", "negative", "loras", "cfg"; a request that needs another one is refused."""
    min_side: int = LIMITS.side_min
    """Width and height are at least this."""
    max_side: int = LIMITS.side_max
    """Width and height are at most this."""
    models: tuple[str, ...] = ()
    """The names that a request may give as its model; the first is the default. Empty: a request can give none."""
    loras: tuple[str, ...] = ()
    """The names of the LoRAs that it has; with the feature "loras" and no names, any name is accepted."""
    min_steps: int = 1
    default_cfg: float | None = None
    """The guidance scale of a request that gives none."""
    revision: str = ""
    """The revision or the digest of the model's files, for the provenance of the images."""
    notes: tuple[str, ...] = ()
    """What the operator should know, as `umrgen engine check` prints it: the choices made when it was loaded."""
    max_batch: int = 1
    """The number of tasks that `draw_batch` draws together; with 1 the engine needs no such method."""
    model_steps: Mapping[str, int] = field(default_factory=dict)
    """The steps of a request that gives none but one of these models; for others, `default_steps`."""

    def steps_of(self, model: str | None) -> int:
        """Return the steps of a request that gives this model, and no steps."""
        return self.model_steps.get(model or "", self.default_steps)


def unsupported(info: EngineInfo, request: GenerationRequest) -> list[Error]:
    """Return the parameters that the engine does not support, and what it does support."""
    return [*_numbers(info, request), *_features(info, request), *_names(info, request)]


def _numbers(info: EngineInfo, request: GenerationRequest) -> Iterator[Error]:
    for name, side in (("width", request.width), ("height", request.height)):
        if side % info.size_multiple:
            yield name, f"must be a multiple of {info.size_multiple} with this engine; got {side}"
        if not info.min_side <= side <= info.max_side:
            yield name, f"must be {info.min_side} to {info.max_side} with this engine; got {side}"
    if not info.min_steps <= request.steps <= info.max_steps:
        yield "steps", f"must be {info.min_steps} to {info.max_steps} with this engine; got {request.steps}"


def _features(info: EngineInfo, request: GenerationRequest) -> Iterator[Error]:
    """Yield the parameters that the engine would ignore."""
    needed = (
        ("loras", bool(request.loras), "loras", "LoRAs"),
        ("reference_images", bool(request.reference_images), "references", "reference images"),
        ("negative", bool(request.negative.strip()), "negative", "negative prompts"),
        ("cfg", request.cfg is not None, "cfg", "a guidance scale"),
    )
    for name, given, feature, words in needed:
        if given and feature not in info.features:
            yield name, f"this engine does not support {words}"


def _names(info: EngineInfo, request: GenerationRequest) -> Iterator[Error]:
    """Yield the names of a model and of a LoRA that the engine does not have."""
    if request.model is not None and request.model not in info.models:
        has = f"it has {_listed(info.models)}" if info.models else "a request cannot choose one"
        yield "model", f"this engine has no model {request.model!r}; {has}"
    if info.loras and (unknown := [lora.name for lora in request.loras if lora.name not in info.loras]):
        yield "loras", f"this engine has no LoRA {unknown[0]!r}; it has {_listed(info.loras)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
