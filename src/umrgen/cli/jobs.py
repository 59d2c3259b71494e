"""Commands on existing jobs: status, watch, wait, fetch, cancel, delete."""

import sys
from pathlib import Path
from typing import Any

import click

from umrgen.cli.common import (
    CommandOutput,
    check_stdout,
    exit_code,
    exit_on_error,
    output_options,
    run,
    target_option,
)
from umrgen.cli.completion import job_ids
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.text import printable

__all__ = ["cancel", "delete", "fetch", "status", "wait", "watch"]


@click.command()
@click.argument("job_id", shell_complete=job_ids)
@connection_options
@output_options
def status(job_id: str, connection: ConnectionOptions, output: CommandOutput) -> None:
    """Print the status of job JOB_ID; with --json, the server's response."""
    from umrgen.cli.fast_path import status_once
    from umrgen.cli.progress import describe

    def work() -> None:
        found = status_once(job_id, connection.choice().server(), connection.timeout)
        output.result(dict(found.raw), "\n".join([describe(found), *map(printable, found.images)]))

    exit_on_error(output, work)


@click.command()
@click.argument("job_id", shell_complete=job_ids)
@connection_options
@output_options
def watch(job_id: str, connection: ConnectionOptions, output: CommandOutput) -> None:
    """Print each change of job JOB_ID until it is over."""
    from umrgen.cli.progress import describe
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.flows.wait import require_completed

    output.job_ids.append(job_id)

    async def work() -> None:
        async with AsyncClient(**connection.arguments()) as client:
            async for found in client.job(job_id).watch():
                if output.machine_readable:
                    output.as_events = True
                    output.event("status", dict(found.raw))
                else:
                    click.echo(describe(found))
        require_completed(found)
        if output.as_events:
            output.event("done", dict(found.raw))

    run(output, work)


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...", shell_complete=job_ids)
@connection_options
@output_options
def wait(job_ids: tuple[str, ...], connection: ConnectionOptions, output: CommandOutput) -> None:
    """Wait until the jobs are over. Exit code 0: all completed; 5: one failed; 3: one is not over."""
    from umrgen.cli.progress import ProgressPrinter, describe
    from umrgen.cli.redraw import redrawn
    from umrgen.client.async_client import AsyncClient

    output.job_ids += job_ids
    if len(job_ids) > 1:
        output.continuation = f"umrgen wait {' '.join(job_ids)}"
    printer = ProgressPrinter(output)

    async def wait_for_one() -> None:
        arguments = connection.arguments() | {"on_event": printer, "follow": printer.follow}
        async with AsyncClient(**arguments) as client, redrawn(printer.redraw):
            final = await client.job(job_ids[0]).wait()
        printer.clear()
        output.result(dict(final.raw), "\n".join([describe(final), *map(printable, final.images)]))

    async def wait_for_all() -> None:
        from umrgen.client.flows.wait import require_completed
        from umrgen.errors import UmrgenError

        statuses: list[dict[str, Any]] = []
        errors: list[UmrgenError] = []
        async with AsyncClient(on_event=printer, **connection.arguments()) as client:
            async for job in client.as_completed(client.job(job_id) for job_id in job_ids):
                outcome = job.outcome
                try:
                    if isinstance(outcome, UmrgenError):
                        raise outcome
                    assert outcome is not None
                    statuses.append(dict(outcome.raw))
                    require_completed(outcome)
                    text = "completed"
                except UmrgenError as error:
                    errors.append(error)
                    text = str(error)
                if not output.machine_readable:
                    click.echo(f"{job.id}  {text}")
        if output.machine_readable:
            output.result({"jobs": statuses, "errors": [error.as_dict() for error in errors]}, "")
            if errors:
                raise errors[0]
        elif errors:  # each has been printed
            click.echo(f"umrgen: {len(errors)} of {len(job_ids)} jobs are not completed.", err=True)
            sys.exit(exit_code(errors[0]))

    run(output, wait_for_one if len(job_ids) == 1 else wait_for_all)


@click.command()
@click.argument("job_id", shell_complete=job_ids)
@target_option("The file or folder (JOB_ID.png).")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--follow-foreign", is_flag=True, help="Allow an image on another host (without the API key).")
@connection_options
@output_options
def fetch(
    job_id: str,
    to: Path | None,
    overwrite: bool,
    follow_foreign: bool,
    connection: ConnectionOptions,
    output: CommandOutput,
) -> None:
    """Wait until job JOB_ID is completed, then save its image, verified."""
    from umrgen.cli.progress import ProgressPrinter
    from umrgen.cli.redraw import redrawn
    from umrgen.client.async_client import AsyncClient

    output.job_ids.append(job_id)

    async def work() -> None:
        check_stdout(to, output)
        printer = ProgressPrinter(output)
        arguments = connection.arguments() | {"follow_foreign": follow_foreign}
        arguments |= {"on_event": printer, "follow": printer.follow}
        async with AsyncClient(**arguments) as client, redrawn(printer.redraw):
            image = await client.job(job_id).download(to, overwrite=overwrite)
        printer.clear()
        output.result(image.as_dict(), "\n".join(str(each.path) for each in (image, *image.others)))

    run(output, work)


@click.command()
@click.argument("job_id", shell_complete=job_ids)
@connection_options
@output_options
def cancel(job_id: str, connection: ConnectionOptions, output: CommandOutput) -> None:
    """Cancel job JOB_ID on the server. A job that is over does not change.

    An older server cannot cancel jobs: they continue, and the command prints what to do instead.
    """
    from umrgen.cli.progress import describe
    from umrgen.client.async_client import AsyncClient

    async def work() -> None:
        async with AsyncClient(**connection.arguments()) as client:
            job = client.job(job_id)
            before = await job.status()
            found = before if before.over else await job.cancel()
        output.result(dict(found.raw), f"was over already: {describe(found)}" if before.over else describe(found))

    run(output, work)


@click.command()
@click.argument("chosen", nargs=-1, required=True, metavar="JOB_ID...", shell_complete=job_ids)
@connection_options
@output_options
def delete(chosen: tuple[str, ...], connection: ConnectionOptions, output: CommandOutput) -> None:
    """Delete jobs on the server: images, prompts, and their places in lists. Saved files stay.

    A job that is not over is cancelled. Exit code 1: one of them is unknown to the server; the others are deleted.
    """
    from umrgen.client.async_client import AsyncClient
    from umrgen.errors import JobNotFound

    async def work() -> None:
        async with AsyncClient(**connection.arguments()) as client:
            unknown = await client.delete_jobs(chosen)
        deleted = [job_id for job_id in dict.fromkeys(chosen) if job_id not in unknown]
        output.result({"deleted": deleted, "unknown": unknown}, "\n".join(f"{job_id}  deleted" for job_id in deleted))
        if unknown:
            raise JobNotFound(f"the server does not have {', '.join(unknown)}", next="See the ids: umrgen jobs")

    run(output, work)
