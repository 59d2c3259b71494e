"""Whether a model can draw a request that another model of the engine could."""

from collections.abc import Iterator

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineFailure
from umrgen.server.engines.diffusers.families import Family

__all__ = ["check_task"]


def _features(family: Family, request: GenerationRequest) -> Iterator[str]:
    if request.negative.strip() and "negative" not in family.features:
        yield "does not support negative prompts"
    if request.cfg is not None and "cfg" not in family.features:
        yield "has a fixed guidance scale: leave out cfg"
    if request.loras and not family.loras:
        yield "does not support LoRAs"


def _references(family: Family, count: int) -> Iterator[str]:
    if count and "references" not in family.features:
        yield "does not support reference images"
    if count > 1 and family.references != "list":
        yield f"takes one reference image; got {count}"
    if not count and family.references == "needed":
        yield "edits an image: give a reference image"


def _size(family: Family, request: GenerationRequest) -> Iterator[str]:
    multiple = family.size_multiple
    if request.width % multiple or request.height % multiple:
        yield f"draws multiples of {multiple} pixels; got {request.width} × {request.height}"


def check_task(family: Family, name: str, task: DrawTask) -> None:
    """Raise EngineFailure, with the model's name, for the first thing that the model does not support."""
    request = task.request
    for wrong in (*_features(family, request), *_references(family, len(task.references)), *_size(family, request)):
        raise EngineFailure(f"the model {name!r} {wrong}")
