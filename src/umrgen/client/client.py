"""`Client`: the synchronous client.

It runs an `AsyncClient` on an event loop in a thread. So both share one implementation, its deadlines are
exact for synchronous callers too, and Ctrl-C ends any wait immediately.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

from umrgen.client.async_client import AsyncClient
from umrgen.client.descriptions import Capabilities, ListedJob, ReferenceImage, RequestTemplate, ServerVerification
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
    """One job on one server; see `AsyncJob`. Each wait takes the options of `umrgen.Options`: `timeout` in seconds."""

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
        """Yield each change of the job's status, until it is over.

        Raises JobNotFound, WaitTimeout after `timeout` seconds, ConnectionFailed, ...

        >>> for status in client.submit("a boat").watch():
        ...     last = status
        >>> last.state
        'completed'
        """
        return self._loop.iterate(self._job.watch(**options))

    def status(self) -> Status:
        """Return the current status of the job, by one call. Raises JobNotFound, Unauthorized, ConnectionFailed, ...

        >>> client.submit("a boat").status().state in ("queued", "running", "completed")
        True
        """
        return self._loop.run(self._job.status())

    def wait(self, **options: Unpack[CallOptions]) -> Status:
        """Wait until the job is completed; return its status. Raises JobFailed, WaitTimeout, OutputMissing, ...

        >>> status = client.submit("a boat").wait(timeout=120)
        >>> status.state, len(status.images)
        ('completed', 1)
        """
        return self._loop.run(self._job.wait(**options))

    def download(self, to: Target = None, *, overwrite: bool = False, **options: Unpack[CallOptions]) -> SavedImage:
        """Wait until the job is completed, then save its image, verified; return the saved image.

        `to` is a file, a folder or a file object that is open in binary mode; by default, the file is
        `{job_id}.png` in the current folder. An existing file is replaced only with `overwrite`. Raises as `wait`,
        TargetUnusable, OutputCorrupt, ...

        >>> client.submit("a boat").download("boat.png").path.name
        'boat.png'
        """
        return self._loop.run(self._job.download(to, overwrite=overwrite, **options))

    def download_all(
        self, to: Target = None, *, overwrite: bool = False, **options: Unpack[CallOptions]
    ) -> list[SavedImage]:
        """Save every image of the job, as `name.png`, `name-2.png`, ...; return the saved images. Raises as `download`.

        >>> [image.path.name for image in client.submit("a boat").download_all("fleet.png")]
        ['fleet.png']
        """
        return self._loop.run(self._job.download_all(to, overwrite=overwrite, **options))

    def image(self, **options: Unpack[CallOptions]) -> SavedImage:
        """Wait until the job is completed; return its image, verified, in memory. Raises as `download`.

        >>> client.submit("a boat").image().data[:4]
        b'\\x89PNG'
        """
        return self._loop.run(self._job.image(**options))

    def cancel(self) -> Status:
        """Cancel the job on the server; return its status after that. Raises Unsupported on older servers.

        >>> client.submit("a boat", steps=50).cancel().over
        True
        """
        return self._loop.run(self._job.cancel())

    def favorite(self, favorite: bool = True) -> Status:
        """Make the job a favorite, which the server's retention keeps, or not; return its status after that.

        Raises JobNotFound, and Unsupported on older servers.

        >>> client.submit("a boat").favorite().raw["favorite"]
        True
        """
        return self._loop.run(self._job.favorite(favorite))

    def delete(self) -> None:
        """Delete the job on the server: its images, its prompt, and its place in lists.

        A job that is not over is cancelled. Deleting it again is no error. Saved files stay. Raises JobNotFound for an
        unknown job, and Unsupported on older servers.

        >>> client.submit("a boat").delete()
        """
        self._loop.run(self._job.delete())


class Client:
    """A synchronous client of one server; it has the arguments of `AsyncClient`.

    A method that submits takes the parameters of a generation by name: `seed`, `negative`, `width` and `height` in
    pixels, `steps`, `loras`, `priority`, `webhook_url`. Each error is a `umrgen.UmrgenError` with a `code`, and `next`:
    what to do about it.

    >>> with Client() as own:  # of UMRGEN_BASE_URL and UMRGEN_API_KEY
    ...     image = own.generate("a boat", "sail.png")
    """

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
        """Return an existing job by its id; sends no request. Raises UmrgenError for an invalid id.

        >>> client.job("ext_1")
        SyncJob('ext_1')
        """
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
        """Create a job and return it without waiting for it.

        Two submits with the same `idempotency_key` create one job. With `wait_for_slot`, this waits while the key has
        too many jobs. `references` are paths, bytes, or images of Pillow, and are uploaded. `on_event` is called with
        each event of this job. Raises TypeError for an unknown parameter, and InvalidRequest, ContentPolicy,
        Unauthorized, RateLimited, ConnectionFailed, ...

        >>> job = client.submit("a boat at dawn", seed=7, idempotency_key="dawn")
        >>> job.id == client.submit("a boat at dawn", seed=7, idempotency_key="dawn").id
        True
        """
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
        """Submit, wait and download; return the saved image.

        `to` and `overwrite` are those of `SyncJob.download`; `timeout`, in seconds, applies to all of it; the other
        arguments are those of `submit`. Raises as `submit` and `SyncJob.download`: after an error, `umrgen resume`
        continues with a job that exists.

        >>> image = client.generate("a lighthouse at dusk", "lighthouse.png", width=768, height=512, seed=7)
        >>> image.path.name, image.size, image.seed
        ('lighthouse.png', (768, 512), 7)
        >>> winter = client.generate("the same in winter", "winter.png", references=["lighthouse.png"])
        """
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
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[CallOptions],
    ) -> Iterator[SavedImage | UmrgenError]:
        """Run several requests (`prompt` and other arguments of `submit`); yield each result when it is ready.

        `to` has a target for each. A result is a saved image or the error of its job; `request` names the request that
        it belongs to. `on_event` is called with each event of these jobs. Raises as `submit`; the jobs that exist
        continue, and `umrgen resume` saves their images.

        >>> requests = [{"prompt": f"a boat, study {number}"} for number in range(2)]
        >>> for result in client.generate_many(requests, ["study-0.png", "study-1.png"]):
        ...     assert result.path.name == f"study-{requests.index(result.request)}.png"
        """
        return self._loop.iterate(
            self._async.generate_many(requests, to, overwrite=overwrite, on_event=on_event, **options)
        )

    def as_completed(self, jobs: Iterable[SyncJob], **options: Unpack[CallOptions]) -> Iterator[SyncJob]:
        """Yield the jobs in the order in which they end, each with its `outcome`: its final status, or an error.

        >>> jobs = [client.submit(f"a boat {number}") for number in range(2)]
        >>> sorted(job.download().size for job in client.as_completed(jobs))
        [(1024, 1024), (1024, 1024)]
        """
        by_id = {job.id: job for job in jobs}
        inner = [job._job for job in by_id.values()]
        for job in self._loop.iterate(self._async.as_completed(inner, **options)):
            yield by_id[job.id]

    def wait_all(self, jobs: Sequence[SyncJob], **options: Unpack[CallOptions]) -> list[Outcome]:
        """Wait for all `jobs`; return their outcomes in the same order: final statuses, or errors.

        >>> [outcome.state for outcome in client.wait_all([client.submit("a boat")])]
        ['completed']
        """
        return self._loop.run(self._async.wait_all([job._job for job in jobs], **options))

    def unfinished(self) -> list[JournalEntry]:
        """Return this machine's journal entries of this server whose jobs are not over or not saved, oldest first.

        >>> job = client.submit("a boat")
        >>> job.id in [entry.job_id for entry in client.unfinished()]
        True
        """
        return self._async.unfinished()

    def resume(self, entry: JournalEntry, to: Target = None, **options: Unpack[CallOptions]) -> SavedImage:
        """Finish the job of a journal entry, and save its image; see `AsyncClient.resume`. Raises as `generate`.

        >>> for entry in client.unfinished():
        ...     image = client.resume(entry)
        """
        return self._loop.run(self._async.resume(entry, to, **options))

    def jobs(
        self,
        *,
        state: str | None = None,
        search: str | None = None,
        favorite: bool = False,
        engine: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[ListedJob]:
        """Yield this key's jobs, newest first, of all pages: at most `limit`.

        `search`: words that the prompt has, in any order and case; `favorite`: only favorites; `before` and `after`:
        when the job was made (a time without a zone is local). Raises Unsupported on servers without these.

        >>> for job in client.jobs(state="completed", limit=1):
        ...     print(job.created_at, job.prompt)
        20...
        """
        found = self._async.jobs(
            state=state, search=search, favorite=favorite, engine=engine, before=before, after=after, limit=limit
        )
        return self._loop.iterate(found)

    def delete_jobs(self, jobs: Iterable[SyncJob | str]) -> list[str]:
        """Delete jobs on the server, by their ids or as jobs; return the ids of those that this key does not have.

        As `SyncJob.delete`. Raises Unsupported on older servers.

        >>> client.delete_jobs([client.submit("a boat"), "ext_unknown"])
        ['ext_unknown']
        """
        chosen = [job._job if isinstance(job, SyncJob) else job for job in jobs]
        return self._loop.run(self._async.delete_jobs(chosen))

    def upload(self, image: Reference) -> str:
        """Upload a reference image; return its name for `reference_images`. Raises Unsupported and InvalidRequest.

        >>> name = client.upload("lighthouse.png")
        >>> image = client.generate("the same in spring", "spring.png", reference_images=[name])
        """
        return self._loop.run(self._async.upload(image))

    def uploads(self) -> list[ReferenceImage]:
        """Return the reference images that this key has on the server. Raises Unsupported on older servers.

        >>> name = client.upload("lighthouse.png")
        >>> name in [each.name for each in client.uploads()]
        True
        """
        return self._loop.run(self._async.uploads())

    def delete_upload(self, name: str) -> None:
        """Delete a reference image; a queued job with it fails. Raises InvalidRequest when the server has none.

        >>> client.delete_upload(client.upload("lighthouse.png"))
        """
        self._loop.run(self._async.delete_upload(name))

    def templates(self) -> list[RequestTemplate]:
        """Return the requests that this key keeps on the server, by name. Raises Unsupported on older servers.

        >>> stored = client.save_template("film noir", {"prompt": "a street at night", "steps": 8})
        >>> [template.name for template in client.templates()]
        ['film noir']
        """
        return self._loop.run(self._async.templates())

    def save_template(self, name: str, request: Mapping[str, Any]) -> RequestTemplate:
        """Keep fields of a request on the server under a name, in place of an earlier one; return what was stored.

        `request`: by their names in the API, all optional. Raises InvalidRequest and Unsupported.

        >>> stored = client.save_template("film noir", {"prompt": "a street at night", "steps": 8})
        >>> image = client.generate(**stored.request)
        """
        return self._loop.run(self._async.save_template(name, request))

    def delete_template(self, name: str) -> None:
        """Delete one of these requests; again is the same as once. Raises Unsupported on older servers.

        >>> client.delete_template("film noir")
        """
        self._loop.run(self._async.delete_template(name))

    def verify(self, image: Reference) -> ServerVerification:
        """Return whether the server made an image, and what its C2PA manifest states; the server does not store it.

        Raises Unsupported on older servers, and InvalidRequest for a file that is no image. See `umrgen.verify` for
        the marks in the file, which needs no server.

        >>> client.verify("lighthouse.png").made_here
        'exact'
        """
        return self._loop.run(self._async.verify(image))

    def capabilities(self) -> Capabilities:
        """Return what the server offers this key. Raises Unsupported on older servers.

        >>> can = client.capabilities()
        >>> can.engine, can.min_size <= 512 <= can.max_size
        ('procedural', True)
        """
        return self._loop.run(self._async.capabilities())


def wait_and_download(
    job_id: str,
    api_key: str | None = None,
    *,
    base_url: str | None = None,
    to: Target = None,
    **options: Unpack[CallOptions],
) -> SavedImage:
    """Wait for a job and save its image, as `{job_id}.png` by default (the function of the guide).

    >>> image = wait_and_download(client.submit("a boat").id, to="waited.png")
    """
    with Client(base_url, api_key, **options) as client:
        return client.job(job_id).download(to)
