"""A driver for flows without HTTP: a list of answers instead of a server, and time that does not pass."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from umrgen.client.flow import Flow, Reply, Step, TransportFailure
from umrgen.errors import UmrgenError

__all__ = ["Played", "Sent", "play", "reply"]

WALL = 1_800_000_000.0

R = TypeVar("R")
Scripted = Reply | TransportFailure | Callable[[Step], Reply | TransportFailure]


class Sent(NamedTuple):
    """A step, and when it was sent: seconds on the clock that `play` started at `start`."""

    at: float
    step: Step


class Played(NamedTuple, Generic[R]):
    """What became of a flow: its result or the UmrgenError it raised, and every step it sent."""

    outcome: R | UmrgenError
    sent: list[Sent]


def reply(
    body: Mapping[str, Any] | str | bytes = b"",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    elapsed: float = 0.0,
) -> Reply:
    """An answer for `play`, `elapsed` seconds after it was asked for; a mapping goes as JSON."""
    if isinstance(body, Mapping):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return Reply(status, lower, data, at=0.0, elapsed=elapsed)


def play(flow: "Flow[R]", answers: Iterable[Scripted], *, start: float = 0.0) -> Played[R]:
    """Run a flow to its end against `answers`, one for each step; a callable is given the step.

    The clock is this function's: a reply arrives `elapsed` seconds after its step was sent, a failure
    its `at` seconds after, and what would take longer than the step's timeout fails at that moment.
    Raises AssertionError when the flow asks for more answers than there are.
    """
    now = start
    sent: list[Sent] = []
    supply = iter(answers)
    try:
        step = next(flow)
        while True:
            now += max(0.0, step.delay)
            sent.append(Sent(now, step))
            answer = _next_answer(supply, step, len(sent))
            if isinstance(answer, Reply):
                now += answer.elapsed
                step = flow.send(replace(answer, at=now, wall=answer.wall or WALL + now))
            else:
                now += answer.at
                step = flow.throw(TransportFailure(str(answer), at=now, sent=answer.sent))
    except StopIteration as end:
        return Played(end.value, sent)
    except UmrgenError as error:
        return Played(error, sent)


def _next_answer(supply: "Iterable[Scripted]", step: Step, number: int) -> Reply | TransportFailure:
    for answer in supply:
        if not isinstance(answer, Reply | TransportFailure):
            answer = answer(step)
        took = answer.elapsed if isinstance(answer, Reply) else answer.at
        if took > step.timeout:
            return TransportFailure(f"no answer within {step.timeout:.1f} s", at=step.timeout, sent=True)
        return answer
    raise AssertionError(f"there is no answer for step {number}: {step.method} {step.path}")
