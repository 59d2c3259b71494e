"""`umrgen resume`: finish the jobs of interrupted commands."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import (
    CommandOutput,
    client_arguments,
    connection_options,
    exit_on_error,
    output_options,
    target_option,
)
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.cli.progress import ProgressPrinter
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.journal import JournalEntry

__all__ = ["resume"]


@click.command()
@click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
@target_option("Another file or folder than the original one.")
@connection_options
@output_options
def resume(
    job_ids: tuple[str, ...], to: Path | None, base_url: str | None, timeout: float | None, output: CommandOutput
) -> None:
    """Finish every unfinished job of this machine: wait, download, verify.

    Jobs on another server than the configured one are not changed, only listed.
    """
    from umrgen.cli.progress import ProgressPrinter
    from umrgen.client.journal import Journal

    journal = Journal()
    printer = ProgressPrinter(output)
    entries = [entry for entry in journal.unfinished() if not job_ids or entry.job_id in job_ids or entry.id in job_ids]
    results: list[dict[str, Any]] = []
    errors: list[UmrgenError] = []

    def work() -> None:
        unknown = set(job_ids) - {name for entry in entries for name in (entry.id, entry.job_id)}
        if unknown:
            raise UmrgenError(
                f"the journal has no unfinished job {sorted(unknown)[0]}",
                code="not_in_journal",
                next="See: umrgen jobs --local; `umrgen fetch ID` saves the image of any job.",
            )
        here, embedded, elsewhere = _by_server(entries, base_url)
        for entry in elsewhere:
            if not output.machine_readable:
                click.echo(f"not resumed: job {entry.job_id or entry.id} is on {entry.server}", err=True)
            results.append({"job_id": entry.job_id, "state": "elsewhere", "path": None})
        if here:
            asyncio.run(_finish(here, client_arguments(base_url, timeout)))
        for entry in embedded:
            _finish_embedded(entry)
        output.result({"jobs": results}, "\n".join(_line(result) for result in results) or "no unfinished jobs")
        if errors:
            raise errors[0]

    async def _finish(entries: Sequence["JournalEntry"], arguments: dict[str, Any]) -> None:
        from umrgen.client.async_client import AsyncClient

        async with AsyncClient(on_event=printer, follow=printer.follow, journal=journal, **arguments) as client:
            results.extend([await _one(client, entry, to, errors, printer) for entry in entries])

    def _finish_embedded(entry: "JournalEntry") -> None:
        from umrgen.cli.embedded import embedded_server

        if not Path(entry.server).is_dir():
            journal.ended(entry.id, "gone")
            results.append({"job_id": entry.job_id, "state": "gone", "path": None})
            return
        with embedded_server(Path(entry.server)) as server:
            arguments = client_arguments(server.url, timeout) | {"api_key": server.key}
            asyncio.run(_finish([entry], arguments))

    exit_on_error(output, work)


def _by_server(entries: Sequence["JournalEntry"], base_url: str | None) -> tuple[list["JournalEntry"], ...]:
    """Return the entries of the configured server, of embedded servers, and of other servers."""
    configured = (base_url or os.environ.get("UMRGEN_BASE_URL") or "").rstrip("/")
    here = [entry for entry in entries if not entry.embedded and entry.server == configured]
    embedded = [entry for entry in entries if entry.embedded]
    return here, embedded, [entry for entry in entries if entry not in here and not entry.embedded]


async def _one(
    client: "AsyncClient", entry: "JournalEntry", to: Path | None, errors: list[UmrgenError], printer: "ProgressPrinter"
) -> dict[str, Any]:
    from umrgen.errors import JobFailed

    try:
        image = await client.resume(entry, to)
    except UmrgenError as error:
        printer.clear()
        errors.append(error)
        state = "failed" if isinstance(error, JobFailed) else "unfinished"
        return {"job_id": entry.job_id, "state": state, "path": None, "error": str(error), "code": error.code}
    printer.clear()
    return {"job_id": image.job_id, "state": "completed", "path": str(image.path)}


def _line(result: dict[str, Any]) -> str:
    return f"{result['job_id']}  {result['path'] or result.get('error') or result['state']}"
