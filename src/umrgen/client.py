"""The client: `AsyncClient` runs the flows of `umrgen.protocol`; `Client` is the same for plain code.

`Client` keeps an `AsyncClient` on an event loop of its own, in a thread: so one routine does the
sending and the saving, a deadline holds to the moment for both, and Ctrl-C ends any wait at once.
"""

import asyncio
import os
import random
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from umrgen.errors import OutputForbidden, OutputMissing, UmrgenError
from umrgen.flow import Event, Flow, Options, Run, drive_async
from umrgen.images import SavedImage
from umrgen.jobs import JOB_ID, Status
from umrgen.protocol import API, ask
from umrgen.retrieval import check_target, fetch
from umrgen.submission import submit
from umrgen.transport import Clock, Transport
from umrgen.watch import Watch, finished

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job", "wait_and_download"]

R = TypeVar("R")
Target = str | os.PathLike[str] | None
OnEvent = Callable[[Event], None]


def _configured(given: str | None, variable: str) -> str | None:
    return given if given is not None else os.environ.get(variable) or None


def _request(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request's body: what was not said stays out, so that the server's own defaults hold."""
    return {"prompt": prompt} | {name: value for name, value in parameters.items() if value is not None}


class AsyncJob:
    """One job on one server. Making one asks nothing of the network."""

    def __init__(self, client: "AsyncClient", job_id: str, *, seen: bool = False, run: Run | None = None) -> None:
        if not JOB_ID.fullmatch(job_id):
            raise UmrgenError(f"{job_id[:80]!r} is no job id", code="bad_job_id")
        self.id = job_id
        self._client = client
        self._seen = seen
        self._run = run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def _watch(self, changes: Mapping[str, Any]) -> Watch:
        run = self._run if self._run is not None and not changes else self._client._run(changes)
        return Watch(run, self.id, seen=self._seen)

    async def watch(self, **options: Any) -> AsyncIterator[Status]:
        """Every change of the job's status; ends when it is over."""
        watch = self._watch(options)
        while True:
            status = await self._client._drive(watch.next_change())
            self._seen = True
            yield status
            if status.over:
                return

    async def status(self) -> Status:
        """The job as it is now."""
        watch = self._watch({"wait": 0, "patience": self._client.options.submit_patience})
        return await self._client._drive(watch.next_change())

    async def wait(self, **options: Any) -> Status:
        """The completed job. Raises JobFailed, WaitTimeout, OutputMissing, ..."""
        return await self._client._drive(self._watch(options).result())

    async def download(
        self, to: Target = None, *, overwrite: bool = False, status: Status | None = None, **options: Any
    ) -> SavedImage:
        """Wait if need be, then save the image, verified; give where it is.

        `to` is a file, or a folder; by default the file is called after the job, in the current folder.
        """
        images = await self._download(to, overwrite, status, options, every=False)
        return images[0]

    async def download_all(
        self, to: Target = None, *, overwrite: bool = False, status: Status | None = None, **options: Any
    ) -> list[SavedImage]:
        """As `download`, for every image of the job; the second is called `name-2.png`, and so on."""
        return await self._download(to, overwrite, status, options, every=True)

    async def _download(
        self, to: Target, overwrite: bool, status: Status | None, options: Mapping[str, Any], *, every: bool
    ) -> list[SavedImage]:
        target, any_suffix = _target(to, self.id)
        check_target(target, overwrite=overwrite)
        watch = self._watch(options)
        if status is None or not status.over:
            status = await self._client._drive(watch.result())
        else:
            finished(status)
        count = len(status.images) if every else 1
        saved = []
        for index in range(count):
            place = target if index == 0 else target.with_stem(f"{target.stem}-{index + 1}")
            saved.append(await self._save(watch, status, index, place, overwrite, any_suffix))
        return saved

    async def _save(
        self, watch: Watch, status: Status, index: int, target: Path, overwrite: bool, any_suffix: bool
    ) -> SavedImage:
        client = self._client
        for last in (False, True):
            try:
                path, facts = await fetch(
                    client.transport,
                    watch.run,
                    self.id,
                    status.images[index],
                    target,
                    overwrite=overwrite,
                    any_suffix=any_suffix,
                )
                break
            except (OutputForbidden, OutputMissing) as refusal:
                refusal.job_id = self.id
                if last or refusal.code == "foreign_output":
                    raise
                # The address may be stale: ask once more where the image is.
                status = await client._drive(Watch(watch.run, self.id, seen=True).result())
                if index >= len(status.images):
                    raise
        return SavedImage(
            path,
            self.id,
            facts.bytes,
            facts.sha256,
            facts.media_type,
            facts.width,
            facts.height,
            status.seed,
            status.engine,
        )

    async def cancel(self) -> Status:
        """Ask the server to end the job; give the job as it then is. Raises Unsupported on older servers."""
        data = await self._client._drive(ask(self._client._run({}), "POST", f"{API}/cancel/{self.id}", job_id=self.id))
        return Status.parse(data, self.id) or await self.status()


def _target(to: Target, job_id: str) -> tuple[Path, bool]:
    """The file to write, and whether its extension may follow the image's type."""
    if to is None:
        return Path(f"{job_id}.png"), True
    path = Path(to).expanduser()
    if path.is_dir() or str(to).endswith(os.sep):
        return path / f"{job_id}.png", True
    return path, False


class AsyncClient:
    """A server, a key, and how patiently to wait.

    `base_url` and `api_key` default to UMRGEN_BASE_URL and UMRGEN_API_KEY. Every number of `Options`
    can be given here by name, or for one call alone: `AsyncClient(timeout=900)`, `job.wait(timeout=120)`.
    `on_event` is told what happens meanwhile.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        on_event: OnEvent | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = random.random,
        **options: Any,
    ) -> None:
        url = _configured(base_url, "UMRGEN_BASE_URL")
        if url is None:
            raise UmrgenError(
                "no server is configured",
                code="no_server",
                next="Set UMRGEN_BASE_URL to your server's address, or start one with `umrgen serve`.",
            )
        self.options = _with(Options(), options)
        self.transport = Transport(url, _configured(api_key, "UMRGEN_API_KEY"), self.options, clock)
        self._on_event = on_event or (lambda event: None)
        self._random = random

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Jobs go on without them."""
        await self.transport.aclose()

    def _run(self, changes: Mapping[str, Any]) -> Run:
        options = _with(self.options, changes)
        now = self.transport.clock.monotonic()
        return Run(options, now, notify=self._on_event, random=self._random)

    async def _drive(self, flow: Flow[R]) -> R:
        return await drive_async(flow, self.transport.send, self.transport.clock.sleep)

    def job(self, job_id: str) -> AsyncJob:
        """Pick a job up by its id; asks nothing of the network."""
        return AsyncJob(self, job_id)

    async def submit(
        self,
        prompt: str,
        *,
        negative: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
        wait_for_slot: bool = False,
        run: Run | None = None,
        **parameters: Any,
    ) -> AsyncJob:
        """Make a job and give it at once; further `parameters` go into the request as they are.

        `idempotency_key` is made here when not given. With `wait_for_slot`, a server that runs one job
        at a time is waited for. Raises InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
        """
        body = _request(
            prompt,
            {"negative": negative, "width": width, "height": height, "steps": steps, "seed": seed} | parameters,
        )
        run = run or self._run({})
        receipt = await self._drive(
            submit(run, body, idempotency_key or secrets.token_hex(16), wait_for_slot=wait_for_slot)
        )
        return AsyncJob(self, receipt["job_id"], seen=True)

    async def generate(
        self, prompt: str, to: Target = None, *, overwrite: bool = False, timeout: float | None = -1, **parameters: Any
    ) -> SavedImage:
        """Submit, wait, download; give the saved image. One deadline spans all of it."""
        target, _ = _target(to, "umrgen")
        check_target(target, overwrite=overwrite or to is None)
        run = self._run({} if timeout == -1 else {"timeout": timeout})
        job = await self.submit(prompt, run=run, **parameters)
        return await AsyncJob(self, job.id, seen=True, run=run).download(to, overwrite=overwrite)

    async def capabilities(self) -> dict[str, Any]:
        """What this server can do. Raises JobNotFound or Unsupported on servers without that call."""
        return await self._drive(ask(self._run({}), "GET", f"{API}/capabilities"))


def _with(options: Options, changes: Mapping[str, Any]) -> Options:
    try:
        return replace(options, **changes)
    except TypeError as error:
        raise TypeError(f"no such option: {', '.join(sorted(set(changes) - set(Options.__slots__)))}") from error


# --- for plain code ----------------------------------------------------------------------------------


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

    def capabilities(self) -> dict[str, Any]:
        """What this server can do."""
        return self._portal.run(self._async.capabilities())


def wait_and_download(
    job_id: str, api_key: str | None = None, *, base_url: str | None = None, to: Target = None, **options: Any
) -> SavedImage:
    """The guide's function: wait for a job and save its image as `{job_id}.png`."""
    with Client(base_url, api_key, **options) as client:
        return client.job(job_id).download(to)
