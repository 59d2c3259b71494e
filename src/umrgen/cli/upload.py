"""`umrgen upload`."""

from pathlib import Path

import click

from umrgen.cli.common import CommandOutput, output_options, run
from umrgen.cli.connection import ConnectionOptions, connection_options

__all__ = ["upload"]


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@connection_options
@output_options
def upload(image: Path, connection: ConnectionOptions, output: CommandOutput) -> None:
    """Upload the reference image IMAGE and print its name for requests."""
    from umrgen.client.async_client import AsyncClient

    async def work() -> None:
        async with AsyncClient(**connection.arguments()) as client:
            name = await client.upload(image)
        output.result({"filename": name}, name)

    run(output, work)
