"""`Client`: the same as `AsyncClient`, for plain code.

It keeps an `AsyncClient` on an event loop of its own, in a thread: so one routine does the sending and
the saving, a deadline holds to the moment for both, and Ctrl-C ends any wait at once.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from umrgen.client.async_client import AsyncClient, AsyncJob, Target
from umrgen.client.flows.wait_many import Outcome
from umrgen.client.journal import Entry
from umrgen.errors import UmrgenError
from umrgen.image_files import SavedImage
from umrgen.model import Status

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job", "wait_and_download"]

R = TypeVar("R")


class _Portal:
    """An event loop in a thread, for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="umrgen-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of `work`. Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[R]) -> Iterator[R]:
        async def following() -> tuple[bool, R | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        while True:
            more, item = self.run(following())
            if not more:
                return
            yield item  # type: ignore[misc]  # `more` says that there is one

    def close(self) -> None:
        async def tidy() -> None:
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(tidy())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Job:
    """One job on one server; see `AsyncJob`."""

    def __init__(self, portal: _Portal, job: AsyncJob) -> None:
        self._portal = portal
        self._job = job
        self.id = job.id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once that is known."""
        return self._job.outcome

    def watch(self, **options: Any) -> Iterator[Status]:
        """Every change of the job's status; ends when it is over."""
        return self._portal.iterate(self._job.watch(**options))

    def status(self) -> Status:
        """The job as it is now."""
        return self._portal.run(self._job.status())

    def wait(self, **options: Any) -> Status:
        """The completed job. Raises JobFailed, WaitTimeout, OutputMissing, ..."""
        return self._portal.run(self._job.wait(**options))

    def download(self, to: Target = None, *, overwrite: bool = False, **options: Any) -> SavedImage:
        """Wait if need be, then save the image, verified; give where it is."""
        return self._portal.run(self._job.download(to, overwrite=overwrite, **options))

    def download_all(self, to: Target = None, *, overwrite: bool = False, **options: Any) -> list[SavedImage]:
        """As `download`, for every image of the job."""
        return self._portal.run(self._job.download_all(to, overwrite=overwrite, **options))

    def cancel(self) -> Status:
        """Ask the server to end the job; give the job as it then is."""
        return self._portal.run(self._job.cancel())


class Client:
    """A server, a key, and how patiently to wait; see `AsyncClient`, whose arguments it takes."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, **options: Any) -> None:
        self._async = AsyncClient(base_url, api_key, **options)
        self._portal = _Portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Jobs go on without them."""
        self._portal.run(self._async.aclose())
        self._portal.close()

    def job(self, job_id: str) -> Job:
        """Pick a job up by its id; asks nothing of the network."""
        return Job(self._portal, self._async.job(job_id))

    def submit(self, prompt: str, **parameters: Any) -> Job:
        """Make a job and give it at once; see `AsyncClient.submit`."""
        return Job(self._portal, self._portal.run(self._async.submit(prompt, **parameters)))

    def generate(self, prompt: str, to: Target = None, **parameters: Any) -> SavedImage:
        """Submit, wait, download; give the saved image."""
        return self._portal.run(self._async.generate(prompt, to, **parameters))

    def generate_many(
        self, requests: Sequence[Mapping[str, Any]], to: Sequence[Target], **options: Any
    ) -> Iterator[SavedImage | UmrgenError]:
        """`generate` for several requests; each result as it is there."""
        return self._portal.iterate(self._async.generate_many(requests, to, **options))

    def as_completed(self, jobs: Iterable[Job], **options: Any) -> Iterator[Job]:
        """The jobs in the order of their end; each has its `outcome`."""
        of_id = {job.id: job for job in jobs}
        inner = [job._job for job in of_id.values()]
        for job in self._portal.iterate(self._async.as_completed(inner, **options)):
            yield of_id[job.id]

    def wait_all(self, jobs: Sequence[Job], **options: Any) -> list[Outcome]:
        """How each of `jobs` ended, in their order: a status, or the error that hides it."""
        return self._portal.run(self._async.wait_all([job._job for job in jobs], **options))

    def resume(self, entry: Entry, to: Target = None, **options: Any) -> SavedImage:
        """Finish what `entry` of the journal says was begun."""
        return self._portal.run(self._async.resume(entry, to, **options))

    def jobs(self, **query: Any) -> dict[str, Any]:
        """A page of this key's jobs on the server, newest first."""
        return self._portal.run(self._async.jobs(**query))

    def upload(self, image: Path | str | bytes) -> str:
        """Upload a reference image; give its name for `reference_images`."""
        return self._portal.run(self._async.upload(image))

    def capabilities(self) -> dict[str, Any]:
        """What this server can do."""
        return self._portal.run(self._async.capabilities())


def wait_and_download(
    job_id: str, api_key: str | None = None, *, base_url: str | None = None, to: Target = None, **options: Any
) -> SavedImage:
    """The guide's function: wait for a job and save its image as `{job_id}.png`."""
    with Client(base_url, api_key, **options) as client:
        return client.job(job_id).download(to)
