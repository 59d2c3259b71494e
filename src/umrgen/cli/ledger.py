"""`umrgen ledger`: maintenance of the ledger of a server on this machine."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from umrgen.cli.common import (
    CommandOutput,
    ServerOptions,
    exit_on_error,
    json_option,
    require_server_packages,
    run,
    server_options,
    server_settings,
)
from umrgen.cli.progress import human_bytes
from umrgen.durable import make_folder
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.server.ledger.sql.checks import LedgerReport
    from umrgen.server.settings import Settings

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Check, back up, restore, copy and compact the server's ledger."""


@ledger.command()
@server_options
@json_option
def check(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Check the ledger, and that every recorded image exists, in the folder or in S3. Exit code 1 if not."""

    def work() -> None:
        report = _check(server_settings(**server))
        if as_json:
            click.echo(json.dumps(asdict(report) | {"sound": report.sound}))
        else:
            jobs = ", ".join(f"{count:,} {name}" for name, count in sorted(report.jobs.items())) or "no jobs"
            click.echo(f"{jobs}; {report.images:,} images")
            for error in report.errors:
                click.echo(f"error: {error}")
            click.echo("sound" if report.sound else "NOT SOUND", err=not report.sound)
        if not report.sound:
            sys.exit(1)

    exit_on_error(CommandOutput(False, False), work)


def _check(settings: "Settings") -> "LedgerReport":
    with require_server_packages():
        from umrgen.server.implementations import stored_images

        sizes = stored_images(settings).sizes
        if settings.ledger_kind == "postgresql":
            from umrgen.server.ledger.postgres.maintenance import check as check_postgres

            return check_postgres(settings.ledger, sizes)
        from umrgen.server.ledger.sqlite.maintenance import check as check_sqlite

        return check_sqlite(settings.ledger_file, sizes)


def _require_file(settings: "Settings", otherwise: str) -> Path:
    """Return the file of an SQLite ledger. Raises UmrgenError with the command that does this for PostgreSQL."""
    if settings.ledger_kind == "postgresql":
        raise UmrgenError("this ledger is a PostgreSQL database, which has its own tools", next=otherwise)
    return settings.ledger_file


@ledger.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="TARGET is a folder: add a copy with the time in its name, and keep KEEP copies.",
)
@server_options
@json_option
def backup(target: Path, keep: int | None, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Copy the ledger to the new file TARGET; the server may run. Copy the folder `outputs` after it.

    A ledger in PostgreSQL is backed up by pg_dump.
    """

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.sqlite.maintenance import backup as copy
            from umrgen.server.ledger.sqlite.maintenance import backup_to_folder

        dump = "Run: pg_dump --format=custom --file=TARGET 'postgresql://…'; then copy the folder of images."
        file = _require_file(server_settings(**server), dump)
        if keep is None:
            made, size = target, copy(file, target)
        else:
            made, size = backup_to_folder(file, _folder(target), keep)
        data = json.dumps({"path": str(made), "bytes": size})
        click.echo(data if as_json else f"{made}: {human_bytes(size)}")

    exit_on_error(CommandOutput(False, False), work)


def _folder(target: Path) -> Path:
    """Return a folder for copies, created if there is none. Raises UmrgenError for a file."""
    try:
        make_folder(target, mode=0o700)
    except OSError as error:
        raise UmrgenError(
            f"{target} cannot be used as a folder: {error.strerror}", next="With --keep, TARGET is a folder."
        ) from None
    return target


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@server_options
@json_option
def restore(file: Path, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Put FILE, a copy by `umrgen ledger backup`, in the place of the ledger. The server must not run.

    FILE is checked first, and is not changed. The present ledger is renamed, not deleted.
    """

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.sqlite.maintenance import restore as put_back
            from umrgen.server.state import own_state

        settings = server_settings(**server)
        target = _require_file(settings, "Run: pg_restore --clean --if-exists --dbname='postgresql://…' FILE")
        with own_state(settings.state):
            replaced = put_back(file, target)
        if as_json:
            click.echo(json.dumps({"ledger": str(target), "replaced": str(replaced) if replaced else None}))
            return
        click.echo(f"{target} is now the copy {file}" + (f"; the earlier ledger is {replaced}" if replaced else ""))
        click.echo(
            "next: umrgen ledger check, and, for images that are newer than the copy: umrgen ledger adopt", err=True
        )

    exit_on_error(CommandOutput(False, False), work)


@ledger.command("copy")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@json_option
def copy_command(source: str, target: str, as_json: bool) -> None:
    """Copy all records of the ledger SOURCE to the empty ledger TARGET: complete and checked, or nothing.

    Each is the file of an SQLite ledger, or a URL postgresql://… Stop all servers of both first. The images stay where
    they are.
    """

    def work() -> None:
        with require_server_packages():
            from umrgen.server.implementations import ledger_tables
            from umrgen.server.ledger.copying import copy_ledger

        with _stopped(source) as old, _stopped(target) as new:
            counts = copy_ledger(ledger_tables(old), ledger_tables(new))
        rows = ", ".join(f"{count:,} {table}" for table, count in counts.items() if count)
        click.echo(json.dumps({"rows": counts}) if as_json else f"{rows or 'no rows'} copied to {new.ledger_name}")

    exit_on_error(CommandOutput(False, False), work)


@contextmanager
def _stopped(ledger: str) -> Iterator["Settings"]:
    """Return the settings of a ledger, and prevent a server that has its file in its state folder from starting."""
    from umrgen.server.settings import Settings
    from umrgen.server.state import LOCK, own_state

    named = ledger if "://" in ledger or ledger.startswith("sqlite:") else f"sqlite:{ledger}"
    settings = Settings.load({"ledger": named, "state": Path.cwd()}, {})
    if settings.ledger_kind != "sqlite" or not (settings.ledger_file.parent / LOCK).exists():
        yield settings
        return
    with own_state(settings.ledger_file.parent):
        yield settings


@ledger.command()
@server_options
@json_option
def vacuum(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Return the disk space of deleted rows to the system. The server must not run."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.sqlite.maintenance import vacuum as compact
            from umrgen.server.state import own_state

        settings = server_settings(**server)
        file = _require_file(
            settings, "Its autovacuum does this while servers run; VACUUM FULL returns space to the disk."
        )
        with own_state(settings.state):
            before, after = compact(file)
        data = json.dumps({"before": before, "after": after})
        click.echo(data if as_json else f"{human_bytes(before)} before, {human_bytes(after)} after")

    exit_on_error(CommandOutput(False, False), work)


@ledger.command()
@server_options
@json_option
def adopt(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Make records for images without one, from the provenance in their files. The server must not run.

    For a ledger that was lost, or an older one that was put back. No file is moved or deleted.
    """

    async def work() -> None:
        with require_server_packages():
            from umrgen.server.implementations import (
                claim_blobs,
                make_blobs,
                make_worker_id,
                open_ledger,
                stored_images,
            )
            from umrgen.server.ledger.adoption import adopt as adopt_images
            from umrgen.server.state import LedgerMark, own_state

        settings = server_settings(**server)
        with own_state(settings.state):
            async with open_ledger(settings) as opened:
                await claim_blobs(opened, make_blobs(settings, make_worker_id(settings)))
                report = await adopt_images(opened, stored_images(settings).find())
            LedgerMark(settings.state / "ledger-mark").remove()
        if as_json:
            click.echo(json.dumps(asdict(report)))
            return
        for name, reason in report.refused.items():
            click.echo(f"left alone: {name}: {reason}", err=True)
        click.echo(
            f"{len(report.adopted):,} images adopted, {report.known:,} known, {len(report.refused):,} left alone"
        )

    run(CommandOutput(False, False), work)
