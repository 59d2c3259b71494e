"""Subscriptions to jobs: woken by a change, ended by a deadline or the server's stop."""

import asyncio
from collections.abc import Callable

import pytest

from umrgen.model import State
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.services import subscriptions
from umrgen.server.services.subscriptions import Subscriptions


def job(job_id: str = "ext_1", state: State = State.QUEUED) -> Job:
    return Job(job_id, "sid_a", GenerationRequest("a boat", seed=1), "procedural", 1000, state=state)


def deadline() -> float:
    return asyncio.get_running_loop().time() + 60


async def changed(act: Callable[[Subscriptions], None], *, queue: bool = False) -> set[str]:
    """Return the changes that a subscriber to ext_1 receives after `act`."""
    waits = Subscriptions(10)

    async def wait() -> set[str]:
        with waits.subscribe(["ext_1"], owner="key_1", queue=queue) as subscription:
            return await subscription.wait(deadline())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert len(waits) == 1
    act(waits)
    changes = await waiting
    assert len(waits) == 0
    return changes


async def test_a_change_wakes_its_subscribers() -> None:
    assert await changed(lambda waits: waits.notify([job("ext_2"), job()])) == {"ext_1"}


async def test_closing_ends_every_wait() -> None:
    assert await changed(Subscriptions.close) == set()


async def test_a_cancelled_wait_leaves_no_subscription() -> None:
    waits = Subscriptions(10)

    async def wait() -> None:
        with waits.subscribe(["ext_1"], owner="key_1") as subscription:
            await subscription.wait(deadline())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert len(waits) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(waits) == 0


async def test_a_change_before_the_wait_is_not_missed() -> None:
    waits = Subscriptions(10)
    with waits.subscribe(["ext_1"], owner="key_1") as subscription:
        waits.notify([job()])
        assert await subscription.wait(0) == {"ext_1"}
        assert await subscription.wait(0) == set(), "the deadline has passed"


async def test_changes_of_queue_positions_are_debounced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "QUEUE_INTERVAL", 0.01)
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *args: timers.append(args) or call_later(*args))

    def leave(waits: Subscriptions) -> None:
        for number in range(100):
            waits.notify([job(f"ext_{number + 5}", State.RUNNING)])

    assert await changed(leave, queue=True) == {subscriptions.QUEUE}
    assert len(timers) == 1


async def test_one_owner_has_a_limit() -> None:
    waits = Subscriptions(2)
    with waits.subscribe(["ext_1"], owner="key_1"):
        assert not waits.full("key_1")
        with waits.subscribe(["ext_1"], owner="key_1"):
            assert waits.full("key_1")
            assert not waits.full("key_2")
        assert not waits.full("key_1")
    assert len(waits) == 0
