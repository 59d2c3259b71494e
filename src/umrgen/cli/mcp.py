"""`umrgen mcp`: tools for agents over standard input and output."""

import asyncio
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import CommandOutput, exit_on_error
from umrgen.cli.connection import ConnectionOptions, address_options
from umrgen.errors import UmrgenError
from umrgen.paths import pictures_home, user_path

if TYPE_CHECKING:
    from umrgen.cli.embedded import EmbeddedServer

__all__ = ["mcp"]


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="UMRGEN_MCP_FOLDER",
    help="The folder for the images.  [env var: UMRGEN_MCP_FOLDER]",
    show_default="Pictures/umrgen in your home folder",
)
@address_options
def mcp(folder: Path | None, connection: ConnectionOptions) -> None:
    """Serve image tools to an agent by the Model Context Protocol, on standard input and output.

    In the settings of an agent's host: the command `umrgen` with the argument `mcp`. Without a configured server
    (`umrgen login`, UMRGEN_BASE_URL), one is started on this machine with the first call.
    """

    def work() -> None:
        try:
            from umrgen.mcp.stdio import serve
        except ImportError as missing:
            raise UmrgenError(
                f"the packages for MCP are not installed: {missing.name} is missing", next="pip install 'umrgen[mcp]'"
            ) from None

        place = user_path(folder or pictures_home())
        asyncio.run(serve(connection.arguments(), place.absolute(), lambda: _server(connection)))

    exit_on_error(CommandOutput(as_json=False, as_events=False), work)


def _server(connection: ConnectionOptions) -> AbstractContextManager["EmbeddedServer | None"]:
    if connection.configured:
        return nullcontext()
    from umrgen.cli.embedded import embedded_server

    return embedded_server()
