"""`umrgen generate` and `umrgen submit`."""

import asyncio
import os
import secrets
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import (
    F,
    Output,
    client_arguments,
    connection_options,
    guarded,
    output_options,
    run,
    target_option,
)
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.cli.embedded import EmbeddedServer
    from umrgen.client.async_client import AsyncClient
    from umrgen.image_files import SavedImage

__all__ = ["generate", "submit"]


def request_options(command: F) -> F:
    """Adds what a picture is asked for with."""
    for option in (
        click.option("--wait-for-slot", is_flag=True, help="Queue behind the job of a server that runs one at a time."),
        click.option(
            "--reference",
            "references",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="An image file to be guided by; may be given several times.",
        ),
        click.option("--seed", type=int, help="The same seed gives the same picture; random when not given."),
        click.option("--steps", type=int, help="How long to refine it (4)."),
        click.option("--height", type=int, help="Pixels (1024)."),
        click.option("--width", type=int, help="Pixels (1024)."),
        click.option("--webhook", "webhook_url", metavar="URL", help="Have the server tell this URL when it is over."),
        click.option("--negative", help="What should not be in it."),
        click.argument("prompt"),
    ):
        command = option(command)
    return command


def _server(base_url: str | None, output: Output, *, webhook: bool) -> AbstractContextManager["EmbeddedServer | None"]:
    """The configured server (None), or one of this call's own."""
    if base_url or os.environ.get("UMRGEN_BASE_URL"):
        return nullcontext()
    from umrgen.cli.embedded import embedded_server

    if webhook:
        raise UmrgenError(
            "a server of this call's own ends with it, and sends no webhook",
            code="no_server",
            next="Set UMRGEN_BASE_URL to a server that stays.",
        )
    if not output.for_programs:
        click.echo("no server is configured: starting one on this machine for this call", err=True)
    return embedded_server()


def describe_image(image: "SavedImage", seconds: float) -> str:
    from umrgen.cli.show import human_bytes

    kind = image.media_type.removeprefix("image/").upper()
    return (
        f"{image.path}\n"
        f"  {image.width} × {image.height} {kind}, {human_bytes(image.bytes)}, seed {image.seed}, "
        f"drawn by {image.engine} in {seconds:.1f} s\n"
        f"  sha256 {image.sha256}"
    )


@click.command()
@request_options
@target_option("File or folder (JOB_ID.png).")
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), default=1, help="How many pictures, each with its own seed."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@connection_options
@output_options
def generate(
    prompt: str,
    to: Path | None,
    count: int,
    overwrite: bool,
    references: tuple[Path, ...],
    base_url: str | None,
    timeout: float | None,
    output: Output,
    **request: Any,
) -> None:
    """Draw PROMPT and save the image: submit, wait, download, verify.

    Without UMRGEN_BASE_URL, a server is started on this machine for this one call.
    """
    from umrgen.cli.show import ProgressPrinter
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.partial import check_target

    started = time.monotonic()
    show = ProgressPrinter(output)
    targets = _targets(to, count)

    def work() -> None:
        for target in targets:
            if target is not None and not target.is_dir():
                check_target(target, overwrite=overwrite)
        with _server(base_url, output, webhook=bool(request.get("webhook_url"))) as server:
            asyncio.run(draw(server))

    async def draw(server: "EmbeddedServer | None") -> None:
        arguments = client_arguments(base_url, timeout) | {"on_event": show, "follow": show.follow}
        if server is not None:
            arguments |= {"base_url": server.url, "api_key": server.key, "embedded": server.state}
        async with AsyncClient(**arguments) as client:
            request.update(await _uploaded(client, references))
            if count == 1:
                image = await client.generate(prompt, to, overwrite=overwrite, **request)
                show.clear()
                seconds = time.monotonic() - started
                output.result(image.as_dict() | {"seconds": round(seconds, 3)}, describe_image(image, seconds))
            else:
                await _draw_many(client, _requests(prompt, request, count), targets, overwrite, output, show)

    guarded(output, work)


async def _uploaded(client: "AsyncClient", references: tuple[Path, ...]) -> dict[str, list[str]]:
    """The files as the request names them, uploaded."""
    return {"reference_images": [await client.upload(image) for image in references]} if references else {}


def _targets(to: Path | None, count: int) -> list[Path | None]:
    """`name-1.png`, `name-2.png`, ... for a file; a folder or nothing is the same for all."""
    if count == 1 or to is None or to.is_dir():
        return [to] * count
    return [to.with_stem(f"{to.stem}-{number}") for number in range(1, count + 1)]


def _requests(prompt: str, request: dict[str, Any], count: int) -> list[dict[str, Any]]:
    given = {name: value for name, value in request.items() if value is not None and name != "wait_for_slot"}
    first = given.pop("seed", None)
    first = secrets.randbelow(2**32 - count) if first is None else first
    return [{"prompt": prompt, **given, "seed": first + number} for number in range(count)]


async def _draw_many(
    client: "AsyncClient",
    requests: list[dict[str, Any]],
    targets: list[Path | None],
    overwrite: bool,
    output: Output,
    show: Any,
) -> None:
    images, errors = [], []
    async for result in client.generate_many(requests, targets, overwrite=overwrite):
        show.clear()
        if isinstance(result, UmrgenError):
            errors.append(result)
        else:
            images.append(result.as_dict())
            if not output.for_programs:
                click.echo(str(result.path))
    told = {"images": images, "errors": [error.as_dict() for error in errors]}
    if output.for_programs:
        output.result(told, "")
    if errors:
        raise errors[0]


@click.command()
@request_options
@click.option("--idempotency-key", help="Submitting twice under one key makes one job.")
@connection_options
@output_options
def submit(
    prompt: str,
    references: tuple[Path, ...],
    base_url: str | None,
    timeout: float | None,
    output: Output,
    **request: Any,
) -> None:
    """Make a job for PROMPT and print its id; `umrgen fetch ID` gets the image."""
    from umrgen.cli.show import ProgressPrinter
    from umrgen.client.async_client import AsyncClient

    async def work() -> None:
        show = ProgressPrinter(output, quiet=True)
        async with AsyncClient(on_event=show, **client_arguments(base_url, timeout)) as client:
            request.update(await _uploaded(client, references))
            job = await client.submit(prompt, **request)
        output.result({"job_id": job.id}, job.id)

    run(output, work)
