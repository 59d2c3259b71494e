"""An event loop on virtual time: when no callback is ready, the time advances to the next timer."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

__all__ = ["LeapingLoop", "Stuck"]


class Stuck(Exception):
    """Every task waits, and there is no timer: a deadlock."""


class _Selector(selectors.DefaultSelector):
    loop: "LeapingLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.loop.leap(timeout)
        return []


class LeapingLoop(asyncio.SelectorEventLoop):
    """A deterministic event loop: one thread, no sockets, no clock."""

    def __init__(self) -> None:
        self._now = 0.0
        self._steps = 0
        self._at: dict[int, Callable[[], None]] = {}
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def leap(self, seconds: float) -> None:
        self._now += seconds

    def at(self, step: int, function: Callable[[], None]) -> None:
        """Call a function before the `step`-th callback from now is scheduled."""
        self._at[self._steps + step] = function

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        self._steps += 1
        if function := self._at.pop(self._steps, None):
            function()
        return super().call_soon(callback, *args, context=context)
