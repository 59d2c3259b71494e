"""`umrgen login` and `umrgen logout`: the server and the key of this user, in a profile."""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from umrgen.cli.common import CommandOutput, exit_on_error, json_option
from umrgen.cli.connection import read_key
from umrgen.client.address import Server
from umrgen.client.config import DEFAULT_PROFILE, Profile, Profiles, check_profile_name
from umrgen.client.proxies import is_loopback
from umrgen.errors import ConnectionFailed, JobNotFound, NotUmrgen, ServerError, UmrgenError, Unauthorized

__all__ = ["login", "logout"]

URL_QUESTION = "The server's address (for example https://umrgen.example.org)"
KEY_QUESTION = "The API key (it is not shown)"
_PROFILE_OPTION = click.option(
    "--profile",
    metavar="NAME",
    envvar="UMRGEN_PROFILE",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="The name of the profile. [UMRGEN_PROFILE]",
)


@click.command()
@click.option("--base-url", metavar="URL", help="The server's address; without it, the command prompts for it.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file whose first line is the API key; without it, the command prompts for the key.",
)
@_PROFILE_OPTION
@json_option
def login(base_url: str | None, api_key_file: Path | None, profile: str, as_json: bool) -> None:
    """Store a server's address and an API key for all later commands, after a test of both.

    In a terminal, the command prompts for the address and for the key, which is not shown. Elsewhere it reads them from
    two lines of standard input. They are stored in a file in your configuration folder that only you can read.
    UMRGEN_BASE_URL and UMRGEN_API_KEY take precedence over them.
    """
    output = CommandOutput(as_json, as_events=False)

    def work() -> None:
        profiles = Profiles()
        check_profile_name(profile)
        earlier = profiles.all().get(profile)
        url = _checked(base_url) if base_url else _asked_address(earlier.base_url if earlier else None)
        server = Server(url, read_key(api_key_file) if api_key_file else _asked(KEY_QUESTION, "an API key", hide=True))
        _note_plain_http(server.base_url)
        _test(server)
        profiles.save(Profile(profile, server.base_url, server.key))
        data = {"profile": profile, "base_url": server.base_url, "file": str(profiles.path)}
        output.result(data, f"{server.base_url} accepts the key. Stored as profile {profile!r} in {profiles.path}.")
        _note_precedence(profile)

    exit_on_error(output, work)


@click.command()
@_PROFILE_OPTION
@json_option
def logout(profile: str, as_json: bool) -> None:
    """Remove a profile, and the key in it, from this machine. On the server, the key stays valid."""
    output = CommandOutput(as_json, as_events=False)

    def work() -> None:
        removed = Profiles().remove(profile)
        text = f"The profile {profile!r} of {removed.base_url} is removed. Its key is still valid on the server."
        output.result({"profile": profile, "base_url": removed.base_url}, text)

    exit_on_error(output, work)


def _asked_address(default: str | None) -> str:
    """Return the answer to the question for the address. A terminal gets the question again after a wrong address.

    Otherwise the command would end, and the shell would get the key that the user pastes next.
    """
    while True:
        try:
            return _checked(_asked(URL_QUESTION, "an address", default=default))
        except UmrgenError as error:
            if error.code != "bad_base_url" or not sys.stdin.isatty():
                raise
            click.echo(f"{error}. {error.next}", err=True)


def _checked(url: str) -> str:
    """Return the address. Raises UmrgenError for a wrong one."""
    return Server(url).base_url


def _asked(question: str, missing: str, *, hide: bool = False, default: str | None = None) -> str:
    """Return the answer to a question, or else the next line of standard input. Raises UmrgenError without one.

    An empty answer is `default`, if there is one.
    """
    if sys.stdin.isatty():
        answer: str = click.prompt(question, hide_input=hide, default=default, err=True)
    else:
        answer = sys.stdin.readline(10_000)
    if not answer.strip():
        raise UmrgenError(
            f"standard input does not have {missing}",
            code="no_input",
            next="Write the server's address and the API key to it, each on a line of its own; or use --base-url"
            " and --api-key-file.",
        )
    return answer.strip()


def _test(server: Server) -> None:
    """Call the server with the key. Raises Unauthorized, ConnectionFailed, NotUmrgen, ..."""
    from umrgen.cli.fast_path import status_once

    try:
        status_once("login_no_such_job", server)
    except JobNotFound:
        pass  # the response to an accepted key
    except Unauthorized as error:
        error.next = "Copy the key again; the server's operator makes one with `umrgen keys create`."
        raise
    except (ConnectionFailed, NotUmrgen, ServerError) as error:
        error.next = f"Nothing was stored. Check the address {server.base_url}, and that the server runs."
        raise


def _note_plain_http(base_url: str) -> None:
    address = urlsplit(base_url)
    if address.scheme == "http" and not is_loopback(address.hostname or ""):
        click.echo(f"note: {base_url} is not encrypted, so others on the network can read the key", err=True)


def _note_precedence(profile: str) -> None:
    """Print why later commands would not use the new profile."""
    set_here = [name for name in ("UMRGEN_BASE_URL", "UMRGEN_API_KEY") if os.environ.get(name)]
    if set_here:
        click.echo(f"note: {' and '.join(set_here)} in the environment takes precedence over the profile", err=True)
    if profile not in (DEFAULT_PROFILE, os.environ.get("UMRGEN_PROFILE")):
        click.echo(f"note: to use it, give --profile {profile}, or set UMRGEN_PROFILE={profile}", err=True)
