"""Maintenance of a ledger's file: check its integrity, copy it, and compact it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from umrgen.durable import make_private, sync_folder
from umrgen.server.ledger.sql.checks import LedgerReport, MaintenanceFailed, Sizes, check_records
from umrgen.server.ledger.sqlite.connection import connect, schema_version

__all__ = ["backup", "check", "vacuum"]


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise MaintenanceFailed(
            f"there is no ledger {path}", next="Name the server's state folder with --state, or its file with --ledger."
        )
    return connect(path)


def check(path: Path, sizes: Sizes) -> LedgerReport:
    """Check the ledger's file, its references and counts, and by `sizes` that each image on record exists.

    Changes nothing.
    """
    report = LedgerReport()
    try:
        with closing(_open(path)) as connection:
            _check_file(connection, report)
            if report.sound:
                check_records(connection.execute, sizes, report)
    except sqlite3.DatabaseError as error:
        report.errors.append(f"the file cannot be read: {error}")
    return report.shortened()


def _check_file(connection: sqlite3.Connection, report: LedgerReport) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = schema_version()
    if version != known:
        report.errors.append(f"its schema has version {version}, this program's {known}: start the server once")
        return
    report.errors += [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    report.errors += [
        f"a row of {table} refers to a row of {parent} that does not exist"
        for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")
    ]


def backup(path: Path, target: Path) -> int:
    """Copy the ledger to a new file, also while a server writes to it; return the copy's size in bytes.

    The copy is a consistent snapshot, complete and synced. Raises MaintenanceFailed; then there is no copy.
    """
    if target.exists():
        raise MaintenanceFailed(f"{target} exists already", next="Name a new file.")
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        make_private(partial)  # hashes of keys, which sign webhooks, and prompts
        with closing(_open(path)) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy, pages=1000)
            copy.execute("PRAGMA journal_mode = DELETE")
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise MaintenanceFailed(f"the ledger could not be copied: {error}") from None
    return target.stat().st_size


def vacuum(path: Path) -> tuple[int, int]:
    """Rewrite the ledger's file without free pages; return its size in bytes before and after.

    No server may use the ledger. Raises MaintenanceFailed.
    """
    with closing(_open(path)) as connection:
        before = path.stat().st_size
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise MaintenanceFailed(f"the ledger could not be compacted: {error}") from None
    return before, path.stat().st_size
