"""`umrgen jobs`: the jobs on the server, or in this machine's journal."""

from datetime import datetime
from typing import Any

import click

from umrgen.cli.common import CommandOutput, client_arguments, connection_options, exit_on_error, output_options, run

__all__ = ["jobs"]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%m-%d %H:%M")


def _shortened(text: str, width: int = 48) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


@click.command()
@click.option("--local", is_flag=True, help="List the jobs of this machine's journal, including unfinished ones.")
@click.option(
    "--state", type=click.Choice(["queued", "running", "completed", "failed"]), help="List only the jobs in this state."
)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="The number of jobs.")
@connection_options
@output_options
def jobs(
    local: bool, state: str | None, limit: int, base_url: str | None, timeout: float | None, output: CommandOutput
) -> None:
    """List jobs, newest first: those of this key on the server, or of this machine (--local)."""

    async def on_server() -> None:
        from umrgen.client.async_client import AsyncClient

        async with AsyncClient(**client_arguments(base_url, timeout)) as client:
            page = await client.jobs(state=state, limit=limit)
        output.result(dict(page), "\n".join(_line(job) for job in page["jobs"]) or "no jobs")

    def on_this_machine() -> None:
        from umrgen.client.journal import Journal

        entries = Journal().entries()[::-1][:limit]
        lines = [
            f"{_when(entry.begun_at)}  {entry.end or 'unfinished':10}  {entry.job_id or '(not confirmed)':36}  "
            + _shortened(str(entry.request.get("prompt", "")))
            for entry in entries
        ]
        if any(entry.end is None for entry in entries):
            lines.append("finish the unfinished jobs with: umrgen resume")
        output.result({"jobs": [entry.as_dict() for entry in entries]}, "\n".join(lines) or "no jobs")

    if local:
        exit_on_error(output, on_this_machine)
    else:
        run(output, on_server)


def _line(job: dict[str, Any]) -> str:
    text = f"{_when(job['created_at'] / 1000)}  {job['state']:9}  {job['job_id']}  {_shortened(job.get('prompt', ''))}"
    return text + (f"  ({job['error']})" if job.get("error") else "") + _webhook(job.get("webhook"))


def _webhook(webhook: dict[str, Any] | None) -> str:
    """Return the state of the job's webhook, if it has one."""
    if not webhook:
        return ""
    text = f"  [webhook {webhook['state']}"
    if webhook["state"] == "pending" and webhook["attempts"]:
        text += f" after {webhook['attempts']}, next {_when(webhook['next_at'] / 1000)}"
    return text + (f": {webhook['last_error']}]" if webhook["last_error"] else "]")
