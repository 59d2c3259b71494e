"""Jobs as a table: its columns fit the terminal, and a prompt is cut to the width that they leave."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from umrgen.cli.cells import cell_width, cut, padded
from umrgen.text import printable

__all__ = ["JobRow", "age", "job_lines", "local_row", "server_row"]

PROMPT = 24
"""The cells that a prompt has at least, before further columns are shown."""
COLUMNS = {"age": "AGE", "state": "STATE", "job_id": "JOB", "size": "SIZE", "duration": "TIME", "seed": "SEED"}
ALWAYS = ("age", "state", "job_id")


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as text; each value is printable, and a missing one is a dash."""

    created_at: float | None
    """Seconds since the epoch."""
    state: str
    job_id: str
    prompt: str
    size: str = "-"
    duration: str = "-"
    seed: str = "-"
    note: str = ""

    def cell(self, column: str, now: float) -> str:
        """Return the text of a column."""
        if column == "age":
            return "-" if self.created_at is None else age(now - self.created_at)
        text: str = getattr(self, column)
        return text


def job_lines(rows: Sequence[JobRow], now: float, width: int | None) -> Iterator[str]:
    """Yield the lines of a table, each of at most `width` cells; columns that do not fit are left out.

    Without a width, the output is not a terminal: no head, all columns, whole prompts, and times in the place of ages.
    """
    if width is None:
        yield from (_plain_line(row) for row in rows)
        return
    widths = {name: _column_width(name, rows, now) for name in COLUMNS}
    chosen = _fitting(widths, width, used={name for name in COLUMNS if any(row.cell(name, now) != "-" for row in rows)})
    space = width - sum(widths[name] + 2 for name in chosen)
    yield cut("  ".join([*(padded(COLUMNS[name], widths[name]) for name in chosen), "PROMPT"]), width)
    for row in rows:
        cells = [padded(row.cell(name, now), widths[name]) for name in chosen]
        yield cut("  ".join([*cells, _prompt(row, space)]), width)


def _plain_line(row: JobRow) -> str:
    when = "-"
    if row.created_at is not None:
        when = datetime.fromtimestamp(row.created_at).astimezone().isoformat(" ", "seconds")
    cells = [when, f"{row.state:10}", f"{row.job_id:36}", f"{row.size:9}", f"{row.duration:7}", f"{row.seed:10}"]
    return "  ".join([*cells, _with_note(row.prompt, row.note)])


def _column_width(name: str, rows: Iterable[JobRow], now: float) -> int:
    return max(len(COLUMNS[name]), *(cell_width(row.cell(name, now)) for row in rows))


def _fitting(widths: Mapping[str, int], width: int, used: Collection[str]) -> list[str]:
    """Return the columns that leave `PROMPT` cells for the prompt, in their order; others than ALWAYS if `used`."""
    chosen, left = set(ALWAYS), width - PROMPT - sum(widths[name] + 2 for name in ALWAYS)
    for name in COLUMNS:
        if name not in chosen and name in used and widths[name] + 2 <= left:
            chosen.add(name)
            left -= widths[name] + 2
    return [name for name in COLUMNS if name in chosen]


def _prompt(row: JobRow, space: int) -> str:
    """Return the prompt and the note in `space` cells: the prompt is cut first, to a half of them."""
    left = space - cell_width(row.note) - 2 if row.note else space
    return cut(_with_note(cut(row.prompt, max(left, space // 2)), row.note), space)


def _with_note(prompt: str, note: str) -> str:
    return f"{prompt}  {note}" if note else prompt


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) // unit:.0f} {name}"
    return f"{seconds // 86400:.0f} d"


def server_row(job: Mapping[str, Any]) -> JobRow:
    """Return the row of a job as a server lists it; values of a wrong type are left out."""
    request = job.get("request")
    request = request if isinstance(request, dict) else {}
    prompt = job.get("prompt") or request.get("prompt")
    return JobRow(
        created_at=_seconds(job.get("created_at")),
        state=printable(str(job.get("state")), 20),
        job_id=printable(str(job.get("job_id"))),
        prompt=printable(prompt) if isinstance(prompt, str) else "",
        size=_size(_first_image(job)) or _size(request) or "-",
        duration=_duration(job),
        seed=_number(job.get("seed")),
        note=printable(_note(job)),
    )


def local_row(entry: Mapping[str, Any]) -> JobRow:
    """Return the row of an entry of the journal."""
    request = entry["request"]
    return JobRow(
        created_at=entry["begun_at"],
        state=printable(entry["end"] or "unfinished", 20),
        job_id=printable(entry["job_id"] or f"({entry['id']})"),
        prompt=printable(str(request.get("prompt", ""))),
        size=_size(request) or "-",
        seed=_number(request.get("seed")),
    )


def _seconds(milliseconds: Any) -> float | None:
    usable = isinstance(milliseconds, int | float) and 0 <= milliseconds < 4e12
    return milliseconds / 1000 if usable else None


def _first_image(job: Mapping[str, Any]) -> Mapping[str, Any]:
    results = job.get("results")
    images = results.get("images") if isinstance(results, dict) else None
    return images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}


def _size(sides: Mapping[str, Any]) -> str | None:
    width, height = sides.get("width"), sides.get("height")
    return f"{width}×{height}" if isinstance(width, int) and isinstance(height, int) else None


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) and -1 <= value < 2**64 else "-"


def _duration(job: Mapping[str, Any]) -> str:
    """Return the seconds from the start to the end of a job."""
    started, ended = _seconds(job.get("started_at")), _seconds(job.get("completed_at"))
    if started is None or ended is None or ended < started:
        return "-"
    return f"{ended - started:.1f} s" if ended - started < 100 else age(ended - started)


def _note(job: Mapping[str, Any]) -> str:
    """Return the error of the job and the state of its webhook, if it has them."""
    error = f"({job['error']})" if job.get("error") else ""
    return "  ".join(part for part in (error, _webhook(job.get("webhook"))) if part)


def _webhook(webhook: Any) -> str:
    if not isinstance(webhook, dict):
        return ""
    text = f"[webhook {webhook.get('state')}"
    if webhook.get("state") == "pending" and webhook.get("attempts"):
        text += f" after {webhook['attempts']}, next {_clock_time(webhook.get('next_at'))}"
    return text + (f": {webhook['last_error']}]" if webhook.get("last_error") else "]")


def _clock_time(milliseconds: Any) -> str:
    seconds = _seconds(milliseconds)
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%m-%d %H:%M")
