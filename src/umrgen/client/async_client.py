"""`AsyncClient`: the asynchronous client of a server."""

import json
import random
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self, Unpack
from urllib.parse import quote, urlencode

from umrgen.client.config import configured_server
from umrgen.client.descriptions import (
    Capabilities,
    ListedJob,
    ReferenceImage,
    RequestTemplate,
    ServerVerification,
    list_filters,
    parse_capabilities,
    parse_page,
    parse_references,
    parse_template,
    parse_templates,
    parse_unknown,
    require_filters,
)
from umrgen.client.driver import FlowDriver, with_changes
from umrgen.client.flow import CallContext, Event, Options
from umrgen.client.flows.lost_submit import LostSubmit, require_lost_job
from umrgen.client.flows.submit import submit, supports_idempotency
from umrgen.client.flows.upload import read_image, read_reference, upload, verify
from umrgen.client.flows.wait_many import BatchPoller, Outcome
from umrgen.client.job import NO_DELETION, AsyncJob
from umrgen.client.journal import DefaultJournal, Journal, JournalEntry
from umrgen.client.known_jobs import is_from
from umrgen.client.older_servers import receipt_warnings, with_seed
from umrgen.client.options import (
    CallOptions,
    Reference,
    RequestOptions,
    check_idempotency_key,
    check_names,
    check_values,
)
from umrgen.client.protocol import API, call_if_supported
from umrgen.client.responses import MAX_LIST
from umrgen.client.target import FileObject, Target, is_stream, prepare_target
from umrgen.client.transport import Transport
from umrgen.clock import Clock
from umrgen.errors import ConcurrencyLimit, InvalidRequest, JobNotFound, NotUmrgen, UmrgenError, UmrgenWarning
from umrgen.image_files import SavedImage
from umrgen.model import Status
from umrgen.paths import user_path

__all__ = ["AsyncClient"]

MAX_BATCH = 1000
"""Jobs of one call (contract)."""
MAX_PAGE = 200
"""Jobs of the longest page of the list (contract)."""
TEMPLATES = f"{API}/templates"
NO_TEMPLATES: Mapping[str, Any] = {
    "unsupported": "this server keeps no templates",
    "instead": "Keep the parameters of the request in a file.",
}
NO_REFERENCES: Mapping[str, Any] = {
    "unsupported": "this server does not list and delete reference images",
    "instead": "An older server keeps them until it restarts.",
}


@dataclass(frozen=True, slots=True)
class _PlannedSubmit:
    """One request of several, as it was given; its body, idempotency key, target, and entry in the journal."""

    given: Mapping[str, Any]
    request: Mapping[str, Any]
    key: str
    to: Target
    entry: str | None


class AsyncClient:
    """An asynchronous client of one server, with one API key.

    `base_url` and `api_key` default to UMRGEN_BASE_URL and UMRGEN_API_KEY, or else to the profile of
    `umrgen login` (UMRGEN_PROFILE, or the default one). Each value of `Options` can be set here by
    name, or for a single call: `AsyncClient(timeout=900)`, `job.wait(timeout=120)`. `on_event` is called with each
    event of a wait. `journal` records jobs for `umrgen resume`; None turns it off. Raises UmrgenError without a
    valid server address, and TypeError for an unknown option.
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
        **options: Unpack[CallOptions],
    ) -> None:
        self.options = with_changes(Options(), options)
        self.transport = Transport(configured_server(base_url, api_key), self.options, clock)
        self.journal = DefaultJournal() if journal is True else journal or None
        self._embedded = embedded
        self._driver = FlowDriver(
            self.transport, self.options, self.journal, on_event=on_event or (lambda event: None), random=random
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Jobs continue on the server."""
        await self.transport.aclose()

    # --- one job ---

    def job(self, job_id: str) -> AsyncJob:
        """Return an existing job by its id; sends no request. Raises UmrgenError for an invalid id."""
        return AsyncJob(self._driver, job_id)

    async def submit(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        wait_for_slot: bool = False,
        references: Sequence[Reference] = (),
        on_event: Callable[[Event], None] | None = None,
        **request: Unpack[RequestOptions],
    ) -> AsyncJob:
        """Create a job and return it without waiting for it.

        By default, a new `idempotency_key` is generated. With `wait_for_slot`, this waits while the server responds
        that the key has too many jobs. `references` are uploaded first; `on_event` is called with each event of this
        job. What the server does not honour is a UmrgenWarning. Raises TypeError for an unknown parameter, and
        InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
        """
        check_names("submit", request)
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
        context = self._driver.new_context({}, on_event)
        key = idempotency_key or secrets.token_hex(16)
        body, given = await self._request(prompt, request, references), idempotency_key is not None
        return await self._submit(context, body, key, given_key=given, wait_for_slot=wait_for_slot)

    async def generate(
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
        """Submit, wait and download; return the saved image. One deadline applies to all of it.

        The other arguments are those of `submit`.
        """
        check_names("generate", request)
        prepare_target(to, overwrite=overwrite)
        context = self._driver.new_context({} if timeout == -1 else {"timeout": timeout}, on_event)
        body, key = await self._request(prompt, request, references), secrets.token_hex(16)
        target = _resumable(to)
        job = await self._submit(context, body, key, target=target, overwrite=overwrite, wait_for_slot=wait_for_slot)
        return await job.download(to, overwrite=overwrite)

    async def _request(
        self, prompt: str, parameters: Mapping[str, Any], references: Sequence[Reference]
    ) -> dict[str, Any]:
        """Return the request's body, with the names of the references, which are uploaded."""
        body = _request(prompt, parameters)
        names = [await self.upload(reference) for reference in references]
        return body | ({"reference_images": [*body.get("reference_images", ()), *names]} if names else {})

    async def _submit(
        self,
        context: CallContext,
        request: Mapping[str, Any],
        key: str,
        *,
        target: Path | None = None,
        overwrite: bool = False,
        wait_for_slot: bool = False,
        given_key: bool = False,
        entry: str | None = None,
        again: bool = False,
    ) -> AsyncJob:
        planned = entry is not None and not again
        if entry is None:
            request = with_seed(request, key)
            entry = self._begin_entry(request, key, target, overwrite=overwrite)
        elif planned and self.journal is not None:
            self.journal.submitting(entry)
        flow = submit(
            context,
            request,
            key,
            wait_for_slot=wait_for_slot,
            known_ids=self._known_ids,
            on_postponed=lambda postponed: self._note_postponed(entry, postponed),
        )
        try:
            receipt = await self._driver.run(flow)
        except UmrgenError as error:
            self._note_refusal(entry, error, planned=planned, again=again)
            raise
        if self.journal is not None and entry is not None:
            self.journal.submitted(entry, receipt.job_id)
        wanted = {**request, "idempotency_key": given_key}
        for warning in (*receipt.warnings, *receipt_warnings(receipt.raw, wanted)):
            context.notify(Event("warning", receipt.job_id, warning))
            warnings.warn(f"{receipt.job_id}: {warning}", UmrgenWarning, stacklevel=3)
        return AsyncJob(self._driver, receipt.job_id, seen=True, context=context, entry=entry, request=request)

    def _begin_entry(
        self,
        request: Mapping[str, Any],
        key: str,
        target: Path | None,
        *,
        overwrite: bool,
        planned: bool = False,
    ) -> str | None:
        """Write an entry to the journal, if there is one; return the entry's id."""
        if self.journal is None:
            return None
        server, embedded = (str(self._embedded), True) if self._embedded else (self.transport.base_url, False)
        return self.journal.begin(
            server,
            request,
            key,
            target=target,
            overwrite=overwrite,
            embedded=embedded,
            planned=planned,
            key_mark=self.transport.key_mark,
        )

    def _note_postponed(self, entry: str | None, postponed: bool) -> None:
        if self.journal is not None and entry is not None:
            (self.journal.postponed if postponed else self.journal.submitting)(entry)

    def _note_refusal(self, entry: str | None, error: UmrgenError, *, planned: bool, again: bool) -> None:
        """Record a submit that has failed. Its entry is closed only when it is certain that there is no job."""
        if self.journal is None or entry is None or error.sent:
            return
        if planned and error.retryable:
            self.journal.postponed(entry)
        elif not again or isinstance(error, InvalidRequest):
            self.journal.ended(entry, "refused")

    # --- many jobs ---

    async def as_completed(self, jobs: Iterable[AsyncJob], **options: Unpack[CallOptions]) -> AsyncIterator[AsyncJob]:
        """Yield the jobs in the order in which they end, each with its `outcome`. One deadline applies to all."""
        by_id = {job.id: job for job in jobs}
        accepted = any(job.accepted for job in by_id.values())
        poller = BatchPoller(self._driver.new_context(options), list(by_id), seen=accepted)
        while poller.pending:
            for job_id, outcome in (await self._driver.run(poller.next_finished())).items():
                job = by_id[job_id]
                job.outcome = job.described(outcome) if isinstance(outcome, JobNotFound) else outcome
                yield job

    async def wait_all(self, jobs: Sequence[AsyncJob], **options: Unpack[CallOptions]) -> list[Outcome]:
        """Wait for all `jobs`; return their outcomes in the same order: a final status or an error for each."""
        async for _ in self.as_completed(jobs, **options):
            pass
        return [job.outcome for job in jobs if job.outcome is not None]

    async def generate_many(
        self,
        requests: Sequence[Mapping[str, Any]],
        to: Sequence[Target],
        *,
        overwrite: bool = False,
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[SavedImage | UmrgenError]:
        """Run several requests (`prompt` and other arguments of `submit`); yield each result when it is ready.

        All are submitted first. After a response that the key has too many jobs, the rest run one after the other.
        Another error of a submit is raised; the jobs that exist continue, and `umrgen resume` saves their images.
        `request` of each result is the request that it belongs to. `on_event` is called with each event of these jobs.
        """
        context = self._driver.new_context(options, on_event)
        jobs: dict[str, tuple[AsyncJob, _PlannedSubmit]] = {}
        bodies = [_body_of(request) for request in requests]  # all are checked before one is recorded
        planned = list(zip(requests, bodies, to, strict=True))
        waiting = [self._plan(given, body, place, overwrite) for given, body, place in planned]
        while waiting:
            try:
                job = await self._submit_planned(context, waiting[0], wait_for_slot=False)
            except ConcurrencyLimit:
                break
            except UmrgenError as error:
                self._give_up(waiting[1:], error)
                raise
            jobs[job.id] = job, waiting.pop(0)
        poller = BatchPoller(context, list(jobs), seen=True, on_status=_status_event(context))
        while poller.pending:
            for job_id, outcome in (await self._driver.run(poller.next_finished())).items():
                job, plan = jobs[job_id]
                job.outcome = outcome
                yield await _download_or_error(job, plan, overwrite)
        while waiting:
            try:
                job = await self._submit_planned(context, waiting[0], wait_for_slot=True)
            except UmrgenError as error:
                self._give_up(waiting[1:], error)
                raise
            yield await _download_or_error(job, waiting.pop(0), overwrite)

    def _plan(self, given: Mapping[str, Any], body: Mapping[str, Any], to: Target, overwrite: bool) -> "_PlannedSubmit":
        """Record a submit that is sent later, so that after an interruption it is known that it was never begun."""
        key = secrets.token_hex(16)
        body, target = with_seed(body, key), _resumable(to)
        return _PlannedSubmit(
            given, body, key, to, self._begin_entry(body, key, target, overwrite=overwrite, planned=True)
        )

    def _give_up(self, plans: Sequence["_PlannedSubmit"], error: UmrgenError) -> None:
        """Close the entries of submits that were not begun, unless they may succeed later."""
        for plan in plans:
            if self.journal is not None and plan.entry is not None and not error.retryable:
                self.journal.ended(plan.entry, "refused")

    async def _submit_planned(self, context: CallContext, plan: "_PlannedSubmit", *, wait_for_slot: bool) -> AsyncJob:
        return await self._submit(context, plan.request, plan.key, wait_for_slot=wait_for_slot, entry=plan.entry)

    # --- after an interruption ---

    def unfinished(self) -> list[JournalEntry]:
        """Return this machine's journal entries of this server whose jobs are not over or not saved, oldest first."""
        entries = self.journal.unfinished() if self.journal is not None else []
        return [entry for entry in entries if is_from(entry, self.transport.base_url)]

    async def resume(self, entry: JournalEntry, to: Target = None, **options: Unpack[CallOptions]) -> SavedImage:
        """Finish the job of a journal entry: submit it again under the same idempotency key, wait, and save its image.

        An entry whose submit was not begun is submitted, when the key has a slot for it. On a server without
        idempotency keys, a job whose id is not known is searched for. Raises as `generate`, JobNotFound when such a
        server does not have the job, and ConnectionFailed when that is not known.
        """
        context = self._driver.new_context(options)
        if entry.job_id is not None:
            job = AsyncJob(
                self._driver, entry.job_id, known=True, context=context, entry=entry.id, request=entry.request
            )
        elif entry.planned or await self._driver.run(supports_idempotency(context)):
            request, key = entry.request, entry.idempotency_key
            job = await self._submit(context, request, key, wait_for_slot=True, entry=entry.id, again=not entry.planned)
        else:
            job = await self._find_lost(context, entry)
        target = to if to is not None else entry.target
        return await job.download(target, overwrite=entry.overwrite, again=True)

    async def _find_lost(self, context: CallContext, entry: JournalEntry) -> AsyncJob:
        """Return the job of an entry without a job id, on a server without idempotency keys."""
        clock = self.transport.clock
        sent_at = clock.monotonic() - (clock.now() / 1000 - entry.begun_at)
        lost = LostSubmit(entry.request, sent_at, self._known_ids)
        try:
            job_id = await self._driver.run(require_lost_job(context, lost))
        except JobNotFound:
            if self.journal is not None:
                self.journal.ended(entry.id, "gone")
            raise
        if self.journal is not None:
            self.journal.submitted(entry.id, job_id)
        return AsyncJob(self._driver, job_id, context=context, entry=entry.id, request=entry.request)

    def _known_ids(self) -> set[str]:
        """Return the ids of the jobs in the journal."""
        entries = self.journal.entries() if self.journal is not None else []
        return {entry.job_id for entry in entries if entry.job_id is not None}

    # --- the server ---

    async def jobs(
        self,
        *,
        state: str | None = None,
        search: str | None = None,
        favorite: bool = False,
        engine: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[ListedJob]:
        """Yield this key's jobs, newest first, of all pages: at most `limit`.

        `search`: words that the prompt has, in any order and case; `favorite`: only favorites; `before` and `after`:
        when the job was made (a time without a zone is local). Raises Unsupported on servers without these.
        """
        if limit is not None and limit < 1:
            raise InvalidRequest(f"limit is {limit}; it is at least 1")
        check_values({"state": state, "search": search, "engine": engine})
        filters = list_filters(search, favorite, engine, before, after)
        cursor, left = None, limit
        while left is None or left > 0:
            query = {"state": state, "limit": min(left or MAX_PAGE, MAX_PAGE), "cursor": cursor} | filters
            arguments = urlencode({name: value for name, value in query.items() if value is not None})
            flow = call_if_supported(
                self._driver.new_context({}),
                "GET",
                f"{API}/jobs?{arguments}",
                limit=MAX_LIST,
                unsupported="this is an older server, which does not list jobs; those that it has continue",
                instead="See the jobs of this machine with `umrgen jobs --local`, and one job with `umrgen status ID`.",
            )
            page = parse_page(await self._driver.run(flow))
            if page is None:
                raise NotUmrgen("the response to the call for the list of jobs has no list")
            require_filters(page, filters)
            for job in page.jobs[:left]:
                yield job
            left = None if left is None else left - len(page.jobs)
            if page.next_cursor in (None, cursor) or not (page.jobs or filters):
                return
            cursor = page.next_cursor

    async def delete_jobs(self, jobs: Iterable[AsyncJob | str]) -> list[str]:
        """Delete jobs on the server, by their ids or as jobs; return the ids of those that this key does not have.

        As `AsyncJob.delete`. Raises Unsupported on older servers.
        """
        chosen = [job if isinstance(job, AsyncJob) else self.job(job) for job in jobs]
        unknown: list[str] = []
        for start in range(0, len(chosen), MAX_BATCH):
            part = chosen[start : start + MAX_BATCH]
            body = json.dumps({"job_ids": [job.id for job in part]}).encode()
            context = self._driver.new_context({})
            flow = call_if_supported(context, "POST", f"{API}/jobs/delete", body=body, instead=NO_DELETION)
            answer = await self._driver.run(flow)
            missing = parse_unknown(answer)
            unknown += missing
            for job in part:
                if job.id not in missing:
                    job.note_deleted()
        return unknown

    async def upload(self, image: Reference) -> str:
        """Upload a reference image; return its name for `reference_images`. Raises Unsupported and InvalidRequest."""
        return await self._driver.run(upload(self._driver.new_context({}), read_reference(image)))

    async def uploads(self) -> list[ReferenceImage]:
        """Return the reference images that this key has on the server. Raises Unsupported on older servers."""
        flow = call_if_supported(self._driver.new_context({}), "GET", f"{API}/upload-reference", **NO_REFERENCES)
        return parse_references(await self._driver.run(flow))

    async def delete_upload(self, name: str) -> None:
        """Delete a reference image; a queued job with it fails. Raises InvalidRequest when the server has none."""
        check_values({"name": name})
        path = f"{API}/upload-reference/{quote(name, safe='')}"
        try:
            await self._driver.run(call_if_supported(self._driver.new_context({}), "DELETE", path, **NO_REFERENCES))
        except InvalidRequest as error:
            error.next = "See the names with `umrgen upload --list`."
            raise

    async def templates(self) -> list[RequestTemplate]:
        """Return the requests that this key keeps on the server, by name. Raises Unsupported on older servers."""
        flow = call_if_supported(self._driver.new_context({}), "GET", TEMPLATES, limit=MAX_LIST, **NO_TEMPLATES)
        return parse_templates(await self._driver.run(flow))

    async def save_template(self, name: str, request: Mapping[str, Any]) -> RequestTemplate:
        """Keep fields of a request on the server under a name, in place of an earlier one; return what was stored.

        `request`: by their names in the API, all optional. Raises InvalidRequest and Unsupported.
        """
        body = json.dumps({"request": dict(request)}).encode()
        path = f"{TEMPLATES}/{quote(name, safe='')}"
        flow = call_if_supported(self._driver.new_context({}), "PUT", path, body=body, **NO_TEMPLATES)
        stored = parse_template(await self._driver.run(flow))
        if stored is None:
            raise NotUmrgen("the response to the call has no template")
        return stored

    async def delete_template(self, name: str) -> None:
        """Delete one of these requests; again is the same as once. Raises Unsupported on older servers."""
        path = f"{TEMPLATES}/{quote(name, safe='')}"
        await self._driver.run(call_if_supported(self._driver.new_context({}), "DELETE", path, **NO_TEMPLATES))

    async def verify(self, image: Reference) -> ServerVerification:
        """Return whether the server made an image, and what its C2PA manifest states; the server does not store it.

        Raises Unsupported on older servers, and InvalidRequest for a file that is no image. See `umrgen.verify` for
        the marks in the file, which needs no server.
        """
        return await self._driver.run(verify(self._driver.new_context({}), read_image(image)))

    async def capabilities(self) -> Capabilities:
        """Return what the server offers this key. Raises Unsupported on older servers."""
        flow = call_if_supported(self._driver.new_context({}), "GET", f"{API}/capabilities")
        return parse_capabilities(await self._driver.run(flow))


def _status_event(context: CallContext) -> Callable[[Status], None]:
    """Return a function that emits the event of a job's new status."""
    return lambda status: context.notify(Event("status", status.job_id, status.state, status.raw, status))


async def _download_or_error(job: AsyncJob, plan: _PlannedSubmit, overwrite: bool) -> SavedImage | UmrgenError:
    try:
        return replace(await job.download(plan.to, overwrite=overwrite), request=plan.given)
    except UmrgenError as error:
        error.request = plan.given
        return error


def _resumable(to: Target) -> Path:
    """Return the target for `resume`: the current folder in place of a pipe, which may be another process's by then."""
    path = Path() if to is None or isinstance(to, FileObject) else user_path(to)
    return Path() if is_stream(path) else path


def _body_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of one of several requests. Raises TypeError for an unknown parameter, and InvalidRequest."""
    parameters = {name: value for name, value in request.items() if name != "prompt"}
    check_names("submit", parameters)
    return _request(request["prompt"], parameters)


def _request(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's body without arguments that are None, so that the server's defaults apply.

    Raises InvalidRequest for a value that cannot be sent.
    """
    body = {"prompt": prompt} | {name: value for name, value in parameters.items() if value is not None}
    check_values(body)
    return body
