"""`umrgen config`: the settings in force and their sources, and a check of a server's settings file."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from umrgen.cli.common import CommandOutput, exit_on_error, json_option
from umrgen.cli.connection import ConnectionOptions, address_options
from umrgen.text import printable

__all__ = ["config"]


@dataclass(frozen=True, slots=True)
class ShownValue:
    """A value in force as it is shown, without secrets, and where it is set."""

    name: str
    value: str
    source: str

    def as_dict(self) -> dict[str, str]:
        """Return the value and its source as `--json` prints them."""
        return {"value": self.value, "source": self.source}

    def line(self, widths: tuple[int, int]) -> str:
        """Return the value as a line of a table."""
        return f"  {self.name:{widths[0]}}  {printable(self.value):{widths[1]}}  {printable(self.source)}".rstrip()


_ALWAYS = ("host", "port", "state", "engine")
"""The settings of a server that are shown although they have their default."""


def masked(secret: str | None) -> str:
    """Return a secret as it may be shown: its length, and the common beginning of our keys."""
    if not secret:
        return "none"
    return f"{'umr_' if secret.startswith('umr_') else ''}… ({len(secret)} characters)"


@click.group()
def config() -> None:
    """Show the settings in force, and check a server's settings file."""


@config.command()
@address_options
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="UMRGEN_CONFIG",
    help="The server's settings file. [UMRGEN_CONFIG]",
)
@click.option("--all", "every", is_flag=True, help="Also show the server's settings that have their default.")
@json_option
def show(connection: ConnectionOptions, file: Path | None, every: bool, as_json: bool) -> None:
    """Print the settings in force for the client and for a server on this machine, and where each is set.

    Keys and passwords are not printed.
    """
    output = CommandOutput(as_json, as_events=False)

    def work() -> None:
        parts = {"client": list(_client(connection)), "server": list(_server(file, every=every or as_json))}
        data = {part: {each.name: each.as_dict() for each in values} for part, values in parts.items()}
        output.result(data, "\n".join(_lines(parts)) + ("" if every else "\n\nAll settings of a server: --all"))

    exit_on_error(output, work)


@config.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Name each problem in the server's settings file FILE. Exit code 0 means that it has none, and 1 that it has some.

    The environment and the flags of `umrgen serve` are not part of the check.
    """
    from umrgen.server.settings_report import problems

    output = CommandOutput(as_json, as_events=False)
    found = list(problems(file))
    data = {"file": str(file), "ok": not found, "problems": [error.as_dict() for error in found]}
    lines = [f"{error}. {error.next}".rstrip() for error in found]
    output.result(data, "\n".join(lines) or f"{printable(str(file))} has no problem.")
    sys.exit(1 if found else 0)


def _lines(parts: dict[str, list[ShownValue]]) -> Iterator[str]:
    rows = [each for values in parts.values() for each in values]
    widths = max(len(each.name) for each in rows), min(44, max(len(each.value) for each in rows))
    for part, values in parts.items():
        yield part
        yield from (each.line(widths) for each in values)


def _client(connection: ConnectionOptions) -> Iterator[ShownValue]:
    """Yield the settings of the client."""
    from umrgen.client.config import Profiles
    from umrgen.client.journal import Journal
    from umrgen.client.proxies import proxy_for

    choice = connection.choice()
    yield ShownValue("server", without_password(choice.base_url or "none"), choice.url_source)
    yield ShownValue("key", masked(choice.key), choice.key_source)
    profiles = Profiles()
    yield ShownValue("profiles", ", ".join(profiles.all()) or "none", str(profiles.path))
    yield ShownValue("journal", str(Journal().path), _folder_source("XDG_DATA_HOME"))
    proxy = proxy_for(choice.base_url) if choice.base_url else None
    yield ShownValue("proxy", proxy.address if proxy else "none", proxy.variable if proxy else "environment")
    display = os.environ.get("UMRGEN_DISPLAY")
    yield ShownValue("display", display or "auto", "UMRGEN_DISPLAY" if display else "default")


def without_password(url: str) -> str:
    """Return an address without its user name and password."""
    return re.sub(r"//[^/]*@", "//…@", url)


def _folder_source(variable: str) -> str:
    return variable if os.environ.get(variable) else "default"


def _server(file: Path | None, *, every: bool) -> Iterator[ShownValue]:
    """Yield the settings of a server that is started here with this file."""
    from umrgen.server.settings_report import in_force

    for name, value, source in in_force(os.environ, file):
        if every or source != "default" or name in _ALWAYS:
            yield ShownValue(name, value, source)
