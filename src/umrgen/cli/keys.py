"""`umrgen keys`: who may use the server whose state folder this is."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import Output, guarded, server_parts
from umrgen.errors import UmrgenError
from umrgen.paths import data_home

if TYPE_CHECKING:
    from umrgen.server.keys import Keys
    from umrgen.server.ledger import Key

__all__ = ["keys"]

_state = click.option(
    "--state",
    type=click.Path(path_type=Path),
    envvar="UMRGEN_STATE",
    default=data_home,
    show_default="the server's default",
    help="The server's state folder.",
)
_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


def _with_keys(state: Path, work: Callable[["Keys"], Awaitable[None]]) -> None:
    """Open the ledger in `state`, beside a running server or without one."""

    async def opened() -> None:
        with server_parts():
            from umrgen.server.clock import SystemClock
            from umrgen.server.keys import Keys
            from umrgen.server.ledger.sqlite import SqliteLedger

        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UmrgenError(f"the state folder {state} cannot be made: {error.strerror}") from None
        ledger = SqliteLedger(state / "ledger.sqlite3")
        await ledger.open()
        try:
            await work(Keys(ledger, SystemClock()))
        finally:
            await ledger.close()

    guarded(Output(False, False), lambda: asyncio.run(opened()))


def _as_dict(key: "Key") -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "session_id": key.session_id,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--name", default="", help="A name to know it by.")
@_state
@_json
def create(name: str, state: Path, as_json: bool) -> None:
    """Make a key and print it, this once; only its hash is kept.

    The secret that its webhooks are signed with is printed too; it follows from the key.
    """

    async def work(store: "Keys") -> None:
        from umrgen.server.webhooks.signing import secret_of

        secret, key = await store.create(name)
        webhook_secret = secret_of(key.hash)
        if as_json:
            click.echo(json.dumps({"key": secret, "webhook_secret": webhook_secret} | _as_dict(key)))
        else:
            click.echo(secret)
            click.echo(f"{key.id}, session {key.session_id}; the key is not shown again", err=True)
            click.echo(f"its webhooks are signed with {webhook_secret}", err=True)

    _with_keys(state, work)


@keys.command("list")
@_state
@_json
def list_keys(state: Path, as_json: bool) -> None:
    """List the keys, revoked ones too; never the secrets."""

    async def work(store: "Keys") -> None:
        found = await store.all()
        if as_json:
            click.echo(json.dumps({"keys": [_as_dict(key) for key in found]}))
            return
        for key in found:
            made = datetime.fromtimestamp(key.created_at / 1000, UTC).strftime("%Y-%m-%d")
            mark = "revoked" if key.revoked_at else "       "
            click.echo(f"{key.id}  {made}  {mark}  {key.session_id}  {key.name}")

    _with_keys(state, work)


@keys.command()
@click.argument("key_id")
@_state
@_json
def revoke(key_id: str, state: Path, as_json: bool) -> None:
    """Refuse key KEY_ID from now on; its jobs and images stay."""

    async def work(store: "Keys") -> None:
        if not await store.revoke(key_id):
            raise UmrgenError(f"there is no key {key_id}", next="See: umrgen keys list")
        click.echo(json.dumps({"id": key_id, "revoked": True}) if as_json else f"{key_id} is revoked")

    _with_keys(state, work)
