"""A driver for flows without HTTP: a list of replies in place of a server, and simulated time."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from umrgen.client.flow import Flow, Reply, Step, TransportFailure
from umrgen.client.responses import read_object
from umrgen.errors import UmrgenError

__all__ = ["FlowRun", "SentStep", "reply", "run_flow"]

WALL = 1_800_000_000.0

R = TypeVar("R")
Scripted = Reply | TransportFailure | Callable[[Step], Reply | TransportFailure]


class SentStep(NamedTuple):
    """A step, and when it was sent: seconds on the clock that `run_flow` started at `start`."""

    at: float
    step: Step


class FlowRun(NamedTuple, Generic[R]):
    """A finished flow: its result or the UmrgenError that it raised, and every step that it sent."""

    outcome: R | UmrgenError
    sent: list[SentStep]


def reply(
    body: Mapping[str, Any] | str | bytes = b"",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    elapsed: float = 0.0,
) -> Reply:
    """Return a reply for `run_flow`, `elapsed` seconds after its step was sent; a mapping is sent as JSON."""
    if isinstance(body, Mapping):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return Reply(status, lower, content, at=0.0, elapsed=elapsed, data=read_object(content))


def run_flow(flow: "Flow[R]", replies: Iterable[Scripted], *, start: float = 0.0) -> FlowRun[R]:
    """Run a flow to its end against `replies`, one for each step; a callable is given the step.

    Time is simulated: a reply arrives `elapsed` seconds after its step was sent, a failure its `at` seconds after, and
    one that takes longer than the step's timeout fails then. Raises AssertionError when there are fewer
    replies than steps.
    """
    now = start
    sent: list[SentStep] = []
    supply = iter(replies)
    try:
        step = next(flow)
        while True:
            now += max(0.0, step.delay)
            sent.append(SentStep(now, step))
            received = _next_reply(supply, step, len(sent))
            if isinstance(received, Reply):
                now += received.elapsed
                step = flow.send(replace(received, at=now, wall=received.wall or WALL + now))
            else:
                now += received.at
                step = flow.throw(TransportFailure(str(received), at=now, sent=received.sent))
    except StopIteration as end:
        return FlowRun(end.value, sent)
    except UmrgenError as error:
        return FlowRun(error, sent)


def _next_reply(supply: "Iterable[Scripted]", step: Step, number: int) -> Reply | TransportFailure:
    for scripted in supply:
        received = scripted if isinstance(scripted, Reply | TransportFailure) else scripted(step)
        took = received.elapsed if isinstance(received, Reply) else received.at
        if took > step.timeout:
            return TransportFailure(f"no reply within {step.timeout:.1f} s", at=step.timeout, sent=True)
        return received
    raise AssertionError(f"there is no reply for step {number}: {step.method} {step.path}")
