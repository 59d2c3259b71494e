"""What is told while one waits: a live line on a terminal, plain lines elsewhere, events for programs."""

import shutil
import sys
import time
from typing import Any

import click

from umrgen.cli.common import Output
from umrgen.client.flow import Event
from umrgen.model import State, Status

__all__ = ["ProgressPrinter", "human_bytes"]


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def bar(share: float, width: int = 20) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full + "╌" * (width - full)


def describe(status: Status) -> str:
    """A job's state in a few words."""
    words = status.state
    if status.state == State.QUEUED and status.queue_position:
        words += f", place {status.queue_position}"
    if status.state == State.RUNNING and status.total_steps:
        step = status.step or 0
        words += f" {bar(step / status.total_steps)} step {step} of {status.total_steps}"
    if not status.over and status.eta_seconds:
        words += f", about {human_seconds(status.eta_seconds)} left"
    return words


class ProgressPrinter:
    """An `on_event` for the client. Says what happens on stderr, or as NDJSON on stdout."""

    def __init__(self, output: Output, *, quiet: bool = False) -> None:
        self._output = output
        self._quiet = quiet or output.for_programs
        self._live = sys.stderr.isatty() and not self._quiet
        self._started = time.monotonic()
        self._said = ""
        self._download_started = 0.0
        self._line_open = False

    @property
    def follow(self) -> bool:
        """Whether anybody looks at what happens on the way."""
        return self._output.as_events or not self._quiet

    def __call__(self, event: Event) -> None:
        if event.kind == "submitted" and event.job_id:
            self._output.job_ids.append(event.job_id)
        if self._output.as_events:
            if event.kind != "download":
                self._output.event(event.kind, _plain(event))
        elif not self._quiet:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event.kind:
            case "submitted":
                self._note(f"job {event.job_id}")
            case "status" if event.status is not None:
                self._progress(describe(event.status))
            case "download":
                self._download(event.data["bytes"], event.data["total"])
            case "retrying":
                self._note(f"{event.message}; trying again in {event.data.get('delay', 0):.0f} s")
            case "saved":
                self.clear()
            case _:
                self._note(event.message)

    def _download(self, count: int, total: int | None) -> None:
        now = time.monotonic()
        self._download_started = self._download_started or now
        rate = count / max(now - self._download_started, 0.001)
        words = f"downloading {human_bytes(count)}"
        if total:
            words = f"downloading {bar(count / total)} {human_bytes(count)} of {human_bytes(total)}"
        if now - self._download_started > 0.5:
            words += f", {human_bytes(rate)}/s"
            words += f", {human_seconds((total - count) / rate)} left" if total else ""
        if self._live:
            self._progress(words)

    def _progress(self, words: str) -> None:
        """What changes often: overwritten on a terminal, a line of its own where it is new elsewhere."""
        if self._live:
            line = f"{words}  ({human_seconds(time.monotonic() - self._started)})"
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\x1b[2K{line[: width - 1]}", nl=False, err=True)
            self._line_open = True
        elif words != self._said:
            click.echo(words, err=True)
        self._said = words

    def _note(self, words: str) -> None:
        """What should stay readable."""
        self.clear()
        click.echo(words, err=True)

    def clear(self) -> None:
        """Take the live line away."""
        if self._line_open:
            click.echo("\r\x1b[2K", nl=False, err=True)
            self._line_open = False


def _plain(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"job_id": event.job_id}
    if event.message:
        data["message"] = event.message
    if event.status is not None:
        data["status"] = dict(event.status.raw)
    elif event.data:
        data["data"] = dict(event.data)
    return data
