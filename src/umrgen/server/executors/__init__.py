"""Executors: where engines run. One file per alternative; the ledger alone decides about retries."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from umrgen.errors import UmrgenError
from umrgen.image_files import verify
from umrgen.server.engines import DrawRequest, EngineInfo

__all__ = [
    "EXECUTORS",
    "EncodedImage",
    "EngineCrashed",
    "EngineStalled",
    "Executor",
    "OnPreview",
    "OnStep",
    "WatchdogLimits",
    "checked",
]

EXECUTORS: Mapping[str, str] = {"local": "umrgen.server.executors.subprocess.executor:LocalExecutor"}

OnStep = Callable[[int, int], None]
"""Called on the event loop with (step, total)."""

OnPreview = Callable[[bytes], None]
"""Called on the event loop with a small JPEG of how far the picture is."""


class EngineCrashed(Exception):
    """The engine broke while it was drawing; the message says how, without paths."""

    code = "engine_crashed"


class EngineStalled(EngineCrashed):
    """The engine made no progress for too long, and was ended."""

    code = "engine_stalled"


@dataclass(frozen=True, slots=True)
class WatchdogLimits:
    """How engine processes are looked after; seconds, and MiB."""

    stall_after: float = 60.0
    """Without a step for so long, an engine is ended."""
    cancel_grace: float = 5.0
    """From being asked to stop to being killed."""
    load_timeout: float = 600.0
    """For an engine to load its weights."""
    memory: int = 0
    """The most an engine may take; 0: no limit."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An encoded image, verified, as it goes to storage. Sizes in pixels, the digest in hex."""

    data: bytes
    sha256: str
    width: int
    height: int
    media_type: str = "image/png"


async def checked(data: bytes, request: DrawRequest) -> EncodedImage:
    """What an engine gave for `request`, as a Picture. Raises EngineCrashed when it is no whole image of that size."""
    try:
        facts = await asyncio.to_thread(verify, data)
    except UmrgenError as error:
        raise EngineCrashed(f"what it drew is no picture: {error}") from None
    if (facts.width, facts.height) != (request.width, request.height):
        raise EngineCrashed(f"it drew {facts.width} × {facts.height} pixels, not {request.width} × {request.height}")
    return EncodedImage(data, facts.sha256, request.width, request.height, facts.media_type)


class Executor(Protocol):
    """Runs one engine on `slots` places at a time."""

    slots: int

    @property
    def info(self) -> EngineInfo | None:
        """What the engine is, as soon as it has started; None before."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run, in words for the operator's users; None while all is well."""
        ...

    async def ready(self) -> None:
        """Return when an engine is up and idle: it is started, or replaced, as often as need be.

        Meanwhile `trouble` says what is in the way.
        """
        ...

    async def run(
        self, job_id: str, request: DrawRequest, on_step: OnStep, on_preview: OnPreview | None = None
    ) -> EncodedImage:
        """Draw. Raises EngineFailure (trying again will not help), EngineCrashed and EngineStalled (it may).

        Cancelling the awaiting task stops the engine at its next step, or kills it after a grace.
        """
        ...

    def show(self, job_id: str, wanted: bool) -> None:
        """Start or stop to make previews of a job; for one that is not being drawn here, nothing happens."""
        ...

    async def stop(self) -> None: ...
