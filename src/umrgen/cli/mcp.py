"""`umrgen mcp`: tools for agents over standard input and output."""

import asyncio
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import CommandOutput, exit_on_error
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
@click.option("--base-url", help="The server's address. [UMRGEN_BASE_URL]")
def mcp(folder: Path | None, base_url: str | None) -> None:
    """Serve image tools to an agent by the Model Context Protocol, on standard input and output.

    In the settings of an agent's host: the command `umrgen` with the argument `mcp`. Without UMRGEN_BASE_URL, a
    server is started on this machine with the first call.
    """

    def work() -> None:
        try:
            from umrgen.mcp.stdio import serve
        except ImportError as missing:
            raise UmrgenError(
                f"the packages for MCP are not installed: {missing.name} is missing", next="pip install 'umrgen[mcp]'"
            ) from None

        place = user_path(folder or pictures_home())
        asyncio.run(serve(base_url, place.absolute(), lambda: _server(base_url)))

    exit_on_error(CommandOutput(as_json=False, as_events=False), work)


def _server(base_url: str | None) -> AbstractContextManager["EmbeddedServer | None"]:
    if base_url or os.environ.get("UMRGEN_BASE_URL"):
        return nullcontext()
    from umrgen.cli.embedded import embedded_server

    return embedded_server()
