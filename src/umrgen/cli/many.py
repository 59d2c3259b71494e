"""`umrgen generate -n`: several images of one prompt, with one line of progress for each job."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.cells import cut, terminal_columns, terminal_size
from umrgen.cli.progress import bar, describe, human_seconds, is_live, one_line
from umrgen.cli.redraw import redrawn
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.cli.common import CommandOutput
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.flow import Event
    from umrgen.image_files import SavedImage

__all__ = ["ManyJobs", "draw_many"]

LIVE_JOBS = 12
"""The most jobs that have a line on the terminal at the same time."""


@dataclass(slots=True)
class JobLine:
    """The progress of one job: its number from 1, its seed, and its latest status as text."""

    number: int
    seed: int
    text: str = "queued"


@dataclass(slots=True)
class ManyJobs:
    """Prints the progress of several jobs on stderr: a line for each on a terminal; elsewhere one when a job ends.

    The n-th job that is submitted belongs to the n-th request.
    """

    seeds: Sequence[int]
    live: bool
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    _jobs: dict[str, JobLine] = field(default_factory=dict)
    _submitted: int = 0
    _drawn: int = 0

    def observe(self, event: "Event") -> None:
        """Update the line of an event's job."""
        if event.kind == "submitted" and event.job_id:
            self._submitted += 1
            self._jobs[event.job_id] = JobLine(self._submitted, self.seeds[self._submitted - 1])
        elif event.job_id in self._jobs and event.status is not None:
            self._jobs[event.job_id].text = describe(event.status)
        elif event.kind in ("warning", "retrying", "slot", "stalled"):
            self.erase()
            click.echo(f"{event.job_id or ''} {event.message}".strip(), err=True)
        self.draw()

    def end(self, number: int) -> str:
        """Erase the lines, and drop that of a job; return its place among those that have ended."""
        self.done += 1
        self._jobs = {job_id: line for job_id, line in self._jobs.items() if line.number != number}
        self.erase()
        return f"{self.done} of {len(self.seeds)}"

    def draw(self) -> None:
        """Draw the lines of the jobs again, on a terminal."""
        if not self.live:
            return
        lines = [f"{line.number:4}  seed {line.seed}  {line.text}" for line in self._shown()]
        if self.done < len(self.seeds):
            share = f"{self.done} of {len(self.seeds)} images"
            lines.append(
                f"{bar(self.done / len(self.seeds))} {share}  ({human_seconds(time.monotonic() - self.started)})"
            )
        self.erase()
        width = terminal_columns(sys.stderr)
        click.echo("".join(f"{cut(line, width)}\n" for line in lines), nl=False, err=True)
        self._drawn = len(lines)

    def _shown(self) -> list[JobLine]:
        """Return the lines that fit the terminal: the running jobs first."""
        space = max(1, min(LIVE_JOBS, terminal_size(sys.stderr).lines - 3))
        running_first = sorted(self._jobs.values(), key=lambda line: (line.text.startswith("queued"), line.number))
        return sorted(running_first[:space], key=lambda line: line.number)

    def erase(self) -> None:
        """Erase the lines of the jobs."""
        if self._drawn:
            click.echo(f"\x1b[{self._drawn}A\r\x1b[J", nl=False, err=True)
            self._drawn = 0


async def draw_many(
    client: "AsyncClient",
    requests: Sequence[Mapping[str, Any]],
    targets: Sequence[Path | None],
    output: "CommandOutput",
    *,
    overwrite: bool,
) -> list["SavedImage"]:
    """Draw the requests, and print each result; return the saved images. Raises the first error of a job."""
    progress = ManyJobs([request["seed"] for request in requests], live=is_live(output))
    observe = None if output.machine_readable else progress.observe
    images: list[SavedImage] = []
    errors: list[UmrgenError] = []
    try:
        async with redrawn(progress.draw):
            async for result in client.generate_many(requests, targets, overwrite=overwrite, on_event=observe):
                if isinstance(result, UmrgenError):
                    errors.append(result)
                else:
                    images.append(result)
                if not output.machine_readable:
                    place = progress.end(requests.index(result.request or {}) + 1)
                    _print(result, place)
                    progress.draw()
    except UmrgenError:
        progress.erase()
        if left := len(output.job_ids) - len(images) - len(errors):
            click.echo(f"jobs that continue: {left}; save their images with: umrgen resume", err=True)
        raise
    finally:
        progress.erase()
    data = {"images": [image.as_dict() for image in images], "errors": [error.as_dict() for error in errors]}
    if output.machine_readable:
        output.result(data, "")
    elif len(errors) > 1:
        click.echo(f"{len(errors)} of {len(requests)} images failed; the first error follows", err=True)
    if errors:
        raise errors[0]
    return images


def _print(result: "SavedImage | UmrgenError", place: str) -> None:
    """Print the end of a job: the paths on stdout, and the facts beside them, or on stderr where stdout is a file."""
    if isinstance(result, UmrgenError):
        click.echo(f"{place}: {result}", err=True)
        return
    paths = [str(image.path) for image in (result, *result.others)]
    if sys.stdout.isatty():
        paths[0] += f"  {one_line(result)}"
    else:
        click.echo(f"{place}: {one_line(result)}", err=True)
    click.echo("\n".join(paths))
