"""The options of every command that calls a server: its address, the key, the profile and the time limit."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import F
from umrgen.client.failures import disk_reason
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.client.config import ServerChoice

__all__ = ["ConnectionOptions", "address_options", "connection_options", "read_key"]


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The server as the options of a command name it; the environment and the profiles apply where they do not."""

    base_url: str | None = None
    api_key_file: Path | None = None
    profile: str | None = None
    timeout: float | None = None

    def choice(self) -> "ServerChoice":
        """Return the address and the key in force, with their sources. Raises UsageError and UmrgenError."""
        from umrgen.client.config import choose_server

        if self.base_url and self.profile:
            raise click.UsageError("--base-url and --profile each name a server: give one of them.")
        key = read_key(self.api_key_file) if self.api_key_file is not None else None
        return choose_server(self.base_url, key, profile=self.profile)

    @property
    def configured(self) -> bool:
        """Whether a server is named, here or elsewhere."""
        return self.choice().base_url is not None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `AsyncClient`. Raises UmrgenError."""
        choice = self.choice()
        time_limit = {} if self.timeout is None else {"timeout": self.timeout}
        return {"base_url": choice.base_url, "api_key": choice.key} | time_limit


def read_key(file: Path) -> str:
    """Return the first line of a file. Raises UmrgenError, which does not show the content."""
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            key = lines.readline(10_000).strip()
    except OSError as error:
        raise UmrgenError(
            f"the file with the API key, {file}, cannot be read: {disk_reason(error)}", code="bad_api_key"
        ) from None
    if not key:
        raise UmrgenError(f"the first line of {file} is empty: it must be the API key", code="bad_api_key")
    return key


def _profiles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the profiles, for the completion of a command line."""
    from umrgen.client.config import Profiles

    try:
        return [name for name in Profiles().all() if name.startswith(incomplete) and name.isprintable()]
    except UmrgenError:
        return []


class Seconds(click.FloatRange):
    """A number of seconds, at least 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def _timeout(command: F) -> F:
    option = click.option(
        "--timeout",
        type=Seconds(min=0),
        metavar="SECONDS",
        help="The time limit for the whole command, 600 seconds by default.",
    )
    return option(command)


def _address(command: F) -> F:
    for option in (
        click.option(
            "--api-key-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A file whose first line is the API key. [UMRGEN_API_KEY has the key itself]",
        ),
        click.option(
            "--profile",
            metavar="NAME",
            shell_complete=_profiles,
            help="The server and key that `umrgen login --profile NAME` has stored. [UMRGEN_PROFILE]",
        ),
        click.option("--base-url", metavar="URL", help="The server's address. [UMRGEN_BASE_URL]"),
    ):
        command = option(command)
    return command


def _collected(command: F) -> F:
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        base_url: str | None,
        api_key_file: Path | None,
        profile: str | None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        return command(*args, connection=ConnectionOptions(base_url, api_key_file, profile, timeout), **kwargs)

    return wrapped  # type: ignore[return-value]  # click replaces the signature


def address_options(command: F) -> F:
    """Add --base-url, --profile and --api-key-file; pass a `ConnectionOptions` to the command as `connection`."""
    return _address(_collected(command))


def connection_options(command: F) -> F:
    """Add the options of `address_options` and --timeout; pass `ConnectionOptions` to the command as `connection`."""
    return _address(_timeout(_collected(command)))
