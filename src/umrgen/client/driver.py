"""`FlowDriver`: runs flows on the caller's event loop, for a client and its jobs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from umrgen.client.flow import CallContext, Event, Flow, Options, RequestBudget, drive_async
from umrgen.client.journal import Journal
from umrgen.client.transport import Transport
from umrgen.errors import UmrgenError

__all__ = ["FlowDriver", "with_changes"]

R = TypeVar("R")


def with_changes(options: Options, changes: Mapping[str, Any]) -> Options:
    """Return `options` with some values changed. Raises TypeError for an unknown name, UmrgenError for a bad number."""
    unknown = set(changes) - set(Options.__slots__)
    if unknown:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    for name, value in changes.items():
        if isinstance(value, int | float) and not value >= 0:  # true for NaN, with which a deadline never passes
            raise UmrgenError(f"{name} must be a number of at least 0; got {value}", code="bad_option")
    return replace(options, **changes)


class FlowDriver:
    """The parts of a client that its jobs use too: the transport, the options, the journal and the request budget."""

    def __init__(
        self,
        transport: Transport,
        options: Options,
        journal: Journal | None,
        *,
        on_event: Callable[[Event], None],
        random: Callable[[], float],
    ) -> None:
        self.transport = transport
        self.options = options
        self.journal = journal
        self._on_event = on_event
        self._random = random
        self._budget = RequestBudget(options.requests_a_minute)

    def new_context(self, changes: Mapping[str, Any], on_event: Callable[[Event], None] | None = None) -> CallContext:
        """Return the context of a new call, with some options changed; its deadline starts now.

        `on_event` is called with the events of this call, after the callback of the client.
        """
        options, now = with_changes(self.options, changes), self.transport.clock.monotonic()
        return CallContext(options, now, notify=self._notify(on_event), random=self._random, budget=self._budget)

    def _notify(self, on_event: Callable[[Event], None] | None) -> Callable[[Event], None]:
        if on_event is None:
            return self._on_event

        def notify(event: Event) -> None:
            self._on_event(event)
            on_event(event)

        return notify

    async def run(self, flow: Flow[R]) -> R:
        """Run a flow and return its result."""
        return await drive_async(flow, self.transport.send, self.transport.clock.sleep)
