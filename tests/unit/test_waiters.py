"""Callers that are held: woken by what they wait for, forgotten when they hang up."""

import asyncio
from collections.abc import Callable
from typing import Any

from umrgen.jobs import Job, JobSpec, State
from umrgen.server import waiters as module
from umrgen.server.waiters import Waiters


class Caller:
    """One end of a connection, as ASGI tells it."""

    def __init__(self) -> None:
        self._hung_up = asyncio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        self._hung_up.set()


def job(job_id: str = "ext_1", state: State = State.QUEUED) -> Job:
    return Job(job_id, "sid_a", JobSpec("a boat", seed=1), "procedural", 1000, state=state)


async def held(waiters: Waiters, caller: Caller, *, places: bool = False) -> tuple[bool, bool]:
    """Whether it was woken by a change, and whether it is over for it."""
    with waiters.join(["ext_1"], caller.receive, owner="key_1", places=places) as waiting:
        return await waiting.changed(within=60), waiting.over


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def play(act: Callable[[Waiters, Caller], None], *, places: bool = False) -> tuple[bool, bool]:
    waiters, caller = Waiters(10), Caller()
    holding = asyncio.create_task(held(waiters, caller, places=places))
    await turns()
    assert len(waiters) == 1 + places
    act(waiters, caller)
    told = await holding
    assert len(waiters) == 0, "nobody is remembered"
    return told


async def test_a_change_wakes_who_waits_for_it() -> None:
    assert await play(lambda waiters, caller: waiters.notify([job("ext_2"), job()])) == (True, False)


async def test_a_caller_that_hangs_up_is_forgotten_at_once() -> None:
    assert await play(lambda waiters, caller: caller.hang_up()) == (False, True)


async def test_closing_lets_everybody_go() -> None:
    assert await play(lambda waiters, caller: waiters.close()) == (False, True)


async def test_a_change_before_the_wait_is_not_missed() -> None:
    waiters = Waiters(10)
    with waiters.join(["ext_1"], Caller().receive, owner="key_1") as waiting:
        waiters.notify([job()])
        assert await waiting.changed(within=0)
        assert not await waiting.changed(within=0)


async def test_moves_of_the_queue_are_bundled(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "PLACES_INTERVAL", 0.01)

    def leave(waiters: Waiters, caller: Caller) -> None:
        for number in range(100):
            waiters.notify([job(f"ext_{number + 5}", State.RUNNING)])
        assert waiters._moving is not None, "told soon, and once"

    assert await play(leave, places=True) == (True, False)


async def test_one_owner_holds_so_many_and_no_more() -> None:
    waiters = Waiters(2)
    with waiters.join(["ext_1"], Caller().receive, owner="key_1"):
        assert not waiters.full("key_1")
        with waiters.join(["ext_1"], Caller().receive, owner="key_1"):
            assert waiters.full("key_1")
            assert not waiters.full("key_2")
        assert not waiters.full("key_1")
    assert len(waiters) == 0
