"""Commands about jobs that exist: status, wait, fetch."""

from pathlib import Path

import click

from umrgen.cli.common import Output, client_arguments, connection_options, output_options, run

__all__ = ["fetch", "status", "wait"]


@click.command()
@click.argument("job_id")
@connection_options
@output_options
def status(job_id: str, base_url: str | None, timeout: float | None, output: Output) -> None:
    """Print how job JOB_ID stands; with --json, as the server gave it."""
    from umrgen.cli.show import describe
    from umrgen.client import AsyncClient

    async def work() -> None:
        async with AsyncClient(**client_arguments(base_url, timeout)) as client:
            found = await client.job(job_id).status()
        words = describe(found) + (f": {found.error}" if found.error else "")
        output.result(dict(found.raw), "\n".join([words, *found.images]))

    run(output, work)


@click.command()
@click.argument("job_id")
@connection_options
@output_options
def wait(job_id: str, base_url: str | None, timeout: float | None, output: Output) -> None:
    """Wait until job JOB_ID is over. Exit code 0: completed; 5: failed; 3: still alive."""
    from umrgen.cli.show import Show, describe
    from umrgen.client import AsyncClient

    output.job_ids.append(job_id)

    async def work() -> None:
        show = Show(output)
        async with AsyncClient(on_event=show, follow=show.follow, **client_arguments(base_url, timeout)) as client:
            over = await client.job(job_id).wait()
        show.clear()
        output.result(dict(over.raw), "\n".join([describe(over), *over.images]))

    run(output, work)


@click.command()
@click.argument("job_id")
@click.option("-o", "--output", "to", type=click.Path(path_type=Path), help="File or folder (JOB_ID.png).")
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
    from umrgen.cli.show import Show
    from umrgen.client import AsyncClient

    output.job_ids.append(job_id)

    async def work() -> None:
        show = Show(output)
        arguments = client_arguments(base_url, timeout) | {"follow_foreign": follow_foreign}
        async with AsyncClient(on_event=show, follow=show.follow, **arguments) as client:
            images = await client.job(job_id).download_all(to, overwrite=overwrite)
        show.clear()
        first = images[0].as_dict()
        if len(images) > 1:
            first["images"] = [image.as_dict() for image in images]
        output.result(first, "\n".join(str(image.path) for image in images))

    run(output, work)
