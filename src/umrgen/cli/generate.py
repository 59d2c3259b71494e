"""`umrgen generate` and `umrgen submit`."""

import asyncio
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from umrgen.cli.common import F, Output, client_arguments, connection_options, guarded, output_options, run

__all__ = ["generate", "submit"]


def request_options(command: F) -> F:
    """Adds what a picture is asked for with."""
    for option in (
        click.option("--wait-for-slot", is_flag=True, help="Queue behind the job of a server that runs one at a time."),
        click.option("--seed", type=int, help="The same seed gives the same picture; random when not given."),
        click.option("--steps", type=int, help="How long to refine it (4)."),
        click.option("--height", type=int, help="Pixels (1024)."),
        click.option("--width", type=int, help="Pixels (1024)."),
        click.option("--negative", help="What should not be in it."),
        click.argument("prompt"),
    ):
        command = option(command)
    return command


@click.command()
@request_options
@click.option("-o", "--output", "to", type=click.Path(path_type=Path), help="File or folder (JOB_ID.png).")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@connection_options
@output_options
def generate(
    prompt: str,
    to: Path | None,
    overwrite: bool,
    base_url: str | None,
    timeout: float | None,
    output: Output,
    **request: Any,
) -> None:
    """Draw PROMPT and save the image: submit, wait, download, verify.

    Without UMRGEN_BASE_URL, a server is started on this machine for this one call.
    """
    from umrgen.cli.show import Show, human_bytes
    from umrgen.client import AsyncClient
    from umrgen.retrieval import check_target

    started = time.monotonic()
    show = Show(output)

    def server() -> AbstractContextManager[tuple[str | None, str | None]]:
        if base_url or os.environ.get("UMRGEN_BASE_URL"):
            return nullcontext((base_url, None))
        from umrgen.cli.embedded import embedded_server

        if not output.for_programs:
            click.echo("no server is configured: starting one on this machine for this call", err=True)
        return embedded_server()

    def work() -> None:
        if to is not None and not to.is_dir():
            check_target(to, overwrite=overwrite)
        with server() as (url, key):
            asyncio.run(draw(url, key))

    async def draw(url: str | None, key: str | None) -> None:
        async with AsyncClient(
            api_key=key, on_event=show, follow=show.follow, **client_arguments(url, timeout)
        ) as client:
            image = await client.generate(prompt, to, overwrite=overwrite, **request)
        show.clear()
        seconds = time.monotonic() - started
        kind = image.media_type.removeprefix("image/").upper()
        output.result(
            image.as_dict() | {"seconds": round(seconds, 3)},
            f"{image.path}\n"
            f"  {image.width} × {image.height} {kind}, {human_bytes(image.bytes)}, seed {image.seed}, "
            f"drawn by {image.engine} in {seconds:.1f} s\n"
            f"  sha256 {image.sha256}",
        )

    guarded(output, work)


@click.command()
@request_options
@click.option("--idempotency-key", help="Submitting twice under one key makes one job.")
@connection_options
@output_options
def submit(
    prompt: str,
    base_url: str | None,
    timeout: float | None,
    output: Output,
    **request: Any,
) -> None:
    """Make a job for PROMPT and print its id; `umrgen fetch ID` gets the image."""
    from umrgen.cli.show import Show
    from umrgen.client import AsyncClient

    async def work() -> None:
        show = Show(output)
        async with AsyncClient(on_event=show, **client_arguments(base_url, timeout)) as client:
            job = await client.submit(prompt, **request)
        output.result({"job_id": job.id}, job.id)

    run(output, work)
