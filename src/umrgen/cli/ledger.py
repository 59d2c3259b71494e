"""`umrgen ledger`: maintenance of the ledger of a server on this machine."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

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

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Check, back up and compact the server's ledger."""


@ledger.command()
@server_options
@json_option
def check(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Check the ledger, and that the file of every recorded image exists. Exit code 1 if not."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.sqlite.maintenance import check as check_ledger

        settings = server_settings(**server)
        report = check_ledger(settings.ledger_file, settings.blobs_folder)
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


@ledger.command()
@click.argument("target", type=click.Path(path_type=Path))
@server_options
@json_option
def backup(target: Path, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Copy the ledger to the new file TARGET; the server may run. Copy the folder `outputs` after it."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.sqlite.maintenance import backup as copy

        size = copy(server_settings(**server).ledger_file, target)
        data = json.dumps({"path": str(target), "bytes": size})
        click.echo(data if as_json else f"{target}: {human_bytes(size)}")

    exit_on_error(CommandOutput(False, False), work)


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
        with own_state(settings.state):
            before, after = compact(settings.ledger_file)
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
            from umrgen.server.application import open_ledger
            from umrgen.server.ledger.adoption import adopt as adopt_images
            from umrgen.server.ledger.adoption import find_images
            from umrgen.server.state import LedgerMark, own_state

        settings = server_settings(**server)
        with own_state(settings.state):
            async with open_ledger(settings) as opened:
                report = await adopt_images(opened, find_images(settings.blobs_folder))
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
