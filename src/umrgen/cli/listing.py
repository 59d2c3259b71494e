"""`umrgen jobs`: the jobs on the server, or in this machine's journal."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from umrgen.cli.common import CommandOutput, exit_on_error, output_options, run
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.text import printable

__all__ = ["jobs"]

PROMPT = 48
"""Characters of a prompt in a list."""


def _when(seconds: Any) -> str:
    """Return a time of the journal or the server; an unusable one is shown as a dash."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 4e9:
        return "-".ljust(11)
    return datetime.fromtimestamp(seconds).astimezone().strftime("%m-%d %H:%M")


def _seconds(milliseconds: Any) -> Any:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) and milliseconds < 1e15 else None


@click.command()
@click.option("--local", is_flag=True, help="List the jobs of this machine's journal, including unfinished ones.")
@click.option(
    "--state", type=click.Choice(["queued", "running", "completed", "failed"]), help="List only the jobs in this state."
)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The number of jobs.")
@connection_options
@output_options
def jobs(local: bool, state: str | None, limit: int, connection: ConnectionOptions, output: CommandOutput) -> None:
    """List jobs, newest first: those of this key on the server, or of this machine (--local)."""

    async def on_server() -> None:
        from umrgen.client.async_client import AsyncClient

        async with AsyncClient(**connection.arguments()) as client:
            found = [job.raw async for job in client.jobs(state=state, limit=limit)]
        output.result({"jobs": found}, "\n".join(_line(job) for job in found) or "no jobs")

    def on_this_machine() -> None:
        from umrgen.client.journal import Journal

        entries = Journal().entries()[::-1][:limit]
        lines = [
            f"{_when(entry.begun_at)}  {entry.end or 'unfinished':10}  {entry.job_id or '(not confirmed)':36}  "
            + printable(str(entry.request.get("prompt", "")), PROMPT)
            for entry in entries
        ]
        if any(entry.end is None for entry in entries):
            lines.append("finish the unfinished jobs with: umrgen resume")
        output.result({"jobs": [entry.as_dict() for entry in entries]}, "\n".join(lines) or "no jobs")

    if local:
        exit_on_error(output, on_this_machine)
    else:
        run(output, on_server)


def _line(job: Mapping[str, Any]) -> str:
    created, prompt = _when(_seconds(job.get("created_at"))), printable(str(job.get("prompt") or ""), PROMPT)
    text = f"{created}  {job['state']:9}  {job['job_id']}  {prompt}"
    return printable(text + (f"  ({job['error']})" if job.get("error") else "") + _webhook(job.get("webhook")))


def _webhook(webhook: Any) -> str:
    """Return the state of the job's webhook, if it has one."""
    if not isinstance(webhook, dict):
        return ""
    text = f"  [webhook {webhook.get('state')}"
    if webhook.get("state") == "pending" and webhook.get("attempts"):
        text += f" after {webhook['attempts']}, next {_when(_seconds(webhook.get('next_at')))}"
    return text + (f": {webhook['last_error']}]" if webhook.get("last_error") else "]")
