"""`AsyncJob`: one job on one server."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

from umrgen.client.driver import FlowDriver
from umrgen.client.flow import CallContext, Event
from umrgen.client.flows.lost_submit import listed_image
from umrgen.client.flows.wait import StatusPoller, require_completed
from umrgen.client.flows.wait_many import Outcome
from umrgen.client.journal import JournalEntry
from umrgen.client.known_jobs import OTHER_KEY, describe_missing, is_from
from umrgen.client.older_servers import sent_seed, size_warnings
from umrgen.client.options import CallOptions
from umrgen.client.partial import translate_disk_errors
from umrgen.client.protocol import API, call_if_supported
from umrgen.client.retrieval import fetch_image
from umrgen.client.target import (
    FileObject,
    PathTarget,
    Target,
    check_target,
    is_stream,
    prepare_target,
    target_file,
)
from umrgen.errors import JobFailed, JobNotFound, OutputForbidden, OutputMissing, UmrgenError
from umrgen.image_files import SavedImage
from umrgen.model import State, Status, check_job_id

__all__ = ["NO_DELETION", "AsyncJob"]

NO_DELETION = "Jobs of this server cannot be deleted. Its images end with its own retention; ask its operator."
NO_FAVORITES = "Save the image: a server without favorites may delete it."


def _numbered(target: Path, index: int) -> Path:
    return target if index == 0 else target.with_stem(f"{target.stem}-{index + 1}")


class AsyncJob:
    """One job on one server. The constructor sends no request; it raises UmrgenError for an invalid id.

    `seen`: the server accepted this job in this process; `known`: it did so earlier, by the journal.
    """

    def __init__(
        self,
        driver: FlowDriver,
        job_id: str,
        *,
        seen: bool = False,
        known: bool = False,
        context: CallContext | None = None,
        entry: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = check_job_id(job_id)
        self.outcome: Outcome | None = None
        """How the job ended, once known: its final status, or the error that makes it unknown."""
        self._driver = driver
        self._seen = seen
        self._known = known or seen
        self._context = context
        self._entry = entry
        self._request = request

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def accepted(self) -> bool:
        """Whether the server has accepted this job or reported its status, in this process."""
        return self._seen

    async def watch(self, **options: Unpack[CallOptions]) -> AsyncIterator[Status]:
        """Yield each change of the job's status, until it is over."""
        poller = self._poller(options)
        while True:
            status = await self._next_change(poller)
            yield status
            if status.over:
                self.outcome = status
                return

    async def status(self) -> Status:
        """Return the current status of the job."""
        return await self._next_change(self._poller({"wait": 0, "patience": self._driver.options.submit_patience}))

    async def wait(self, **options: Unpack[CallOptions]) -> Status:
        """Wait until the job is completed; return its status. Raises JobFailed, WaitTimeout, OutputMissing, ..."""
        return await self._wait(self._poller(options))

    async def download(
        self, to: Target = None, *, overwrite: bool = False, again: bool = False, **options: Unpack[CallOptions]
    ) -> SavedImage:
        """Wait until the job is completed, then save its image, verified; return the saved image.

        `to` is a file or a folder; by default, the file is named after the job, in the current folder. Further images
        of the job are saved as `name-2.png` and so on: `others` of the result. With `again`, a file that already
        holds the same image is a success. To a file object, the first image is written, at once.
        """
        if isinstance(to, FileObject):
            return await self._write_to(to, options)
        first, *others = await self._download(to, options, overwrite=overwrite, again=again)
        return replace(first, others=tuple(others))

    async def image(self, **options: Unpack[CallOptions]) -> SavedImage:
        """Wait until the job is completed; return its image, verified, in memory: `data`. No file is left."""
        first, *others = await self._in_memory(options)
        self._close_entry("saved")
        return replace(first, others=tuple(others))

    async def download_all(
        self, to: Target = None, *, overwrite: bool = False, again: bool = False, **options: Unpack[CallOptions]
    ) -> list[SavedImage]:
        """Save every image of the job, as `download` does; return all of them."""
        if isinstance(to, FileObject):
            raise TypeError("download_all() saves several files: `to` is a file or a folder")
        return await self._download(to, options, overwrite=overwrite, again=again)

    async def cancel(self) -> Status:
        """Cancel the job on the server; return its status after that. Raises Unsupported on older servers."""
        flow = call_if_supported(
            self._driver.new_context({}),
            "POST",
            f"{API}/cancel/{self.id}",
            job_id=self.id,
            unsupported=f"this is an older server, which cannot cancel job {self.id}: the job continues",
            instead=f"Save its image with `umrgen fetch {self.id}`, or ignore it with `umrgen forget {self.id}`.",
        )
        return Status.parse(await self._driver.run(flow), self.id) or await self.status()

    async def favorite(self, favorite: bool = True) -> Status:
        """Make the job a favorite, which the server's retention keeps, or not; return its status after that.

        Raises JobNotFound, and Unsupported on older servers.
        """
        path, body = f"{API}/jobs/{self.id}", json.dumps({"favorite": favorite}).encode()
        flow = call_if_supported(
            self._driver.new_context({}), "PATCH", path, body=body, job_id=self.id, instead=NO_FAVORITES
        )
        return Status.parse(await self._driver.run(flow), self.id) or await self.status()

    async def delete(self) -> None:
        """Delete the job on the server: its images, its prompt, and its place in lists.

        A job that is not over is cancelled. Deleting it again is no error. Saved files stay. Raises JobNotFound for an
        unknown job, and Unsupported on older servers.
        """
        context = self._driver.new_context({})
        path = f"{API}/jobs/{self.id}"
        await self._driver.run(call_if_supported(context, "DELETE", path, job_id=self.id, instead=NO_DELETION))
        self.note_deleted()

    def note_deleted(self) -> None:
        """Note in the journal that the job is deleted: `umrgen resume` does not look for it."""
        self._close_entry("gone")

    def _poller(self, changes: Mapping[str, Any]) -> StatusPoller:
        """Return a poller with the deadline of the submit, or with a new one after that or for changed options."""
        context = self._context
        if context is None or changes or context.deadline <= self._driver.transport.clock.monotonic():
            context = self._driver.new_context(changes)
        return StatusPoller(context, self.id, seen=self._seen or self._known, answered=self._seen)

    async def _next_change(self, poller: StatusPoller) -> Status:
        try:
            status = await self._driver.run(poller.next_change())
        except JobNotFound as error:
            raise self.described(error) from None
        self._seen = True
        return status

    def described(self, error: JobNotFound) -> JobNotFound:
        """Return the error with what this machine's journal knows of the job."""
        transport = self._driver.transport
        return describe_missing(error, self._driver.journal, transport.base_url, transport.key_mark)

    async def _wait(self, poller: StatusPoller) -> Status:
        """Return the status of the completed job; close its journal entry when it can no longer complete."""
        try:
            if isinstance(self.outcome, UmrgenError):
                raise self.outcome
            if self.outcome is not None and (self.outcome.images or self.outcome.state == State.FAILED):
                return require_completed(self.outcome)  # an older server no longer has a failed job
            self.outcome = await self._driver.run(poller.result())
            self._seen = True
        except JobFailed:
            self._close_entry("failed")
            raise
        except OutputMissing:
            self._close_entry("missing")
            raise
        except JobNotFound as error:
            self.outcome = await self._forgotten_image(poller.context, error)
        return self.outcome

    async def _forgotten_image(self, context: CallContext, error: JobNotFound) -> Status:
        """Return the status of a job that an older server has forgotten, but whose image it still lists.

        Otherwise, close its journal entry, and raise `error` with what the journal knows of the job.
        """
        if not error.coded and (status := await self._driver.run(listed_image(context, self.id))):
            return status
        described = self.described(error)
        if described.code != OTHER_KEY:
            self._close_entry("gone")
        raise described from None

    async def _write_to(self, file: FileObject, options: Mapping[str, Any]) -> SavedImage:
        prepare_target(file, overwrite=True)
        first, *_ = await self._in_memory(options)
        with translate_disk_errors(first.path):
            await asyncio.to_thread(file.write, first.data)
        self._close_entry("saved")
        return first

    async def _in_memory(self, options: Mapping[str, Any]) -> list[SavedImage]:
        """Return the images with their bytes, under the names that their files would have."""
        with TemporaryDirectory(prefix="umrgen-") as folder:
            saved = await self._fetch(Path(folder), options, overwrite=False, again=False)
            return [
                replace(image, path=Path(image.path.name), content=await asyncio.to_thread(image.path.read_bytes))
                for image in saved
            ]

    async def _download(
        self, to: PathTarget, options: Mapping[str, Any], *, overwrite: bool, again: bool
    ) -> list[SavedImage]:
        saved = await self._fetch(to, options, overwrite=overwrite, again=again)
        self._close_entry("saved", saved[0].path)
        return saved

    async def _fetch(
        self, to: PathTarget, options: Mapping[str, Any], *, overwrite: bool, again: bool
    ) -> list[SavedImage]:
        """Wait, and save every image of the job; a stream gets the first."""
        prepare_target(to, overwrite=overwrite or again)
        target, any_suffix = target_file(to, self.id)
        check_target(target, overwrite=overwrite or again)
        poller = self._poller(options)
        status = await self._wait(poller)
        saved = []
        for index in range(1 if is_stream(target) else len(status.images)):
            path = _numbered(target, index)
            try:
                saved.append(await self._save(poller.context, status, index, path, overwrite, any_suffix, again))
            except OutputMissing:
                self._close_entry("missing")
                raise
        return saved

    async def _save(
        self,
        context: CallContext,
        status: Status,
        index: int,
        target: Path,
        overwrite: bool,
        any_suffix: bool,
        again: bool,
    ) -> SavedImage:
        for last in (False, True):
            try:
                path, facts = await fetch_image(
                    self._driver.transport,
                    context,
                    self.id,
                    status.images[index],
                    target,
                    overwrite=overwrite,
                    any_suffix=any_suffix,
                    again=again,
                    coded="attempt" in status.raw,  # older servers have no attempts, and no codes
                )
                break
            except (OutputForbidden, OutputMissing) as error:
                error.job_id = self.id
                if last or error.code == "foreign_output":
                    raise
                # The URL may have expired: get a new one by another status call.
                poller = StatusPoller(context, self.id, seen=True)
                poller.delay = context.options.running_interval
                try:
                    status = await self._driver.run(poller.result())
                except JobNotFound:
                    raise error from None
                if index >= len(status.images):
                    raise
        media, request = facts.media_type, self._known_request()
        saved = SavedImage(
            path,
            self.id,
            facts.bytes,
            facts.sha256,
            media,
            facts.width,
            facts.height,
            status.seed if status.seed is not None else sent_seed(request),
            status.engine,
        )
        for warning in size_warnings(saved, request) if index == 0 else ():
            context.notify(Event("warning", self.id, warning))
        return saved

    def _known_entry(self) -> JournalEntry | None:
        """Return the entry of the job in the journal, if it was submitted to this server."""
        journal = self._driver.journal
        entry = journal.find_job(self.id) if journal is not None else None
        return entry if entry is not None and is_from(entry, self._driver.transport.base_url) else None

    def _known_request(self) -> Mapping[str, Any]:
        """Return the request of the job, as far as this machine knows it."""
        if self._request is None:
            entry = self._known_entry()
            self._request = entry.request if entry is not None else {}
        return self._request

    def _close_entry(self, end: str, path: Path | None = None) -> None:
        journal = self._driver.journal
        if journal is None:
            return
        if self._entry is None:
            entry = self._known_entry()
            self._entry = entry.id if entry is not None and entry.end is None else None
        if self._entry is not None:
            journal.ended(self._entry, end, path)
