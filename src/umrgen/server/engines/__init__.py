"""Engines: what draws. One file per engine; the worker process picks one from `ENGINES`.

An engine sees a `DrawRequest` and gives back pixels. It never sees the ledger, HTTP or a file name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    """RGB, shape (height, width, 3), row by row from the top."""

__all__ = ["ENGINES", "Cancelled", "DrawRequest", "Engine", "EngineFailure", "EngineInfo", "Report", "load_engine"]

ENGINES: Mapping[str, str] = {
    "procedural": "umrgen.server.engines.procedural:ProceduralEngine",
}


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can do; `kind` is "procedural" or "model"."""

    name: str
    kind: str
    version: str
    size_multiple: int = 1
    max_steps: int = 50
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """One picture to draw. `seed` is always set; `references` are encoded images (PNG, JPEG, WebP)."""

    prompt: str
    width: int
    height: int
    steps: int
    seed: int
    negative: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    references: tuple[bytes, ...] = ()


class Cancelled(Exception):
    """Raised by `Report` inside an engine whose job is no longer wanted."""


class EngineFailure(Exception):
    """The engine cannot draw this; the message is for the user and names no path."""


Report = Callable[[int, int, "Callable[[], Pixels] | None"], None]
"""`report(step, total, preview)` after each step, with 0 ≤ step ≤ total; `preview`, if given, is called
only when somebody wants to see it. Raises `Cancelled`."""


class Engine(Protocol):
    """Loaded once per process, then draws one request at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def load(self) -> None:
        """Get ready (load weights, warm up). Raises EngineFailure with what to do."""
        ...

    def draw(self, request: DrawRequest, report: Report) -> "Pixels":
        """Draw, calling `report` after each of `request.steps` steps.

        Raises Cancelled (through `report`) and EngineFailure.
        """
        ...


def load_engine(name: str, options: Mapping[str, Any]) -> Engine:
    """The engine called `name`, made but not yet loaded. Raises EngineFailure for an unknown name.

    An engine of one's own is named `module:Class`.
    """
    place = ENGINES.get(name, name)
    module, _, attribute = place.partition(":")
    if not attribute:
        raise EngineFailure(f"there is no engine {name!r}; there are: {', '.join(sorted(ENGINES))}")
    try:
        made: Engine = getattr(import_module(module), attribute)(**options)
    except (ImportError, AttributeError) as error:
        raise EngineFailure(f"the engine {name!r} cannot be imported: {error}") from None
    return made
