"""`umrgen generate` and `umrgen submit`."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import (
    CommandOutput,
    EncodedText,
    F,
    check_stdout,
    exit_on_error,
    output_options,
    run,
    target_option,
)
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.cli.display import display_option, show_images
from umrgen.cli.parameters import LoraText, Ratio, with_sides
from umrgen.errors import UmrgenError, Unsupported, WaitTimeout

if TYPE_CHECKING:
    from umrgen.cli.embedded import EmbeddedServer
    from umrgen.client.async_client import AsyncClient
    from umrgen.image_files import SavedImage
    from umrgen.provenance import Provenance

__all__ = ["generate", "submit"]


def request_options(command: F) -> F:
    """Add the options of a request."""
    for option in (
        click.option("--wait-for-slot", is_flag=True, help="Wait while the key has too many jobs, instead of failing."),
        click.option(
            "--reference",
            "references",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="An image file as a reference; may be repeated.",
        ),
        click.option("--seed", type=int, help="The same seed draws the same image; random by default."),
        click.option("--steps", type=int, help="The number of steps (the engine's own)."),
        click.option("--cfg", type=float, help="The guidance scale: how strictly the image follows the prompt."),
        click.option("--model", metavar="NAME", type=EncodedText(), help="A model, of those the server has."),
        click.option(
            "--lora",
            "loras",
            metavar="NAME[:STRENGTH]",
            multiple=True,
            type=LoraText(),
            help="A LoRA, and how strongly it applies (1.0); may be repeated.",
        ),
        click.option("--height", type=int, help="The height in pixels (1024)."),
        click.option("--width", type=int, help="The width in pixels (1024)."),
        click.option(
            "--ratio", type=Ratio(), metavar="W:H", help="The ratio of the sides, for an image of about 1024² pixels."
        ),
        click.option(
            "--webhook",
            "webhook_url",
            metavar="URL",
            type=EncodedText(),
            help="A URL to which the server sends a webhook when the job is over.",
        ),
        click.option("--negative", type=EncodedText(), help="A negative prompt: contents to avoid."),
        click.option(
            "--like",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Use the prompt and the settings in this image file; other options change them.",
        ),
        click.argument("prompt", type=EncodedText(), required=False),
    ):
        command = option(command)
    return command


def _server(
    connection: ConnectionOptions, output: CommandOutput, *, webhook: bool
) -> AbstractContextManager["EmbeddedServer | None"]:
    """Return the context of the command's server: None when one is configured, or an embedded one."""
    if connection.configured:
        return nullcontext()
    from umrgen.cli.embedded import embedded_server

    if webhook:
        raise UmrgenError(
            "a temporary server ends with the command, so it cannot send a webhook",
            code="no_server",
            next="Set UMRGEN_BASE_URL to a permanent server.",
        )
    if not output.machine_readable:
        click.echo("no server is configured: starting one on this machine for this command", err=True)
    return embedded_server()


@contextmanager
def _advice_of_resume() -> Iterator[None]:
    """Let the error of a job that is not over name the command that saves its image at its target."""
    try:
        yield
    except WaitTimeout as error:
        if error.job_id is not None:
            error.next = f"Save its image later with: umrgen resume {error.job_id}"
        raise


def describe_image(image: "SavedImage", seconds: float) -> str:
    """Return the result of `generate` as text."""
    from umrgen.cli.progress import one_line

    origin = "" if image.engine is None else f" by {image.engine}"
    return "\n".join(
        [
            str(image.path),
            f"  {one_line(image)}, drawn{origin} in {seconds:.1f} s",
            f"  sha256 {image.sha256}",
            *(str(other.path) for other in image.others),
        ]
    )


@click.command()
@request_options
@target_option("The file or folder (JOB_ID.png).")
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), default=1, help="The number of images, each with another seed."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@display_option
@connection_options
@output_options
def generate(
    prompt: str | None,
    like: Path | None,
    to: Path | None,
    count: int,
    overwrite: bool,
    displayed: bool | None,
    references: tuple[Path, ...],
    connection: ConnectionOptions,
    output: CommandOutput,
    **request: Any,
) -> None:
    """Draw PROMPT and save the image: submit, wait, download, verify. With --like, PROMPT may be left out.

    The server is that of `umrgen login`, or of UMRGEN_BASE_URL; without one, a temporary server is started on this
    machine for this command. A terminal that can show images shows the result.
    """
    from umrgen.cli.many import draw_many
    from umrgen.cli.progress import ProgressPrinter
    from umrgen.cli.redraw import redrawn
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.target import prepare_target

    record = _record(prompt, like)
    request = with_sides(request)
    started = time.monotonic()
    drawn: list[SavedImage] = []
    printer = ProgressPrinter(output, quiet=count > 1)

    def work() -> None:
        check_stdout(to, output)
        for target in _targets(to, count):
            prepare_target(target, overwrite=overwrite)
        output.continuation = "umrgen resume"  # which saves the image at its target, also that of a temporary server
        with _server(connection, output, webhook=bool(request.get("webhook_url"))) as server, _advice_of_resume():
            asyncio.run(draw(server))
        show_images(drawn, displayed, output)

    async def draw(server: "EmbeddedServer | None") -> None:
        arguments = connection.arguments() | {"on_event": printer, "follow": printer.follow}
        if server is not None:
            arguments |= {"base_url": server.url, "api_key": server.key, "embedded": server.state}
        async with AsyncClient(**arguments) as client:
            full = await _request(client, {"prompt": prompt, **request}, record) | await _uploaded(client, references)
            if count == 1:
                async with redrawn(printer.redraw):
                    image = await client.generate(to=to, overwrite=overwrite, **full)
                printer.clear()
                seconds = time.monotonic() - started
                output.result(image.as_dict() | {"seconds": round(seconds, 3)}, describe_image(image, seconds))
                drawn.append(image)
            else:
                drawn.extend(
                    await draw_many(client, _requests(full, count), _targets(to, count), output, overwrite=overwrite)
                )

    exit_on_error(output, work)


async def _uploaded(client: "AsyncClient", references: tuple[Path, ...]) -> dict[str, list[str]]:
    """Upload the reference images; return the field of the request with their names."""
    return {"reference_images": [await client.upload(image) for image in references]} if references else {}


def _targets(to: Path | None, count: int) -> list[Path | None]:
    """Return the targets: `name-1.png`, `name-2.png`, ... for a file, the same for all for a folder or None."""
    from umrgen.client.target import is_folder, is_stream

    if count == 1 or to is None or is_folder(to):
        return [to] * count
    if is_stream(to):
        raise click.UsageError(f"{to} can have one image only: choose a folder with -o.")
    return [to.with_stem(f"{to.stem}-{number}") for number in range(1, count + 1)]


def _record(prompt: str | None, like: Path | None) -> "Provenance | None":
    """Return the record of the file that `--like` names; None without the option. Raises UsageError, UmrgenError."""
    if like is None:
        if prompt is None:
            raise click.UsageError("Missing argument 'PROMPT'.")
        return None
    from umrgen.cli.like import record_in

    return record_in(like)


async def _request(client: "AsyncClient", given: dict[str, Any], record: "Provenance | None") -> dict[str, Any]:
    """Return the request: `given`, or that of a record with the given changes, as far as the server can draw it.

    What it cannot draw as in the file is printed on stderr.
    """
    if record is None:
        return given
    from umrgen.cli.like import differences, request_like, supported

    request = request_like(record, given)
    try:
        server = await client.capabilities()
    except Unsupported:
        click.echo("note: an older server, which does not say what it can draw; the image may differ", err=True)
        return request
    for difference in differences(record, server):
        click.echo(f"note: {difference}", err=True)
    return supported(request, server)


def _requests(request: dict[str, Any], count: int) -> list[dict[str, Any]]:
    given = {name: value for name, value in request.items() if value is not None and name != "wait_for_slot"}
    first = given.pop("seed", None)
    first = secrets.randbelow(2**32 - count) if first is None else first
    return [{**given, "seed": first + number} for number in range(count)]


@click.command()
@request_options
@click.option("--idempotency-key", type=EncodedText(), help="Two submits with the same key create one job.")
@connection_options
@output_options
def submit(
    prompt: str | None,
    like: Path | None,
    references: tuple[Path, ...],
    connection: ConnectionOptions,
    output: CommandOutput,
    **request: Any,
) -> None:
    """Create a job for PROMPT and print its id; `umrgen fetch ID` saves the image."""
    from umrgen.cli.progress import ProgressPrinter
    from umrgen.client.async_client import AsyncClient

    record = _record(prompt, like)
    request = with_sides(request)

    async def work() -> None:
        printer = ProgressPrinter(output, quiet=True)
        async with AsyncClient(on_event=printer, **connection.arguments()) as client:
            full = await _request(client, {"prompt": prompt, **request}, record) | await _uploaded(client, references)
            job = await client.submit(**full)
        output.result({"job_id": job.id}, job.id)

    run(output, work)
