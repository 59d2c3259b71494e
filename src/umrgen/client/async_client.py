"""`AsyncClient` and `AsyncJob`: the flows of this package, run on your event loop."""

import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from umrgen.client.address import configured_server
from umrgen.client.flow import Budget, CallContext, Event, Flow, Options, drive_async
from umrgen.client.flows.submit import check_keeps_keys, submit
from umrgen.client.flows.upload import read_image, upload
from umrgen.client.flows.wait import Watch, finished
from umrgen.client.flows.wait_many import Outcome, WatchMany
from umrgen.client.journal import Entry, Journal
from umrgen.client.partial import check_target
from umrgen.client.protocol import API, ask
from umrgen.client.retrieval import fetch
from umrgen.client.transport import Clock, Transport
from umrgen.errors import (
    ConcurrencyLimit,
    JobFailed,
    JobNotFound,
    OutputForbidden,
    OutputMissing,
    UmrgenError,
)
from umrgen.image_files import SavedImage
from umrgen.model import JOB_ID, State, Status

__all__ = ["AsyncClient", "AsyncJob", "Target"]

R = TypeVar("R")
Target = str | os.PathLike[str] | None


def target_file(to: Target, job_id: str) -> tuple[Path, bool]:
    """The file to write, and whether its extension may follow the image's type."""
    if to is None:
        return Path(f"{job_id}.png"), True
    path = Path(to).expanduser()
    if path.is_dir() or str(to).endswith(os.sep):
        return path / f"{job_id}.png", True
    return path, False


def _numbered(target: Path, index: int) -> Path:
    return target if index == 0 else target.with_stem(f"{target.stem}-{index + 1}")


class AsyncJob:
    """One job on one server. Making one asks nothing of the network."""

    def __init__(
        self,
        client: "AsyncClient",
        job_id: str,
        *,
        seen: bool = False,
        run: CallContext | None = None,
        entry: str | None = None,
    ) -> None:
        if not JOB_ID.fullmatch(job_id):
            words = "Use an id as `umrgen submit` prints it, for example ext_0123."
            raise UmrgenError(f"{job_id[:80]!r} is no job id", code="bad_job_id", next=words)
        self.id = job_id
        self.outcome: Outcome | None = None
        """How it ended, once that is known: its last status, or why it cannot be known."""
        self._client = client
        self._seen = seen
        self._run = run
        self._entry = entry

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def watch(self, **options: Any) -> AsyncIterator[Status]:
        """Every change of the job's status; ends when it is over."""
        watch = self._watch(options)
        while True:
            status = await self._client._drive(watch.next_change())
            self._seen = True
            yield status
            if status.over:
                self.outcome = status
                return

    async def status(self) -> Status:
        """The job as it is now."""
        watch = self._watch({"wait": 0, "patience": self._client.options.submit_patience})
        status = await self._client._drive(watch.next_change())
        self._seen = True
        return status

    async def wait(self, **options: Any) -> Status:
        """The completed job. Raises JobFailed, WaitTimeout, OutputMissing, ..."""
        return await self._end(self._watch(options))

    async def download(
        self, to: Target = None, *, overwrite: bool = False, again: bool = False, **options: Any
    ) -> SavedImage:
        """Wait if need be, then save the image, verified; give where it is.

        `to` is a file, or a folder; by default the file is called after the job, in the current folder.
        With `again`, a file that is this very image already is a success.
        """
        images = await self._download(to, options, overwrite=overwrite, again=again, every=False)
        return images[0]

    async def download_all(
        self, to: Target = None, *, overwrite: bool = False, again: bool = False, **options: Any
    ) -> list[SavedImage]:
        """As `download`, for every image of the job; the second is called `name-2.png`, and so on."""
        return await self._download(to, options, overwrite=overwrite, again=again, every=True)

    async def cancel(self) -> Status:
        """Ask the server to end the job; give the job as it then is. Raises Unsupported on older servers."""
        path = f"{API}/cancel/{self.id}"
        data = await self._client._drive(ask(self._client._run({}), "POST", path, job_id=self.id))
        return Status.parse(data, self.id) or await self.status()

    # --- inside ---

    def _watch(self, changes: Mapping[str, Any]) -> Watch:
        """A wait within the deadline that began with the submit; once that has passed, whoever asks has a new one."""
        run = self._run
        if run is None or changes or run.ends <= self._client.transport.clock.monotonic():
            run = self._client._run(changes)
        return Watch(run, self.id, seen=self._seen)

    async def _end(self, watch: Watch) -> Status:
        """The completed job: known already, or waited for. What ends the job for good ends its journal entry."""
        try:
            if isinstance(self.outcome, UmrgenError):
                raise self.outcome
            if self.outcome is not None and (self.outcome.images or self.outcome.state == State.FAILED):
                return finished(self.outcome)  # an older server will have forgotten a failed one
            self.outcome = await self._client._drive(watch.result())
        except JobFailed:
            self._note_end("failed")
            raise
        except JobNotFound:
            self._note_end("gone")
            raise
        return self.outcome

    async def _download(
        self, to: Target, options: Mapping[str, Any], *, overwrite: bool, again: bool, every: bool
    ) -> list[SavedImage]:
        target, any_suffix = target_file(to, self.id)
        check_target(target, overwrite=overwrite or again)
        watch = self._watch(options)
        status = await self._end(watch)
        saved = []
        for index in range(len(status.images) if every else 1):
            place = _numbered(target, index)
            saved.append(await self._save(watch, status, index, place, overwrite, any_suffix, again))
        self._note_end("saved", saved[0].path)
        return saved

    async def _save(
        self, watch: Watch, status: Status, index: int, target: Path, overwrite: bool, any_suffix: bool, again: bool
    ) -> SavedImage:
        for last in (False, True):
            try:
                path, facts = await fetch(
                    self._client.transport,
                    watch.run,
                    self.id,
                    status.images[index],
                    target,
                    overwrite=overwrite,
                    any_suffix=any_suffix,
                    again=again,
                )
                break
            except (OutputForbidden, OutputMissing) as refusal:
                refusal.job_id = self.id
                if last or refusal.code == "foreign_output":
                    raise
                # The address may be stale: ask once more where the image is.
                status = await self._client._drive(Watch(watch.run, self.id, seen=True).result())
                if index >= len(status.images):
                    raise
        media = facts.media_type
        return SavedImage(
            path, self.id, facts.bytes, facts.sha256, media, facts.width, facts.height, status.seed, status.engine
        )

    def _note_end(self, end: str, path: Path | None = None) -> None:
        journal = self._client.journal
        if journal is None:
            return
        if self._entry is None:
            entry = journal.of_job(self.id)
            self._entry = entry.id if entry is not None and entry.end is None else None
        if self._entry is not None:
            journal.ended(self._entry, end, path)


class AsyncClient:
    """A server, a key, and how patiently to wait.

    `base_url` and `api_key` default to UMRGEN_BASE_URL and UMRGEN_API_KEY. Every number of `Options`
    can be given here by name, or for one call alone: `AsyncClient(timeout=900)`, `job.wait(timeout=120)`.
    `on_event` is told what happens meanwhile. `journal` remembers jobs for `umrgen resume`; None turns it off.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        journal: Journal | bool | None = True,
        embedded: Path | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = random.random,
        **options: Any,
    ) -> None:
        self.options = _with(Options(), options)
        self.transport = Transport(configured_server(base_url, api_key), self.options, clock)
        self.journal = Journal() if journal is True else journal or None
        self._embedded = embedded
        self._on_event = on_event or (lambda event: None)
        self._random = random
        self._budget = Budget(self.options.requests_a_minute)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Jobs go on without them."""
        await self.transport.aclose()

    # --- one job ---

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
        **parameters: Any,
    ) -> AsyncJob:
        """Make a job and give it at once; further `parameters` (`webhook_url`, …) go into the request as they are.

        `idempotency_key` is made here when not given. With `wait_for_slot`, a server that runs one job
        at a time is waited for. Raises InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
        """
        named = {"negative": negative, "width": width, "height": height, "steps": steps, "seed": seed}
        request = _request(prompt, named | parameters)
        key = idempotency_key or secrets.token_hex(16)
        return await self._submit(self._run({}), request, key, wait_for_slot=wait_for_slot)

    async def generate(
        self,
        prompt: str,
        to: Target = None,
        *,
        overwrite: bool = False,
        timeout: float | None = -1,
        wait_for_slot: bool = False,
        **parameters: Any,
    ) -> SavedImage:
        """Submit, wait, download; give the saved image. One deadline spans all of it."""
        target, _ = target_file(to, "umrgen")
        check_target(target, overwrite=overwrite or to is None)
        run = self._run({} if timeout == -1 else {"timeout": timeout})
        request, key = _request(prompt, parameters), secrets.token_hex(16)
        place = Path(to) if to is not None else Path()
        job = await self._submit(run, request, key, target=place, overwrite=overwrite, wait_for_slot=wait_for_slot)
        return await job.download(to, overwrite=overwrite)

    async def _submit(
        self,
        run: CallContext,
        request: Mapping[str, Any],
        key: str,
        *,
        target: Path | None = None,
        overwrite: bool = False,
        wait_for_slot: bool = False,
        entry: str | None = None,
    ) -> AsyncJob:
        journal = self.journal
        if journal is not None and entry is None:
            server, embedded = (str(self._embedded), True) if self._embedded else (self.transport.base_url, False)
            entry = journal.begin(server, request, key, target=target, overwrite=overwrite, embedded=embedded)
        try:
            receipt = await self._drive(submit(run, request, key, wait_for_slot=wait_for_slot))
        except UmrgenError as error:
            if journal is not None and entry is not None and not error.sent:
                journal.ended(entry, "refused")
            raise
        if journal is not None and entry is not None:
            journal.submitted(entry, receipt["job_id"])
        return AsyncJob(self, receipt["job_id"], seen=True, run=run, entry=entry)

    # --- many jobs ---

    async def as_completed(self, jobs: Iterable[AsyncJob], **options: Any) -> AsyncIterator[AsyncJob]:
        """The jobs in the order of their end; each has its `outcome`. One deadline for all of them."""
        of_id = {job.id: job for job in jobs}
        many = WatchMany(self._run(options), list(of_id))
        while many.pending:
            for job_id, outcome in (await self._drive(many.next_over())).items():
                of_id[job_id].outcome = outcome
                yield of_id[job_id]

    async def wait_all(self, jobs: Sequence[AsyncJob], **options: Any) -> list[Outcome]:
        """How each of `jobs` ended, in their order: a status, or the error that hides it."""
        async for _ in self.as_completed(jobs, **options):
            pass
        return [job.outcome for job in jobs if job.outcome is not None]

    async def generate_many(
        self, requests: Sequence[Mapping[str, Any]], to: Sequence[Target], *, overwrite: bool = False, **options: Any
    ) -> AsyncIterator[SavedImage | UmrgenError]:
        """`generate` for several requests (`prompt` and what else `submit` takes); each result as it is there.

        All are submitted at once, unless the server runs one job at a time: then one after the other.
        """
        run = self._run(options)
        jobs: dict[str, tuple[AsyncJob, Target]] = {}
        waiting = list(zip(requests, to, strict=True))
        while waiting:
            request, place = waiting[0]
            try:
                job = await self._submit_to(run, request, place, overwrite=overwrite, wait_for_slot=False)
            except ConcurrencyLimit:
                break
            jobs[job.id] = job, place
            del waiting[0]
        many = WatchMany(run, list(jobs))
        while many.pending:
            for job_id, outcome in (await self._drive(many.next_over())).items():
                job, place = jobs[job_id]
                job.outcome = outcome
                yield await _caught(job, place, overwrite)
        for request, place in waiting:
            job = await self._submit_to(run, request, place, overwrite=overwrite, wait_for_slot=True)
            yield await _caught(job, place, overwrite)

    async def _submit_to(
        self, run: CallContext, request: Mapping[str, Any], to: Target, *, overwrite: bool, wait_for_slot: bool
    ) -> AsyncJob:
        key = secrets.token_hex(16)
        place = Path(to) if to is not None else Path()
        return await self._submit(
            run, dict(request), key, target=place, overwrite=overwrite, wait_for_slot=wait_for_slot
        )

    # --- after an interruption ---

    async def resume(self, entry: Entry, to: Target = None, **options: Any) -> SavedImage:
        """Finish what `entry` of the journal says was begun: submit again under its key, wait, save.

        Raises as `generate`; ConnectionFailed when the job may or may not have been made on a server
        that keeps no idempotency keys.
        """
        run = self._run(options)
        if entry.job_id is None:
            await self._drive(check_keeps_keys(run))
            job = await self._submit(run, entry.request, entry.idempotency_key, entry=entry.id)
        else:
            job = AsyncJob(self, entry.job_id, run=run, entry=entry.id)
        target = to if to is not None else entry.target
        return await job.download(target, overwrite=entry.overwrite, again=True)

    # --- the server ---

    async def jobs(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """A page of this key's jobs on the server, newest first: `jobs` and `next_cursor`. May be Unsupported."""
        query = {"state": state, "limit": limit, "cursor": cursor}
        asked = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        return await self._drive(ask(self._run({}), "GET", f"{API}/jobs?{asked}"))

    async def upload(self, image: Path | str | bytes) -> str:
        """Upload a reference image, a file or bytes; give its name for `reference_images`. May be Unsupported."""
        return await self._drive(upload(self._run({}), read_image(image)))

    async def capabilities(self) -> dict[str, Any]:
        """What this server can do. Raises Unsupported on servers without that call."""
        return await self._drive(ask(self._run({}), "GET", f"{API}/capabilities"))

    # --- inside ---

    def _run(self, changes: Mapping[str, Any]) -> CallContext:
        options, now = _with(self.options, changes), self.transport.clock.monotonic()
        return CallContext(options, now, notify=self._on_event, random=self._random, budget=self._budget)

    async def _drive(self, flow: Flow[R]) -> R:
        return await drive_async(flow, self.transport.send, self.transport.clock.sleep)


async def _caught(job: AsyncJob, to: Target, overwrite: bool) -> SavedImage | UmrgenError:
    try:
        return await job.download(to, overwrite=overwrite)
    except UmrgenError as error:
        return error


def _request(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request's body: what was not said stays out, so that the server's own defaults hold."""
    return {"prompt": prompt} | {name: value for name, value in parameters.items() if value is not None}


def _with(options: Options, changes: Mapping[str, Any]) -> Options:
    unknown = set(changes) - set(Options.__slots__)
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    return replace(options, **changes)
