"""`umrgen keys`: the API keys of a server on this machine."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Unpack

import click

from umrgen.cli.common import (
    CommandOutput,
    ServerOptions,
    exit_on_error,
    json_option,
    require_server_packages,
    server_options,
    server_settings,
    table,
)
from umrgen.durable import make_folder
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.server.ledger import Key
    from umrgen.server.services.api_keys import ApiKeys
    from umrgen.server.settings import Settings

__all__ = ["keys"]


def _with_keys(server: ServerOptions, work: Callable[["ApiKeys"], Awaitable[None]], *, new: bool = False) -> None:
    """Open the keys of the server that `server_options` name, whether it runs or not.

    `new`: create its state folder if there is none; else this is an error.
    """

    async def opened() -> None:
        settings = server_settings(**server)
        with require_server_packages():
            from umrgen.server.implementations import open_keys

        if settings.ledger_kind == "sqlite" and not settings.ledger_file.exists():
            _create_state(settings, new=new)
        async with open_keys(settings) as keys:
            await work(keys)

    exit_on_error(CommandOutput(False, False), lambda: asyncio.run(opened()))


def _create_state(settings: "Settings", *, new: bool) -> None:
    """Create the state folder of a server that was never started, and report it. Raises UmrgenError."""
    advice = "Name the server's folder with --state, or its settings file with --config."
    if not new:
        raise UmrgenError(f"there is no server with the ledger {settings.ledger_file}", code="no_server", next=advice)
    try:
        make_folder(settings.state, mode=0o700)
    except OSError as error:
        raise UmrgenError(
            f"the state folder {settings.state} cannot be created: {error.strerror}", next=advice
        ) from None
    click.echo(f"a new ledger is created: {settings.ledger_file}", err=True)


def _as_dict(key: "Key") -> dict[str, Any]:
    shown = asdict(key)
    del shown["hash"]
    return shown


class ExpiryTime(click.ParamType[int]):
    """The time at which a key expires: a date, or days or hours from now; in milliseconds since the epoch."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        if match := re.fullmatch(r"(\d{1,5})([dh])", str(value)):
            seconds = int(match[1]) * (86_400 if match[2] == "d" else 3600)
            return int((datetime.now(UTC) + timedelta(seconds=seconds)).timestamp() * 1000)
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"expected a date (2027-01-31) or a time from now (30d, 12h); got {value!r}", param, context)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if time <= datetime.now(UTC):
            self.fail(f"{value} is in the past", param, context)
        return int(time.timestamp() * 1000)


def _day(time: int | None) -> str:
    return "never" if time is None else f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d %H:%M}"


def _end(key: "Key") -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at is None:
        return "-"
    over = key.expires_at <= datetime.now(UTC).timestamp() * 1000
    return f"{'ended ' if over else ''}{_day(key.expires_at)}"


def _limits(key: "Key") -> str:
    """Return the key's limits that differ from the server's settings."""
    given = ((key.rate, "/min"), (key.concurrent, " concurrent"), (key.daily, "/day"))
    return ", ".join(f"{limit or 'any'}{unit}" for limit, unit in given if limit is not None) or "-"


def _row(key: "Key") -> tuple[str, ...]:
    return (key.id, key.name, _day(key.created_at), _day(key.last_used_at), _end(key), _limits(key), key.session_id)


@click.group()
def keys() -> None:
    """Create, list, rotate, limit and revoke API keys."""


@keys.command()
@click.option("--name", default="", help="A name for the list of keys.")
@click.option("--session", "session_id", help="An earlier key's session, for a key that replaces it.")
@click.option(
    "--expires", "expires_at", type=ExpiryTime(), help="When the key expires: a date, or 30d or 12h from now."
)
@click.option("--rate", type=click.IntRange(0), help="Requests per minute; 0: no limit.")
@click.option("--concurrent", type=click.IntRange(0), help="Jobs queued or running at the same time; 0: no limit.")
@click.option("--daily", type=click.IntRange(0), help="Jobs per day; 0: no limit.")
@server_options
@json_option
def create(
    as_json: bool,
    name: str,
    session_id: str | None,
    expires_at: int | None,
    rate: int | None,
    concurrent: int | None,
    daily: int | None,
    **server: Unpack[ServerOptions],
) -> None:
    """Create a key and print it. Only its hash is stored, so it cannot be printed again.

    A limit without an option here is the server's setting. The secret that signs the key's webhooks, which is
    derived from the key, is printed too.
    """

    async def work(store: "ApiKeys") -> None:
        from umrgen.server.services.api_keys import NewKey

        _show_new(*await store.create(NewKey(name, session_id, expires_at, rate, concurrent, daily)), as_json)
        if not as_json:
            click.echo(f"the server's ledger: {server_settings(**server).ledger_name}", err=True)

    _with_keys(server, work, new=True)


def _show_new(secret: str, key: "Key", as_json: bool) -> None:
    """Print a new key, and the secret of its webhooks, which is derived from it."""
    from umrgen.server.webhooks.signing import secret_of

    webhook_secret = secret_of(key.hash)
    if as_json:
        click.echo(json.dumps({"key": secret, "webhook_secret": webhook_secret} | _as_dict(key)))
        return
    click.echo(secret)
    click.echo(f"{key.id}, session {key.session_id}; the key is not printed again", err=True)
    click.echo(f"its webhooks are signed with {webhook_secret}", err=True)


@keys.command("list")
@server_options
@json_option
def list_keys(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """List the keys, including revoked ones, without the secrets."""

    async def work(store: "ApiKeys") -> None:
        found = await store.all()
        if as_json:
            click.echo(json.dumps({"keys": [_as_dict(key) for key in found]}))
            return
        table(
            ("KEY", "NAME", "CREATED", "LAST USED", "EXPIRES", "LIMITS", "SESSION"),
            [_row(key) for key in found],
        )

    _with_keys(server, work)


class Duration(click.ParamType[int]):
    """Days, hours or minutes, in milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,5})([dhm])", str(value))
        if match is None:
            self.fail(f"expected a time such as 2d, 12h or 30m; got {value!r}", param, context)
        return int(match[1]) * {"d": 86_400, "h": 3600, "m": 60}[match[2]] * 1000


class Limit(click.ParamType[int]):
    """A limit of a key: a number, or `default` for that of the server's settings, which is SERVERS here."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        if value == "default":
            return SERVERS
        if not re.fullmatch(r"\d{1,9}", str(value)):
            self.fail(f"expected a number, or default; got {value!r}", param, context)
        return int(value)


SERVERS = -1


@keys.command()
@click.argument("key_id")
@click.option("--grace", type=Duration(), default="0m", help="How long the old key stays valid: 2d, 12h, 30m.")
@server_options
@json_option
def rotate(key_id: str, grace: int, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Replace key KEY_ID by a new one, and print that. It has the same session, name, limits and expiry.

    The old key is revoked, or with --grace valid for that time, so that clients can be changed one after the other. The
    secret of its webhooks changes, too.
    """

    async def work(store: "ApiKeys") -> None:
        rotated = await store.rotate(key_id, grace=grace)
        if rotated is None:
            raise UmrgenError(f"there is no key {key_id} that is not revoked", next="See: umrgen keys list")
        _show_new(*rotated, as_json)
        if not as_json:
            click.echo(f"{key_id} is {f'valid for {grace // 60_000} more minutes' if grace else 'revoked'}", err=True)

    _with_keys(server, work)


@keys.command()
@click.argument("key_id")
@click.option("--rate", type=Limit(), help="Requests per minute; 0: no limit; default: that of the settings.")
@click.option("--concurrent", type=Limit(), help="Jobs queued or running at the same time.")
@click.option("--daily", type=Limit(), help="Jobs per day.")
@server_options
@json_option
def limits(
    key_id: str,
    rate: int | None,
    concurrent: int | None,
    daily: int | None,
    as_json: bool,
    **server: Unpack[ServerOptions],
) -> None:
    """Change limits of key KEY_ID, also while the server runs. A limit that is not named stays as it is."""
    given = {"rate": rate, "concurrent": concurrent, "daily": daily}
    changes = {name: None if value == SERVERS else value for name, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("name a limit to change: --rate, --concurrent or --daily")

    async def work(store: "ApiKeys") -> None:
        key = await store.limit(key_id, changes)
        if key is None:
            raise UmrgenError(f"there is no key {key_id}", next="See: umrgen keys list")
        click.echo(json.dumps(_as_dict(key)) if as_json else f"{key_id}: {_limits(key)}")

    _with_keys(server, work)


@keys.command()
@click.argument("key_id")
@server_options
@json_option
def revoke(key_id: str, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Revoke key KEY_ID; its jobs and images remain."""

    async def work(store: "ApiKeys") -> None:
        if not await store.revoke(key_id):
            raise UmrgenError(f"there is no key {key_id}", next="See: umrgen keys list")
        click.echo(json.dumps({"id": key_id, "revoked": True}) if as_json else f"{key_id} is revoked")

    _with_keys(server, work)
