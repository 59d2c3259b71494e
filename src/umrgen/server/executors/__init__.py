"""Executors: where engines run. One file per alternative; the ledger alone decides about retries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from umrgen.server.engines import DrawRequest, EngineInfo

__all__ = ["EXECUTORS", "EngineCrashed", "Executor", "OnStep", "Picture"]

EXECUTORS: Mapping[str, str] = {"local": "umrgen.server.executors.local:LocalExecutor"}

OnStep = Callable[[int, int], None]
"""Called on the event loop with (step, total)."""


class EngineCrashed(Exception):
    """The engine's process ended while it was drawing; the message says how, without paths."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image, as it goes to storage. Sizes in pixels."""

    data: bytes
    width: int
    height: int
    media_type: str = "image/png"


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

    async def start(self) -> None:
        """Bring the engine up. Raises EngineFailure or EngineCrashed."""
        ...

    async def run(self, job_id: str, request: DrawRequest, on_step: OnStep) -> Picture:
        """Draw. Raises EngineFailure (trying again will not help) and EngineCrashed (it may).

        Cancelling the awaiting task stops the engine at its next step, or kills it after a grace.
        """
        ...

    async def stop(self) -> None: ...
