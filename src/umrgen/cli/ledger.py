"""`umrgen ledger`: maintenance of the ledger of a server on this machine."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from umrgen.cli.common import Output, exit_on_error, json_option, require_server_packages, state_option
from umrgen.cli.progress import human_bytes

__all__ = ["ledger"]


@click.group()
def ledger() -> None:
    """Check, back up and compact the server's ledger."""


@ledger.command()
@state_option
@json_option
def check(state: Path, as_json: bool) -> None:
    """Check the ledger, and that the file of every recorded image exists. Exit code 1 if not."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.maintenance import check as check_ledger

        report = check_ledger(state)
        if as_json:
            click.echo(json.dumps(asdict(report) | {"sound": report.sound}))
        else:
            jobs = ", ".join(f"{count:,} {name}" for name, count in sorted(report.jobs.items())) or "no jobs"
            click.echo(f"{jobs}; {report.images:,} images")
            for problem in report.troubles:
                click.echo(f"trouble: {problem}")
            click.echo("sound" if report.sound else "NOT SOUND", err=not report.sound)
        if not report.sound:
            sys.exit(1)

    exit_on_error(Output(False, False), work)


@ledger.command()
@click.argument("target", type=click.Path(path_type=Path))
@state_option
@json_option
def backup(target: Path, state: Path, as_json: bool) -> None:
    """Copy the ledger to the new file TARGET; the server may run. Copy the folder `outputs` after it."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.maintenance import backup as copy

        size = copy(state, target)
        data = json.dumps({"path": str(target), "bytes": size})
        click.echo(data if as_json else f"{target}: {human_bytes(size)}")

    exit_on_error(Output(False, False), work)


@ledger.command()
@state_option
@json_option
def vacuum(state: Path, as_json: bool) -> None:
    """Return the disk space of deleted rows to the system. The server must not run."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.ledger.maintenance import vacuum as compact
            from umrgen.server.state import own_state

        with own_state(state):
            before, after = compact(state)
        data = json.dumps({"before": before, "after": after})
        click.echo(data if as_json else f"{human_bytes(before)} before, {human_bytes(after)} after")

    exit_on_error(Output(False, False), work)
