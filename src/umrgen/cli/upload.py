"""`umrgen upload`: the reference images on the server."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import CommandOutput, output_options, run
from umrgen.cli.connection import ConnectionOptions, connection_options

if TYPE_CHECKING:
    from umrgen.client.descriptions import ReferenceImage

__all__ = ["upload"]


@click.command()
@click.argument("image", required=False, type=click.Path(path_type=Path))
@click.option("--list", "listed", is_flag=True, help="List the reference images that this key has on the server.")
@click.option(
    "--delete", "deleted", metavar="NAME", multiple=True, help="Delete a reference image; it may be repeated."
)
@connection_options
@output_options
def upload(
    image: Path | None,
    listed: bool,
    deleted: tuple[str, ...],
    connection: ConnectionOptions,
    output: CommandOutput,
) -> None:
    """Upload the reference image IMAGE and print its name for requests; or list and delete those on the server.

    A queued job whose reference image is deleted fails.
    """
    from umrgen.client.async_client import AsyncClient

    if (image is not None) + listed + bool(deleted) != 1:
        raise click.UsageError("Give one of IMAGE, --list and --delete.")

    async def work() -> None:
        async with AsyncClient(**connection.arguments()) as client:
            if image is not None:
                name = await client.upload(image)
                output.result({"filename": name}, name)
            elif listed:
                found = await client.uploads()
                output.result({"references": [dict(each.raw) for each in found]}, _table(found))
            else:
                for name in deleted:
                    await client.delete_upload(name)
                output.result({"deleted": list(deleted)}, "\n".join(f"{name} is deleted" for name in deleted))

    run(output, work)


def _table(images: Sequence["ReferenceImage"]) -> str:
    """Return the list as text: name, size, bytes, and the time until the server deletes it."""
    return "\n".join(map(_line, images)) or "There are no reference images."


def _line(image: "ReferenceImage") -> str:
    from umrgen.cli.job_table import age
    from umrgen.cli.progress import human_bytes

    size = f"{image.width}×{image.height}" if image.width and image.height else "-"
    stored = human_bytes(image.bytes) if image.bytes is not None else "-"
    left = f"deleted in {age(image.expires_at.timestamp() - time.time())}" if image.expires_at else ""
    return f"{image.name}  {size:9}  {stored:>9}  {left}".rstrip()
