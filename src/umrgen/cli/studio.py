"""`umrgen studio`: a new link to the studio of a server on this machine."""

import webbrowser
from pathlib import Path
from typing import Unpack

import click

from umrgen.cli.common import (
    CommandOutput,
    ServerOptions,
    exit_on_error,
    json_option,
    require_server_packages,
    server_options,
    server_settings,
)
from umrgen.errors import UmrgenError

__all__ = ["new_link", "studio"]

_NO_SERVER = "Start it with `umrgen serve`, or name its folder with --state, or its settings file with --config."
_NO_LINKS = "It listens on other addresses than loopback, or its studio is off. Use an API key: umrgen keys create."


@click.command()
@click.option("--open", "opens", is_flag=True, help="Also open the link in the browser of this machine.")
@server_options
@json_option
def studio(opens: bool, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Print a new link that opens the studio of the running server once, within ten minutes, without an API key.

    Only for a user with access to the state folder of the server, on the server's machine.
    """
    console = CommandOutput(as_json, False)

    def work() -> None:
        link = new_link(server_settings(**server).state)
        console.result({"studio": link}, link)
        if opens and not webbrowser.open(link):
            raise UmrgenError("this machine has no browser", next="Open the link yourself.")

    exit_on_error(console, work)


def new_link(state: Path) -> str:
    """Return a new link to the studio of the running server with this state folder. Raises UmrgenError."""
    with require_server_packages():
        from umrgen.clock import SystemClock
        from umrgen.server.serve import studio_link
        from umrgen.server.services.one_time_links import OneTimeLinks
        from umrgen.server.state import LINKS, studio_address

    address = studio_address(state)
    if address is None:
        raise UmrgenError(f"no server runs on the state folder {state}", code="no_server", next=_NO_SERVER)
    if not address:
        raise UmrgenError("the server accepts no links to the studio", code="no_studio", next=_NO_LINKS)
    try:
        return studio_link(address, OneTimeLinks(state / LINKS, SystemClock()))
    except OSError as error:
        raise UmrgenError(f"the state folder {state} cannot be written: {error.strerror}") from None
