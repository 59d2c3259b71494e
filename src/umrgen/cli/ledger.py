"""`umrgen ledger`: care for the ledger of the server whose state folder this is."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import click

from umrgen.cli.common import Output, ServerOptions, guarded, json_option, server_options, server_parts, server_settings
from umrgen.cli.show import human_bytes

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Check, back up and compact the server's ledger."""


@ledger.command()
@server_options
@json_option
def check(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Look whether the ledger is sound and every image on record is there. Exit code 1 if not."""

    def work() -> None:
        with server_parts():
            from umrgen.server.ledger.sqlite.maintenance import check as look

        settings = server_settings(**server)
        report = look(settings.ledger_file, settings.state / "outputs")
        if as_json:
            click.echo(json.dumps(asdict(report) | {"sound": report.sound}))
        else:
            jobs = ", ".join(f"{count:,} {name}" for name, count in sorted(report.jobs.items())) or "no jobs"
            click.echo(f"{jobs}; {report.images:,} images")
            for trouble in report.troubles:
                click.echo(f"trouble: {trouble}")
            click.echo("sound" if report.sound else "NOT SOUND", err=not report.sound)
        if not report.sound:
            sys.exit(1)

    guarded(Output(False, False), work)


@ledger.command()
@click.argument("target", type=click.Path(path_type=Path))
@server_options
@json_option
def backup(target: Path, as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Copy the ledger to the new file TARGET, while the server runs. Copy the folder `outputs` after it."""

    def work() -> None:
        with server_parts():
            from umrgen.server.ledger.sqlite.maintenance import backup as copy

        size = copy(server_settings(**server).ledger_file, target)
        told = json.dumps({"path": str(target), "bytes": size})
        click.echo(told if as_json else f"{target}: {human_bytes(size)}")

    guarded(Output(False, False), work)


@ledger.command()
@server_options
@json_option
def vacuum(as_json: bool, **server: Unpack[ServerOptions]) -> None:
    """Give back the room that deleted rows have left. The server must not run."""

    def work() -> None:
        with server_parts():
            from umrgen.server.ledger.sqlite.maintenance import vacuum as compact
            from umrgen.server.state import own_state

        settings = server_settings(**server)
        with own_state(settings.state):
            before, after = compact(settings.ledger_file)
        told = json.dumps({"before": before, "after": after})
        click.echo(told if as_json else f"{human_bytes(before)} before, {human_bytes(after)} now")

    guarded(Output(False, False), work)
