"""The arguments of the process that is connected to Ray, and of the actors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from umrgen import __version__
from umrgen.server.executors.frames import Frame

__all__ = ["EngineSpec", "RaySpec", "checked"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine of an actor."""

    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    """The limit of its memory in MiB; 0: none."""
    signing: str = "null"
    """`SigningOptions` as JSON."""
    watermark: str = ""
    """The class of the watermark, as `module:Class`; "" without one."""


@dataclass(frozen=True, slots=True)
class RaySpec:
    """A cluster, and the actors there."""

    address: str
    resources: Mapping[str, float]
    """What each actor takes of a node, by name: GPU, CPU, or a resource of the operator."""
    engine: EngineSpec

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RaySpec":
        spec = json.loads(text)
        return cls(spec["address"], spec["resources"], EngineSpec(**spec["engine"]))


def checked(frame: Frame) -> Frame:
    """Replace the first message of a node with another version of UMRGEN, whose further messages may differ."""
    head, _ = frame
    if head["is"] == "placed" and head.get("version") != __version__:
        error = f"the node {head.get('node')} has umrgen {head.get('version')}; this server has {__version__}"
        return {"is": "unavailable", "error": error}, b""
    return frame
