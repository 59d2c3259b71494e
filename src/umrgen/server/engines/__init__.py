"""Engines, which draw images. One file per engine, imported on use.

An engine gets a `DrawTask` and returns images. It has no access to the ledger, to HTTP or to file names. The server
imports an engine's module to read its class, so the module imports frameworks in `load`, not at its top.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from umrgen.server.domain.engine_info import EngineInfo
from umrgen.server.domain.request import GenerationRequest
from umrgen.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    """RGB, shape (height, width, 3), row by row from the top."""
    Drawn: TypeAlias = Sequence["Pixels | EncodedImage"] | "EngineFailure" | "Cancelled"
    """The result of one task of a batch."""

__all__ = [
    "ENGINES",
    "BatchEngine",
    "Cancelled",
    "DrawTask",
    "EncodedImage",
    "Engine",
    "EngineCrashed",
    "EngineError",
    "EngineFailure",
    "EngineInfo",
    "EngineStalled",
    "OutOfMemory",
    "Phase",
    "RemoteEngine",
    "Report",
    "check_options",
    "engine_class",
    "is_remote",
    "load_engine",
]

ENGINES: Mapping[str, str] = {
    "comfyui": "umrgen.server.engines.comfyui.engine:ComfyUIEngine",
    "diffusers": "umrgen.server.engines.diffusers:DiffusersEngine",
    "procedural": "umrgen.server.engines.procedural:ProceduralEngine",
    "sdcpp": "umrgen.server.engines.sdcpp.engine:SdServerEngine",
}


@dataclass(frozen=True, slots=True)
class DrawTask:
    """One request to draw. Its seed is never -1; `references` are encoded images (PNG, JPEG, WebP)."""

    job_id: str
    request: GenerationRequest
    references: tuple[bytes, ...] = field(default=(), repr=False)
    with_prompt: bool = True
    """Whether the prompt is written into the image files."""
    created_at: int = 0
    """The time of the request, in milliseconds since the epoch; 0: unknown."""
    archives: tuple[bytes, ...] = field(default=(), repr=False)
    """Of the C2PA manifests of the references, in their order, for the signature; b"" for one without a manifest."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image that the engine encoded itself: PNG, JPEG or WebP."""

    data: bytes
    media_type: str
    thumbnail: bytes = field(default=b"", repr=False)
    """A small WebP of it, which the server makes; or b""."""
    final: bool = False
    """Whether the bytes are stored as they are: the provenance record is written into other images."""
    pdq: bytes = b""
    """The perceptual hash of the pixels, which the engine leaves empty; b"" also for pixels with too little detail."""


class Cancelled(Exception):
    """Raised by `Report` inside an engine when the job was cancelled."""


class EngineError(Exception):
    """An error of an engine. Its message is from elsewhere: as text, it is one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class EngineFailure(EngineError):
    """The engine cannot draw this request. The message is for the user, and contains no path."""

    code = "engine_failed"


class OutOfMemory(EngineFailure):
    """The request needs more memory than the device has. The message names what to lower; no retry can succeed."""

    code = "out_of_memory"


class EngineCrashed(EngineError):
    """The engine broke while it was drawing; another attempt may succeed. The message contains no path."""

    code = "engine_crashed"


class EngineStalled(EngineCrashed):
    """The engine made no progress for too long, and was stopped."""

    code = "engine_stalled"


class Phase(StrEnum):
    """A kind of work of an engine between steps."""

    LOADING = "loading"
    COMPILING = "compiling"
    DRAWING = "drawing"
    ENCODING = "encoding"


class Report(Protocol):
    """The callback for an engine's progress. A further step, and a phase that is new since it, is a sign of life.

    An engine is stopped without one for `stall_after` seconds; in a phase of loading or compiling, `load_timeout`.
    """

    def __call__(self, step: int, total: int, preview: "Callable[[], Pixels | EncodedImage] | None" = None, /) -> None:
        """Report a finished step, 0 ≤ step ≤ total. `preview` is called only while a caller watches.

        Raises Cancelled when the job was cancelled; the task of a `RemoteEngine` is cancelled as well.
        """
        ...

    def phase(self, phase: Phase, /) -> None: ...

    def together(self, images: int, /) -> None:
        """Report how many images are drawn together, this one included, if they are not all of the batch.

        The image's file states it, because its pixels may depend on it.
        """
        ...


class Engine(Protocol):
    """An engine in a separate process: loaded once, then it draws one task at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def load(self) -> None:
        """Import frameworks, load weights and warm up. Raises EngineFailure, with the remedy for the operator."""
        ...

    def draw(self, task: DrawTask, report: Report) -> "Sequence[Pixels | EncodedImage]":
        """Return one or more images, of the size that the engine made. Raises Cancelled and EngineFailure."""
        ...


class BatchEngine(Engine, Protocol):
    """An engine that draws several tasks together: `info.max_batch` is above 1."""

    def draw_batch(self, tasks: Sequence[DrawTask], reports: Sequence[Report]) -> "Sequence[Drawn]":
        """Return the result of each task, in their order.

        All tasks have one `batch_key` (`umrgen.server.domain.request`). A task that is cancelled or fails ends alone:
        its exception is its result, and the others continue.
        """
        ...


class RemoteEngine(Protocol):
    """An engine behind a network: asyncio code in the server's process."""

    @property
    def info(self) -> EngineInfo:
        """Known after `load`."""
        ...

    @property
    def capacity(self) -> int:
        """The number of tasks that it draws at a time now; 0 while none of its servers responds."""
        ...

    async def load(self, on_capacity: Callable[[], None]) -> None:
        """Connect, and find out what the engine can do. Call `on_capacity` later whenever the capacity has grown.

        Raises EngineFailure and EngineCrashed.
        """
        ...

    async def draw(self, task: DrawTask, report: Report) -> "Sequence[Pixels | EncodedImage]":
        """As `Engine.draw`. When it is cancelled it stops the work on the other side.

        Raises EngineFailure; and EngineCrashed, after which `load` is called again.
        """
        ...

    async def close(self) -> None: ...


def engine_class(name: str) -> Any:
    """Return the class of the engine called `name`, a key of ENGINES or `module:Class`. Raises EngineFailure."""
    module, _, attribute = ENGINES.get(name, name).partition(":")
    if not attribute:
        raise EngineFailure(f"there is no engine {name!r}; there are: {', '.join(sorted(ENGINES))}, or module:Class")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EngineFailure(f"the engine {name!r} cannot be imported: {error}") from None


def is_remote(name: str) -> bool:
    """Return whether the engine is a RemoteEngine. Raises EngineFailure."""
    return iscoroutinefunction(engine_class(name).draw)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Compare options with the parameters of the engine's constructor. Raises EngineFailure for the first wrong one."""
    parameters = signature(engine_class(name)).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if unknown := sorted(set(options) - set(known)):
        there = f"its options: {', '.join(known)}" if known else "it has no options"
        raise EngineFailure(f"the engine {name!r} has no option {unknown[0]!r}; {there}")
    if missing := [option for option, required in known.items() if required and option not in options]:
        raise EngineFailure(f"the engine {name!r} needs the option {missing[0]!r}")


def load_engine(name: str, options: Mapping[str, Any]) -> Any:
    """Return the engine called `name`, constructed with `options`.

    It is not loaded yet. Raises EngineFailure for an unknown engine and for an option that its constructor refuses.
    """
    check_options(name, options)
    try:
        return engine_class(name)(**options)
    except (TypeError, ValueError) as error:
        raise EngineFailure(f"the engine {name!r} refuses its options: {error}") from None
