"""Batches: jobs that one device draws together."""

import asyncio
from collections.abc import Callable, Iterable

from umrgen.server.engines import DrawTask

__all__ = ["JobBatch"]


class JobBatch:
    """The jobs that were claimed for one device.

    Each job joins with its task when its attempt is ready to draw, or withdraws. The batch is complete when none is
    left to wait for, and released when the drawing of all has ended: then the device is free, although the images may
    still have to be encoded and stored.
    """

    def __init__(self, job_ids: Iterable[str]) -> None:
        self._drawing = set(job_ids)
        self._awaited = set(self._drawing)
        self._tasks: dict[str, DrawTask] = {}
        self._complete = asyncio.Event()
        self._on_release: list[Callable[[], None]] = []

    @property
    def tasks(self) -> list[DrawTask]:
        """The tasks of the jobs that joined and have not withdrawn."""
        return list(self._tasks.values())

    async def join(self, task: DrawTask) -> None:
        """Add a task, and wait until the batch is complete."""
        self._tasks[task.job_id] = task
        self._settle(task.job_id)
        await self._complete.wait()

    def drawn(self, job_id: str) -> None:
        """Note that the drawing of a job has ended. A further call for the same job has no effect."""
        if job_id in self._drawing:
            self._drawing.remove(job_id)
            if not self._drawing:
                for callback in self._on_release:
                    callback()

    def withdraw(self, job_id: str) -> None:
        """Note that a job draws no more: its attempt has ended, or never began to draw."""
        self._tasks.pop(job_id, None)
        self._settle(job_id)
        self.drawn(job_id)

    def on_release(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the device is free; immediately, if it is free already."""
        if self._drawing:
            self._on_release.append(callback)
        else:
            callback()

    def _settle(self, job_id: str) -> None:
        self._awaited.discard(job_id)
        if not self._awaited:
            self._complete.set()
