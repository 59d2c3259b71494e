"""`umrgen jobs`: the jobs on the server, or in this machine's journal."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from umrgen.cli.common import CommandOutput, EncodedText, exit_on_error, output_options, run
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.cli.job_table import JobRow, job_lines, local_row, server_row

__all__ = ["Time", "jobs"]


class Time(click.DateTime):
    """A time of an option, as 2026-11-28 or 2026-11-28T10:00."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"])

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return super().convert(value, param, context)
        except click.BadParameter:
            self.fail(f"expected a time such as 2026-11-28 or 2026-11-28T10:00; got {value!r}", param, context)


@click.command()
@click.option("--local", is_flag=True, help="List the jobs of this machine's journal, including unfinished ones.")
@click.option(
    "--state", type=click.Choice(["queued", "running", "completed", "failed"]), help="List only the jobs in this state."
)
@click.option(
    "--search", metavar="WORDS", type=EncodedText(), help="List only jobs whose prompt has all of these words."
)
@click.option("--favorite", is_flag=True, help="List only favorites.")
@click.option("--engine", metavar="NAME", type=EncodedText(), help="List only jobs that this engine has drawn.")
@click.option(
    "--before",
    metavar="TIME",
    type=Time(),
    help="List only jobs made before this time, as 2026-11-28 or 2026-11-28T10:00.",
)
@click.option("--after", metavar="TIME", type=Time(), help="List only jobs made after this time.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The number of jobs.")
@click.option("--all", "every", is_flag=True, help="List all jobs, whatever --limit is.")
@connection_options
@output_options
def jobs(
    local: bool,
    state: str | None,
    search: str | None,
    favorite: bool,
    engine: str | None,
    before: datetime | None,
    after: datetime | None,
    limit: int,
    every: bool,
    connection: ConnectionOptions,
    output: CommandOutput,
) -> None:
    """List jobs, newest first: those of this key on the server, or those of this machine (--local).

    In a terminal, the list has as many columns as fit its width. Elsewhere it has all of them.
    """
    filters: dict[str, Any] = {
        "state": state,
        "search": search,
        "favorite": favorite,
        "engine": engine,
        "before": before,
        "after": after,
    }
    given = [f"--{name}" for name, value in filters.items() if value]
    if local and given:
        raise click.UsageError(f"--local lists the whole journal of this machine, without {', '.join(given)}.")

    async def on_server() -> None:
        from umrgen.client.async_client import AsyncClient

        most = None if every else limit + 1  # one more shows whether there are more
        async with AsyncClient(**connection.arguments()) as client:
            found = [job.raw async for job in client.jobs(**filters, limit=most)]
        listed = found if every else found[:limit]
        output.result({"jobs": listed}, _table([server_row(job) for job in listed]))
        if len(found) > len(listed) and not output.machine_readable:
            click.echo(f"There are more jobs: --limit {10 * limit}, or --all", err=True)

    def on_this_machine() -> None:
        from umrgen.client.journal import Journal

        entries = [entry.as_dict() for entry in Journal().entries()[::-1]]
        listed = entries if every else entries[:limit]
        output.result({"jobs": listed}, _table([local_row(entry) for entry in listed]))
        if any(entry["end"] is None for entry in listed) and not output.machine_readable:
            click.echo("Finish the unfinished jobs with: umrgen resume", err=True)

    if local:
        exit_on_error(output, on_this_machine)
    else:
        run(output, on_server)


def _table(rows: Sequence[JobRow]) -> str:
    from umrgen.cli.cells import terminal_columns

    width = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
    return "\n".join(job_lines(rows, time.time(), width)) if rows else "There are no jobs."
