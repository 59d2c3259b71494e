"""Bindings: the inputs of a workflow that a request's parameters are written to, and the file that names them."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.comfyui.graph import InputTarget
from umrgen.text import printable

__all__ = ["Bindings", "override", "parse_bindings"]


@dataclass(frozen=True, slots=True)
class Bindings:
    """The inputs that each parameter is written to. Empty: the workflow's own value is used."""

    prompt: tuple[InputTarget, ...] = ()
    negative: tuple[InputTarget, ...] = ()
    seed: tuple[InputTarget, ...] = ()
    width: tuple[InputTarget, ...] = ()
    height: tuple[InputTarget, ...] = ()
    steps: tuple[InputTarget, ...] = ()
    cfg: tuple[InputTarget, ...] = ()
    model: tuple[InputTarget, ...] = ()
    references: tuple[InputTarget, ...] = ()
    """One input for each reference image, in their order."""
    loras: tuple[str, ...] = ()
    """The ids of LoRA loader nodes, one for each LoRA; one that a request does not use is left out of the graph."""
    samplers: tuple[str, ...] = ()
    """The nodes whose progress is the progress of the job."""
    seed_required: bool = True
    """False if the file states that the workflow has no seed."""
    models: tuple[str, ...] = ()
    """The models that a request may choose; empty: all that ComfyUI has for this input."""
    size_multiple: int | None = None
    max_steps: int | None = None

    def __str__(self) -> str:
        places = [f"{name} = {target}" for name, target in self.targets()]
        return ", ".join([*places, *(f"loras = {node}" for node in self.loras)])

    def targets(self) -> Iterator[tuple[str, InputTarget]]:
        """Yield the bound inputs with the names of their parameters."""
        for name in PARAMETERS:
            for target in getattr(self, name):
                yield name, target


PARAMETERS = ("prompt", "negative", "seed", "width", "height", "steps", "cfg", "model", "references")
_Places = str | list[str] | bool | None


class _BindingFile(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a binding file. An absent name is bound by the classes of the nodes; `false` unbinds it."""

    prompt: _Places = None
    negative: _Places = None
    seed: _Places = None
    width: _Places = None
    height: _Places = None
    steps: _Places = None
    cfg: _Places = None
    model: _Places = None
    references: _Places = None
    loras: _Places = None
    samplers: _Places = None
    models: list[str] = []
    size_multiple: Annotated[int, Meta(ge=1, le=512)] | None = None
    max_steps: Annotated[int, Meta(ge=1)] | None = None


def parse_bindings(data: bytes, *, json: bool) -> Mapping[str, Any]:
    """Return the changes that a binding file, TOML or JSON, makes to the bindings. Raises EngineFailure."""
    try:
        content = msgspec.json.decode(data) if json else tomllib.loads(data.decode())
        file = msgspec.convert(content, _BindingFile)
    except ValueError as error:
        raise EngineFailure(f"the binding file cannot be read: {printable(str(error), 200)}") from None
    changes: dict[str, Any] = {"models": tuple(file.models)}
    changes |= {name: value for name in ("size_multiple", "max_steps") if (value := getattr(file, name)) is not None}
    for name in ("loras", "samplers"):
        if (places := getattr(file, name)) is not None:
            changes[name] = tuple(_listed(name, places))
    for name in PARAMETERS:
        if (places := getattr(file, name)) is not None:
            changes[name] = tuple(_target(name, place) for place in _listed(name, places))
    if file.seed is False:
        changes["seed_required"] = False
    return changes


def override(bindings: Bindings, changes: Mapping[str, Any]) -> Bindings:
    return replace(bindings, **changes)


def _listed(name: str, places: str | list[str] | bool) -> list[str]:
    if places is True:
        raise EngineFailure(f"bindings: {name} = true has no meaning; give NODE.INPUT, a list of them, or false")
    return [] if places is False else [places] if isinstance(places, str) else places


def _target(name: str, place: str) -> InputTarget:
    node, dot, input_ = place.rpartition(".")
    if not (node and dot and input_):
        raise EngineFailure(f'bindings: {name} = {place!r} is not of the form NODE.INPUT, such as "6.text"')
    return InputTarget(node, input_)
