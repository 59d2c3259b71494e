"""`Client`: the synchronous client.

It runs an `AsyncClient` on an event loop in a thread. So both share one implementation, its deadlines are
exact for synchronous callers too, and Ctrl-C ends any wait immediately.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack

from umrgen.client.async_client import AsyncClient
from umrgen.client.flow import Event
from umrgen.client.flows.wait_many import Outcome
from umrgen.client.job import AsyncJob
from umrgen.client.journal import Journal, JournalEntry
from umrgen.client.options import CallOptions, Reference, RequestOptions
from umrgen.client.target import Target
from umrgen.errors import UmrgenError
from umrgen.image_files import SavedImage
from umrgen.model import Status

__all__ = ["Client", "SyncJob", "wait_and_download"]

R = TypeVar("R")


class _LoopThread:
    """An event loop in a thread, for synchronous callers."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="umrgen-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run `work` on the loop; return its result. Ctrl-C cancels it. Raises UmrgenError after a fork."""
        if os.getpid() != self._process:
            work.close()
            raise UmrgenError(
                "this client was made before a fork, and its thread exists in the parent process only",
                code="forked",
                next="Make a Client in each process.",
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[R]) -> Iterator[R]:
        """Yield the items of an asynchronous iterator."""

        async def next_item() -> tuple[bool, R | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        while True:
            more, item = self.run(next_item())
            if not more:
                return
            yield item  # type: ignore[misc]  # it is not None while `more` is true

    def close(self, before: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `before`, then stop the loop and its thread; do nothing in a forked process, which has none."""
        if os.getpid() != self._process:
            return

        async def shut_down() -> None:
            await before()
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncJob:
    """One job on one server; see `AsyncJob`."""

    def __init__(self, loop: _LoopThread, job: AsyncJob) -> None:
        self._loop = loop
        self._job = job
        self.id = job.id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended, once known: its final status, or the error that makes it unknown."""
        return self._job.outcome

    def watch(self, **options: Unpack[CallOptions]) -> Iterator[Status]:
        """Yield each change of the job's status, until it is over."""
        return self._loop.iterate(self._job.watch(**options))

    def status(self) -> Status:
        """Return the current status of the job."""
        return self._loop.run(self._job.status())

    def wait(self, **options: Unpack[CallOptions]) -> Status:
        """Wait until the job is completed; return its status. Raises JobFailed, WaitTimeout, OutputMissing, ..."""
        return self._loop.run(self._job.wait(**options))

    def download(self, to: Target = None, *, overwrite: bool = False, **options: Unpack[CallOptions]) -> SavedImage:
        """Wait until the job is completed, then save its image, verified; return the saved image."""
        return self._loop.run(self._job.download(to, overwrite=overwrite, **options))

    def download_all(
        self, to: Target = None, *, overwrite: bool = False, **options: Unpack[CallOptions]
    ) -> list[SavedImage]:
        """Save every image of the job; return the saved images."""
        return self._loop.run(self._job.download_all(to, overwrite=overwrite, **options))

    def cancel(self) -> Status:
        """Cancel the job on the server; return its status after that."""
        return self._loop.run(self._job.cancel())


class Client:
    """A synchronous client of one server; it has the arguments of `AsyncClient`."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        journal: Journal | bool | None = True,
        **options: Unpack[CallOptions],
    ) -> None:
        self._async = AsyncClient(base_url, api_key, on_event=on_event, journal=journal, **options)
        self._loop = _LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Jobs continue on the server."""
        self._loop.close(self._async.aclose)

    def job(self, job_id: str) -> SyncJob:
        """Return an existing job by its id; sends no request."""
        return SyncJob(self._loop, self._async.job(job_id))

    def submit(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        wait_for_slot: bool = False,
        references: Sequence[Reference] = (),
        on_event: Callable[[Event], None] | None = None,
        **request: Unpack[RequestOptions],
    ) -> SyncJob:
        """Create a job and return it without waiting for it; see `AsyncClient.submit`."""
        submitting = self._async.submit(
            prompt,
            idempotency_key=idempotency_key,
            wait_for_slot=wait_for_slot,
            references=references,
            on_event=on_event,
            **request,
        )
        return SyncJob(self._loop, self._loop.run(submitting))

    def generate(
        self,
        prompt: str,
        to: Target = None,
        *,
        overwrite: bool = False,
        timeout: float | None = -1,
        wait_for_slot: bool = False,
        references: Sequence[Reference] = (),
        on_event: Callable[[Event], None] | None = None,
        **request: Unpack[RequestOptions],
    ) -> SavedImage:
        """Submit, wait and download; return the saved image; see `AsyncClient.generate`."""
        generating = self._async.generate(
            prompt,
            to,
            overwrite=overwrite,
            timeout=timeout,
            wait_for_slot=wait_for_slot,
            references=references,
            on_event=on_event,
            **request,
        )
        return self._loop.run(generating)

    def generate_many(
        self,
        requests: Sequence[Mapping[str, Any]],
        to: Sequence[Target],
        *,
        overwrite: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[SavedImage | UmrgenError]:
        """Run several requests; yield each result when it is ready."""
        return self._loop.iterate(self._async.generate_many(requests, to, overwrite=overwrite, **options))

    def as_completed(self, jobs: Iterable[SyncJob], **options: Unpack[CallOptions]) -> Iterator[SyncJob]:
        """Yield the jobs in the order in which they end, each with its `outcome`."""
        by_id = {job.id: job for job in jobs}
        inner = [job._job for job in by_id.values()]
        for job in self._loop.iterate(self._async.as_completed(inner, **options)):
            yield by_id[job.id]

    def wait_all(self, jobs: Sequence[SyncJob], **options: Unpack[CallOptions]) -> list[Outcome]:
        """Wait for all `jobs`; return their outcomes in the same order."""
        return self._loop.run(self._async.wait_all([job._job for job in jobs], **options))

    def resume(self, entry: JournalEntry, to: Target = None, **options: Unpack[CallOptions]) -> SavedImage:
        """Finish the job of a journal entry; see `AsyncClient.resume`."""
        return self._loop.run(self._async.resume(entry, to, **options))

    def jobs(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> Mapping[str, Any]:
        """Return a page of this key's jobs, newest first."""
        return self._loop.run(self._async.jobs(state=state, limit=limit, cursor=cursor))

    def upload(self, image: Reference) -> str:
        """Upload a reference image; return its name for `reference_images`."""
        return self._loop.run(self._async.upload(image))

    def capabilities(self) -> Mapping[str, Any]:
        """Return the server's capabilities."""
        return self._loop.run(self._async.capabilities())


def wait_and_download(
    job_id: str,
    api_key: str | None = None,
    *,
    base_url: str | None = None,
    to: Target = None,
    **options: Unpack[CallOptions],
) -> SavedImage:
    """Wait for a job and save its image, as `{job_id}.png` by default (the function of the guide)."""
    with Client(base_url, api_key, **options) as client:
        return client.job(job_id).download(to)
