"""A held call: it is told once, whatever happens at the same time."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from umrgen.jobs import Job, JobSpec, State
from umrgen.server.http.endings import Endings
from umrgen.server.http.held import HeldCall
from umrgen.server.waiters import Waiters

JOB = Job("ext_1", "sid_a", JobSpec("a boat", seed=1), "procedural", 1000, state=State.RUNNING)
OVER = JOB._replace(state=State.FAILED, error="no", error_code="cancelled")


class Line:
    """A connection that writes down what is said on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.tasks: set[asyncio.Task[Any]] = set()
        self.said: list[Any] = []

    def tell_held(self, status: int, answer: bytes) -> None:
        self.said.append(status)

    def end_hold(self) -> None:
        self.said.append("goes on")


class Waiter:
    def __init__(self) -> None:
        self.jobs = {JOB.id: JOB}
        self.waiters = Waiters(10)
        services: Any = SimpleNamespace(
            ledger=SimpleNamespace(glance=self.jobs.get),
            waiters=self.waiters,
            endings=Endings(),
            signatures=SimpleNamespace(wanted=False, sign=str),
            estimates=SimpleNamespace(seconds_left=lambda job, position: None),
        )
        self.line = Line(asyncio.get_running_loop())
        self.call = HeldCall(self.line, services, SimpleNamespace(id="key"), JOB, 60)  # type: ignore[arg-type]

    def is_over(self) -> None:
        self.jobs[JOB.id] = OVER
        self.waiters.wake(JOB.id)


MEANWHILE: dict[str, Callable[[Waiter], object]] = {
    "nothing": lambda waiter: None,
    "woken again": lambda waiter: waiter.waiters.wake(JOB.id),
    "its time is over": lambda waiter: waiter.call._time_over(),
    "the server stops": lambda waiter: waiter.waiters.close(),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
async def test_it_is_told_once_and_the_connection_goes_on(meanwhile: Callable[[Waiter], object]) -> None:
    waiter = Waiter()
    waiter.is_over()
    assert waiter.line.said == [200], "all are told before anything is tidied up"
    assert not waiter.call.response_complete, "what is asked behind it waits until then"
    meanwhile(waiter)
    await asyncio.sleep(0)
    assert waiter.line.said == [200, "goes on"]
    assert waiter.call.response_complete
    assert len(waiter.waiters) == 0
    assert not waiter.line.tasks


async def test_a_job_that_goes_on_wakes_nobody() -> None:
    waiter = Waiter()
    waiter.waiters.wake(JOB.id)
    await asyncio.sleep(0)
    assert waiter.line.said == []
    assert len(waiter.waiters) == 1
    waiter.call.leave()
