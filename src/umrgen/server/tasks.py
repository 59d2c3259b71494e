"""Ending asyncio tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["cancel_once", "cancelled"]


def cancel_once(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel these tasks, except those that are being cancelled.

    A second cancellation would interrupt what a task does at its end, such as waiting for the process that it has
    killed. The first one may be from outside: `asyncio.run` cancels every task when it is interrupted.
    """
    for task in tasks:
        if not task.cancelling():
            task.cancel()


async def cancelled(*tasks: "asyncio.Task[Any]", limit: float | None = None) -> None:
    """Cancel these tasks, and wait until they have ended.

    A task that has not ended after `limit` seconds is cancelled again. asyncio waits without end for a process whose
    start was cancelled together with asyncio's own task that connects its pipes.
    """
    cancel_once(tasks)
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=limit)
        for task in pending:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
