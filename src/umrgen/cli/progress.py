"""The progress of a wait: a live line on a terminal, plain lines elsewhere, or events as JSON."""

import os
import sys
import time
from typing import Any

import click

from umrgen.cli.cells import cut, terminal_columns
from umrgen.cli.common import CommandOutput
from umrgen.client.engine_error import short_reason
from umrgen.client.flow import Event
from umrgen.image_files import SavedImage
from umrgen.model import State, Status

__all__ = ["ProgressPrinter", "bar", "describe", "human_bytes", "human_seconds", "is_live", "one_line"]


def human_bytes(count: float) -> str:
    """Return a size with its unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_seconds(seconds: float) -> str:
    """Return a duration with its units."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def bar(share: float, width: int = 20) -> str:
    """Return a progress bar."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full + "╌" * (width - full)


def describe(status: Status) -> str:
    """Return a job's status as text."""
    text = status.state
    if status.state == State.QUEUED and status.queue_position:
        text += f", place {status.queue_position}"
    if status.state == State.RUNNING and status.total_steps:
        step = status.step or 0
        text += f" {bar(step / status.total_steps)} step {step} of {status.total_steps}"
    if not status.over and status.eta_seconds:
        text += f", about {human_seconds(status.eta_seconds)} left"
    return text + (f": {short_reason(status.error)}" if status.error else "")


def one_line(image: SavedImage) -> str:
    """Return the size, the format and the seed of an image."""
    kind = image.media_type.removeprefix("image/").upper()
    seed = "" if image.seed is None else f", seed {image.seed}"
    return f"{image.width} × {image.height} {kind}, {human_bytes(image.bytes)}{seed}"


def is_live(output: CommandOutput) -> bool:
    """Return whether lines of progress can be replaced: stderr is a terminal, and stdout does not have JSON."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not output.machine_readable


class ProgressPrinter:
    """An `on_event` callback of a client: prints progress on stderr, or events as NDJSON on stdout."""

    def __init__(self, output: CommandOutput, *, quiet: bool = False) -> None:
        self._output = output
        self._quiet = quiet or output.machine_readable
        self._live = is_live(output) and not quiet
        self._started = time.monotonic()
        self._last_line = ""
        self._download_started = 0.0
        self._line_open = False

    @property
    def follow(self) -> bool:
        """Whether changes of the status are printed, so that the client should request them."""
        return self._output.as_events or not self._quiet

    def __call__(self, event: Event) -> None:
        if event.kind == "submitted" and event.job_id:
            self._output.job_ids.append(event.job_id)
        if self._output.as_events:
            if event.kind != "download":
                self._output.event(event.kind, _event_data(event))
        elif not self._quiet:
            self._print(event)

    def count(self, done: int, total: int) -> None:
        """Print how many of several images are done."""
        if not self._quiet:
            self._progress(f"{bar(done / total)} {done} of {total} images")

    def _print(self, event: Event) -> None:
        match event.kind:
            case "submitted":
                self._note(f"job {event.job_id}")
            case "status" if event.status is not None:
                if not event.status.over:  # the result follows
                    self._progress(describe(event.status))
            case "download":
                self._download(event.data["bytes"], event.data["total"])
            case "retrying":
                self._note(f"{event.message}; trying again in {max(1, round(event.data.get('delay', 0)))} s")
            case "saved":
                self.clear()
            case _:
                self._note(event.message)

    def _download(self, count: int, total: int | None) -> None:
        now = time.monotonic()
        self._download_started = self._download_started or now
        rate = count / max(now - self._download_started, 0.001)
        text = f"downloading {human_bytes(count)}"
        if total:
            text = f"downloading {bar(count / total)} {human_bytes(count)} of {human_bytes(total)}"
        if now - self._download_started > 0.5:
            text += f", {human_bytes(rate)}/s"
            text += f", {human_seconds((total - count) / rate)} left" if total else ""
        if self._live:
            self._progress(text)

    def _progress(self, text: str) -> None:
        """Print a line of progress: it replaces the last one on a terminal; elsewhere, only new text is printed."""
        if self._live:
            line = f"{text}  ({human_seconds(time.monotonic() - self._started)})"
            click.echo(f"\r\x1b[2K{cut(line, terminal_columns(sys.stderr))}", nl=False, err=True)
            self._line_open = True
        elif text != self._last_line:
            click.echo(text, err=True)
        self._last_line = text

    def _note(self, text: str) -> None:
        """Print a line that is not replaced."""
        self.clear()
        click.echo(text, err=True)

    def redraw(self) -> None:
        """Draw the live line again, if there is one, with the time that has passed now."""
        if self._line_open:
            self._progress(self._last_line)

    def clear(self) -> None:
        """Erase the live line."""
        if self._line_open:
            click.echo("\r\x1b[2K", nl=False, err=True)
            self._line_open = False


def _event_data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"job_id": event.job_id}
    if event.message:
        data["message"] = event.message
    if event.status is not None:
        data["status"] = dict(event.status.raw)
    elif event.data:
        data["data"] = dict(event.data)
    return data
