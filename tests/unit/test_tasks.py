"""Ending tasks, also those that were cancelled from outside before."""

import asyncio
from contextlib import suppress

import pytest

from umrgen.server.tasks import cancel_once, cancelled


async def clean(done: list[str], end: asyncio.Event) -> None:
    """Wait; at the end, clean up until `end` is set."""
    try:
        await asyncio.Event().wait()
    finally:
        done.append("begun")
        await end.wait()
        done.append("finished")


@pytest.mark.parametrize("outside", [False, True])
async def test_the_clean_up_of_a_cancelled_task_is_not_interrupted(outside: bool) -> None:
    done: list[str] = []
    end = asyncio.Event()
    task = asyncio.create_task(clean(done, end))
    await asyncio.sleep(0)
    if outside:
        task.cancel()
        await asyncio.sleep(0)
    cancel_once([task])
    ending = asyncio.create_task(cancelled(task))
    for _ in range(3):
        await asyncio.sleep(0)
    end.set()
    await ending
    assert done == ["begun", "finished"]
    assert task.cancelled()


async def test_a_clean_up_without_an_end_is_interrupted_after_the_limit() -> None:
    done: list[str] = []
    task = asyncio.create_task(clean(done, asyncio.Event()))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await cancelled(task, limit=0.01)
    assert done == ["begun"]


async def test_failures_of_ended_tasks_do_not_matter() -> None:
    async def fail() -> None:
        raise OSError

    task = asyncio.create_task(fail())
    with suppress(OSError):
        await task
    await cancelled(task)
    await cancelled()
