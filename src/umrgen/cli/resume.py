"""`umrgen resume`: finish the jobs of interrupted commands; `umrgen forget`: drop them."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import (
    CommandOutput,
    exit_on_error,
    json_option,
    output_options,
    target_option,
)
from umrgen.cli.completion import unfinished_ids
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.client.known_jobs import OTHER_KEY
from umrgen.errors import JobFailed, JobNotFound, OutputMissing, UmrgenError

if TYPE_CHECKING:
    from umrgen.cli.embedded import EmbeddedServer
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.journal import JournalEntry

__all__ = ["forget", "resume"]

CONCURRENT = 50
"""Jobs that are finished at the same time, so that one that never ends does not stop the others."""

_ENDED: tuple[tuple[type[UmrgenError], str], ...] = (
    (JobFailed, "failed"),
    (JobNotFound, "gone"),
    (OutputMissing, "missing"),
)


@click.command()
@click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...", shell_complete=unfinished_ids)
@target_option("Another file or folder than the original one.")
@click.option("--all", "every", is_flag=True, help="Also submit the jobs that an interrupted command did not submit.")
@connection_options
@output_options
def resume(
    job_ids: tuple[str, ...],
    to: Path | None,
    every: bool,
    connection: ConnectionOptions,
    output: CommandOutput,
) -> None:
    """Finish every unfinished job of this machine: wait, download, verify.

    Jobs on another server than the configured one are not changed, only listed. A job that cannot be finished (it
    failed, or the server no longer has it or its image) is reported once.
    """

    def work() -> None:
        from umrgen.client.journal import Journal
        from umrgen.client.target import is_stream

        entries = _selected(Journal().unfinished(), job_ids)
        if to is not None and is_stream(to):
            raise click.UsageError("`resume` saves files: use `umrgen fetch ID -o -` for stdout.")
        resumption = _Resumption(output, to, connection)
        resumption.run(entries, every=every or bool(job_ids))
        output.result({"jobs": resumption.rows}, "" if resumption.rows else "no unfinished jobs")
        if resumption.errors:
            raise resumption.errors[0]

    exit_on_error(output, work)


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...", shell_complete=unfinished_ids)
@json_option
def forget(job_ids: tuple[str, ...], as_json: bool) -> None:
    """Drop unfinished jobs from the journal of this machine. On the server, they are not changed.

    JOB_ID is the id of a job, or of an entry as `umrgen resume` prints it.
    """
    output = CommandOutput(as_json, as_events=False)

    def work() -> None:
        from umrgen.client.journal import Journal

        journal = Journal()
        entries = _selected(journal.unfinished(), job_ids)
        for entry in entries:
            journal.ended(entry.id, "forgotten")
        names = [entry.job_id or entry.id for entry in entries]
        output.result({"forgotten": names}, "\n".join(f"{name} is forgotten" for name in names))

    exit_on_error(output, work)


def _selected(entries: Sequence["JournalEntry"], names: Sequence[str]) -> list["JournalEntry"]:
    """Return the entries with these ids, or all without any. Raises UmrgenError for an unknown id."""
    for name in names:
        if not any(entry.names(name) for entry in entries):
            raise UmrgenError(
                f"the journal has no unfinished job {name}",
                code="not_in_journal",
                next="See: umrgen jobs --local; `umrgen fetch ID` saves the image of any job.",
            )
    return [entry for entry in entries if not names or entry.names(*names)]


class _Resumption:
    """One run of `umrgen resume`. `rows` are its results, and `errors` what prevented some of them."""

    def __init__(self, output: CommandOutput, to: Path | None, connection: ConnectionOptions) -> None:
        from umrgen.cli.progress import ProgressPrinter

        self.rows: list[dict[str, Any]] = []
        self.errors: list[UmrgenError] = []
        self._output = output
        self._to = to
        self._connection = connection
        self._choice = connection.choice()
        self._total = 0
        self._printer = ProgressPrinter(output)

    def run(self, entries: Sequence["JournalEntry"], *, every: bool) -> None:
        """Finish the entries; with `every`, submit those that were not submitted."""
        self._total = len(entries)
        if self._total > 1:
            self._printer.count(0, self._total)
        here, embedded = [], []
        for entry in entries:
            if entry.planned and not every:
                self._skip(entry, "not_submitted", "was never submitted")
            elif entry.embedded:
                embedded.append(entry)
            elif not self._is_here(entry):
                self._skip(entry, "elsewhere", f"is on {entry.server}: {_way_to(entry.server)}")
            elif self._may_be_repeated(entry) and not every:
                again = f"use that key; `umrgen resume {entry.id}` submits it with this one, perhaps a second time"
                self._skip(entry, OTHER_KEY, f"was submitted with another API key: {again}")
            else:
                here.append(entry)
        self._finish(here, nullcontext())
        for folder in dict.fromkeys(entry.server for entry in embedded):
            self._finish_embedded(Path(folder), [entry for entry in embedded if entry.server == folder])
        self._advise()

    def _is_here(self, entry: "JournalEntry") -> bool:
        return self._choice.base_url is not None and self._choice.server().base_url == entry.server

    def _may_be_repeated(self, entry: "JournalEntry") -> bool:
        """Return whether a submit now could make a second job: idempotency keys are those of one session."""
        unknown = entry.job_id is None and not entry.planned
        return unknown and entry.key_mark not in (None, self._choice.server().key_mark)

    def _finish(
        self, entries: Sequence["JournalEntry"], server: "AbstractContextManager[EmbeddedServer | None]"
    ) -> None:
        """Finish the entries of one server. Its own failure is an error of each of them."""
        if not entries:
            return
        try:
            with server as embedded:
                arguments = self._connection.arguments()
                if embedded is not None:
                    embedded.keep = True
                    arguments |= {"base_url": embedded.url, "api_key": embedded.key, "embedded": embedded.state}
                asyncio.run(self._finish_all(entries, arguments))
                if embedded is not None:
                    embedded.keep = bool(_unfinished(entries))
        except UmrgenError as error:
            for entry in entries:
                self._fail(entry, error)

    def _finish_embedded(self, folder: Path, entries: Sequence["JournalEntry"]) -> None:
        from umrgen.cli.embedded import embedded_server
        from umrgen.client.journal import Journal

        if folder.is_dir():
            self._finish(entries, embedded_server(folder))
            return
        for entry in entries:
            Journal().ended(entry.id, "gone")
            self._skip(entry, "gone", f"is gone: the folder {folder} of its temporary server was removed")

    async def _finish_all(self, entries: Sequence["JournalEntry"], arguments: dict[str, Any]) -> None:
        from umrgen.client.async_client import AsyncClient

        slots = asyncio.Semaphore(CONCURRENT)
        submitted = [entry for entry in entries if not entry.planned]
        follow = self._printer.follow and len(entries) == 1

        async def finish(entry: "JournalEntry") -> None:
            async with slots:
                await self._finish_one(client, entry)

        async with AsyncClient(on_event=self._printer, follow=follow, **arguments) as client:
            await asyncio.gather(*map(finish, submitted))
            for entry in entries:
                if entry.planned:
                    await self._finish_one(client, entry)

    async def _finish_one(self, client: "AsyncClient", entry: "JournalEntry") -> None:
        """Finish one entry; any error is recorded for this entry only."""
        try:
            image = await client.resume(entry, self._to)
        except UmrgenError as error:
            self._fail(entry, error)
        except Exception as error:
            self._fail(entry, UmrgenError(f"resuming failed: {type(error).__name__}", code="internal_error"))
        else:
            row = {"job_id": image.job_id, "state": "completed", "path": str(image.path)}
            paths = [str(each.path) for each in (image, *image.others)]
            self._add(row | ({"paths": paths} if image.others else {}), "  ".join(paths))

    def _fail(self, entry: "JournalEntry", error: UmrgenError) -> None:
        self.errors.append(error)
        ended = error.code != OTHER_KEY
        state = next((state for kind, state in _ENDED if ended and isinstance(error, kind)), "unfinished")
        row = _row(entry, state) | {"error": str(error), "code": error.code}
        self._add(row, str(error))

    def _skip(self, entry: "JournalEntry", state: str, reason: str) -> None:
        self._add(_row(entry, state), reason)

    def _add(self, row: dict[str, Any], text: str) -> None:
        self.rows.append(row)
        self._printer.clear()
        if not self._output.machine_readable:
            click.echo(f"{row['job_id'] or row.get('entry') or '(not confirmed)'}  {text}")
        if self._total > len(self.rows):
            self._printer.count(len(self.rows), self._total)

    def _advise(self) -> None:
        """Print the commands for the entries that remain."""
        if self._output.machine_readable:
            return
        planned = [row for row in self.rows if row["state"] == "not_submitted"]
        if planned:
            click.echo(f"{len(planned)} not submitted; submit with: umrgen resume --all", err=True)
        if planned or any(row["state"] == "unfinished" for row in self.rows):
            click.echo("drop an unfinished job with: umrgen forget ID", err=True)


def _way_to(server: str) -> str:
    """Return how to resume the jobs of another server: with the profile that has its address, if there is one."""
    from umrgen.client.config import Profiles

    with suppress(UmrgenError):
        for name, profile in Profiles().all().items():
            if profile.base_url == server:
                return f"umrgen resume --profile {name}"
    return "set UMRGEN_BASE_URL to resume it"


def _row(entry: "JournalEntry", state: str) -> dict[str, Any]:
    row: dict[str, Any] = {"job_id": entry.job_id, "state": state, "path": None}
    if entry.job_id is None and state != "elsewhere":
        row |= {"entry": entry.id, "prompt": entry.request.get("prompt")}
    return row


def _unfinished(entries: Sequence["JournalEntry"]) -> list["JournalEntry"]:
    from umrgen.client.journal import Journal

    ids = {entry.id for entry in entries}
    return [entry for entry in Journal().unfinished() if entry.id in ids]
