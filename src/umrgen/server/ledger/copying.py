"""Copying a ledger to another database: `umrgen ledger copy`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from umrgen.server.ledger.sql.checks import MaintenanceFailed
from umrgen.server.ledger.sql.database import Row

__all__ = ["LedgerTables", "copy_ledger"]

TABLES = (
    "jobs",
    "sessions",
    "outputs",
    "idempotency",
    "keys",
    "uploads",
    "templates",
    "webhooks",
    "calls",
    "obsolete_files",
    "secrets",
    "new_fingerprints",
    "fingerprints",
    "fingerprint_bands",
    "unhashed_images",
)
"""In an order in which no row refers to one of a later table. The leases of tasks are not copied: they end."""
SINGLE_ROWS = ("kept", "ledger_clock")
"""Tables of one row, which every ledger has."""
NUMBERS = (
    "SELECT n FROM ledger_clock",
    "SELECT bytes FROM kept",
    "SELECT coalesce(max(changed), 0) FROM jobs",
    "SELECT coalesce(max(seq), 0) FROM jobs",
)
"""What must be equal after the copy, besides the number of rows."""


class LedgerTables(Protocol):
    """The tables of a ledger, while no server uses it."""

    def reading(self) -> AbstractContextManager[None]:
        """A transaction that sees one state. Raises MaintenanceFailed while a server uses the ledger."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """A transaction that is committed at the end of the block, and rolled back by an exception.

        Creates the tables if there are none. Raises MaintenanceFailed while a server uses the ledger.
        """
        ...

    def columns(self, table: str) -> list[str]: ...
    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]: ...
    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None: ...
    def clear(self, table: str) -> None: ...
    def value(self, sql: str) -> Any: ...

    def numbered(self) -> None:
        """Let the numbers of new jobs continue after those of the jobs that were written."""
        ...


def copy_ledger(source: LedgerTables, target: LedgerTables) -> dict[str, int]:
    """Copy all records to a ledger that has none; return the number of rows by table.

    The copy is complete and checked, or the target has nothing. The source is not changed. Raises MaintenanceFailed.
    """
    with source.reading(), target.writing():
        for table in TABLES:
            if target.value(_count(table)):
                raise MaintenanceFailed(
                    f"the target has records already, in the table {table}",
                    next="Name an empty database or a new file.",
                )
        for table in SINGLE_ROWS:
            target.clear(table)
        for table in (*TABLES, *SINGLE_ROWS):
            columns = source.columns(table)
            target.write(table, columns, source.rows(table, columns))
        target.numbered()
        return _compare(source, target)


def _count(table: str) -> str:
    return f"SELECT count(*) FROM {table}"  # noqa: S608 - one of TABLES


def _compare(source: LedgerTables, target: LedgerTables) -> dict[str, int]:
    counts = {table: target.value(_count(table)) for table in TABLES}
    wrong = [table for table, count in counts.items() if source.value(_count(table)) != count]
    if wrong or any(int(source.value(sql)) != int(target.value(sql)) for sql in NUMBERS):
        raise MaintenanceFailed(f"the copy differs from its source: {', '.join(wrong) or 'its numbers'}")
    return counts
