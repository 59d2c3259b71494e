"""Checks of a ledger's records, the same for all databases."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

from umrgen.errors import UmrgenError
from umrgen.server.ledger.sql.database import Row

__all__ = ["Execute", "LedgerReport", "MaintenanceFailed", "Sizes", "check_records"]

SHOWN = 20
"""Errors that a report lists; it counts the others."""

Execute = Callable[[str], Iterable[Row]]
"""Runs a query that has no parameters."""
Sizes = Callable[[str], Mapping[str, int]]
"""Returns the sizes of the stored images of a session in bytes, by name."""


class MaintenanceFailed(UmrgenError):
    """The maintenance failed; the ledger was not changed."""

    code = "upkeep_failed"


@dataclass(slots=True)
class LedgerReport:
    """The result of a check: the number of jobs by state, of images, and the errors."""

    jobs: dict[str, int] = field(default_factory=dict)
    images: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.errors

    def shortened(self) -> "LedgerReport":
        """Return the report with the first SHOWN errors and the number of the others."""
        more = len(self.errors) - SHOWN
        return self if more <= 0 else replace(self, errors=[*self.errors[:SHOWN], f"and {more} more"])


def check_records(execute: Execute, sizes: Sizes, report: LedgerReport) -> None:
    """Check the counts, the change numbers, and that each image on record exists. Raises what `sizes` raises."""
    report.jobs = {str(row[0]): int(row[1]) for row in execute("SELECT state, count(*) FROM jobs GROUP BY state")}
    _check_counts(execute, report)
    _check_images(execute, sizes, report)


def _check_counts(execute: Execute, report: LedgerReport) -> None:
    wrong = execute(
        "SELECT sessions.id FROM sessions LEFT JOIN jobs ON jobs.session_id = sessions.id"
        " AND jobs.state IN ('queued', 'running') GROUP BY sessions.id, sessions.queued, sessions.running"
        " HAVING sessions.queued <> count(CASE WHEN jobs.state = 'queued' THEN 1 END)"
        " OR sessions.running <> count(CASE WHEN jobs.state = 'running' THEN 1 END)"
    )
    report.errors += [f"the counts of session {session_id} are wrong" for (session_id,) in wrong]
    for (number,) in execute("SELECT changed FROM jobs WHERE changed > (SELECT n FROM ledger_clock) LIMIT 1"):
        report.errors.append(f"a job has the change number {number}, which was not drawn yet")
    for kept, stored in execute(
        "SELECT kept.bytes, (SELECT coalesce(sum(bytes), 0) FROM outputs WHERE expired_at IS NULL) FROM kept"
    ):
        if kept != stored:
            report.errors.append(f"the images have {stored} bytes; {kept} are counted")


def _check_images(execute: Execute, sizes: Sizes, report: LedgerReport) -> None:
    rows = execute("SELECT session_id, name, bytes FROM outputs WHERE expired_at IS NULL ORDER BY session_id")
    for session_id, images in groupby(rows, key=itemgetter(0)):
        stored = sizes(session_id)
        for _, name, size in images:
            report.images += 1
            if name not in stored:
                report.errors.append(f"the image {name} has a record but no file")
            elif stored[name] != size:
                report.errors.append(f"the image {name} has {stored[name]} bytes; its record has {size}")
