"""The deadline of a drawing, which each sign of life of the engine extends."""

from types import TracebackType

from umrgen.server.engines import EngineStalled, Phase
from umrgen.server.executors import WatchdogLimits
from umrgen.server.running_time import RunningTimeout

__all__ = ["Watchdog"]


class Watchdog:
    """An `async with` block that is cancelled, and raises EngineStalled, when the engine shows no sign of life.

    A sign of life is a step beyond the furthest one, or a phase that is new since that step. An engine that repeats
    itself shows none. Only the time counts for which this process ran: the engine may have been stopped with it, and
    its messages may wait to be read.
    """

    def __init__(self, limits: WatchdogLimits) -> None:
        self._limits = limits
        self._allowed = limits.stall_after
        self._timeout = RunningTimeout(limits.stall_after)
        self._furthest = 0
        self._phases: set[Phase] = set()

    async def __aenter__(self) -> "Watchdog":
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise EngineStalled(f"it made no progress for {self._allowed:g} s") from None

    def step(self, step: int) -> None:
        """Observe a finished step."""
        if step > self._furthest:
            self._furthest = step
            self._phases.clear()
            self.extend()

    def phase(self, phase: Phase) -> None:
        """Observe the start of a phase. Loading and compiling may take `load_timeout`."""
        if phase not in self._phases:
            self._phases.add(phase)
            slow = phase in (Phase.LOADING, Phase.COMPILING)
            self.extend(self._limits.load_timeout if slow else self._limits.stall_after)

    def extend(self, seconds: float | None = None) -> None:
        """Allow the engine `seconds` (None: `stall_after`) from now until its next sign of life."""
        self._allowed = self._limits.stall_after if seconds is None else seconds
        self._timeout.restart(self._allowed)
