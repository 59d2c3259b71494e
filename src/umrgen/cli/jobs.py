"""Commands about jobs that exist: status, watch, wait, fetch, cancel."""

from pathlib import Path
from typing import Any

import click

from umrgen.cli.common import Output, client_arguments, connection_options, guarded, output_options, run, target_option

__all__ = ["cancel", "fetch", "status", "wait", "watch"]


@click.command()
@click.argument("job_id")
@connection_options
@output_options
def status(job_id: str, base_url: str | None, timeout: float | None, output: Output) -> None:
    """Print how job JOB_ID stands; with --json, as the server gave it."""
    from umrgen.cli.quick import status_once
    from umrgen.cli.show import describe

    def work() -> None:
        found = status_once(job_id, base_url, timeout)
        words = describe(found) + (f": {found.error}" if found.error else "")
        output.result(dict(found.raw), "\n".join([words, *found.images]))

    guarded(output, work)


@click.command()
@click.argument("job_id")
@connection_options
@output_options
def watch(job_id: str, base_url: str | None, timeout: float | None, output: Output) -> None:
    """Print every change of job JOB_ID until it is over."""
    from umrgen.cli.show import describe
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.flows.wait import finished

    output.job_ids.append(job_id)

    async def work() -> None:
        async with AsyncClient(**client_arguments(base_url, timeout)) as client:
            async for found in client.job(job_id).watch():
                if output.for_programs:
                    output.as_events = True
                    output.event("status", dict(found.raw))
                else:
                    click.echo(describe(found))
        finished(found)
        if output.as_events:
            output.event("done", dict(found.raw))

    run(output, work)


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
@connection_options
@output_options
def wait(job_ids: tuple[str, ...], base_url: str | None, timeout: float | None, output: Output) -> None:
    """Wait until the jobs are over. Exit code 0: all completed; 5: one failed; 3: one is still alive."""
    from umrgen.cli.show import ProgressPrinter, describe
    from umrgen.client.async_client import AsyncClient

    output.job_ids += job_ids
    show = ProgressPrinter(output)

    async def one() -> None:
        async with AsyncClient(on_event=show, follow=show.follow, **client_arguments(base_url, timeout)) as client:
            over = await client.job(job_ids[0]).wait()
        show.clear()
        output.result(dict(over.raw), "\n".join([describe(over), *over.images]))

    async def many() -> None:
        from umrgen.client.flows.wait import finished
        from umrgen.errors import UmrgenError

        told: list[dict[str, Any]] = []
        errors: list[UmrgenError] = []
        async with AsyncClient(on_event=show, **client_arguments(base_url, timeout)) as client:
            async for job in client.as_completed(client.job(job_id) for job_id in job_ids):
                outcome = job.outcome
                try:
                    if isinstance(outcome, UmrgenError):
                        raise outcome
                    assert outcome is not None
                    told.append(dict(outcome.raw))
                    finished(outcome)
                    words = "completed"
                except UmrgenError as error:
                    errors.append(error)
                    words = str(error)
                if not output.for_programs:
                    click.echo(f"{job.id}  {words}")
        if output.for_programs:
            output.result({"jobs": told, "errors": [error.as_dict() for error in errors]}, "")
        if errors:
            raise errors[0]

    run(output, one if len(job_ids) == 1 else many)


@click.command()
@click.argument("job_id")
@target_option("File or folder (JOB_ID.png).")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--follow-foreign", is_flag=True, help="Fetch an image that lies on another host (without the key).")
@connection_options
@output_options
def fetch(
    job_id: str,
    to: Path | None,
    overwrite: bool,
    follow_foreign: bool,
    base_url: str | None,
    timeout: float | None,
    output: Output,
) -> None:
    """Wait for job JOB_ID if need be, and save its image, verified."""
    from umrgen.cli.show import ProgressPrinter
    from umrgen.client.async_client import AsyncClient

    output.job_ids.append(job_id)

    async def work() -> None:
        show = ProgressPrinter(output)
        arguments = client_arguments(base_url, timeout) | {"follow_foreign": follow_foreign}
        async with AsyncClient(on_event=show, follow=show.follow, **arguments) as client:
            images = await client.job(job_id).download_all(to, overwrite=overwrite)
        show.clear()
        first = images[0].as_dict()
        if len(images) > 1:
            first["images"] = [image.as_dict() for image in images]
        output.result(first, "\n".join(str(image.path) for image in images))

    run(output, work)


@click.command()
@click.argument("job_id")
@connection_options
@output_options
def cancel(job_id: str, base_url: str | None, timeout: float | None, output: Output) -> None:
    """End job JOB_ID on the server. A job that is over stays as it is."""
    from umrgen.cli.show import describe
    from umrgen.client.async_client import AsyncClient

    async def work() -> None:
        async with AsyncClient(**client_arguments(base_url, timeout)) as client:
            found = await client.job(job_id).cancel()
        output.result(dict(found.raw), describe(found) + (f": {found.error}" if found.error else ""))

    run(output, work)
