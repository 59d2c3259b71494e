"""Maintenance of a ledger's file: check its integrity, copy it, put a copy back, and compact it."""

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from umrgen.durable import make_private, sync_folder
from umrgen.server.ledger.sql.checks import LedgerReport, MaintenanceFailed, Sizes, check_records
from umrgen.server.ledger.sqlite.connection import connect, schema_version

__all__ = ["backup", "backup_to_folder", "check", "restore", "vacuum"]

_COPY = re.compile(r"ledger-\d{8}T\d{12}Z\.sqlite3")
"""The names of the copies that `backup_to_folder` makes; it deletes no other file."""
ANOTHER_COPY = "Name another copy, one that `umrgen ledger backup` made."


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
    _check_rows(connection, report)


def _check_rows(connection: sqlite3.Connection, report: LedgerReport) -> None:
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
    return _copy(lambda: _open(path), target)


def backup_to_folder(path: Path, folder: Path, keep: int) -> tuple[Path, int]:
    """Copy the ledger to a new file in `folder`, and delete the oldest of the earlier copies beyond `keep` in all.

    Return the new file and its size in bytes. Raises MaintenanceFailed; then no earlier copy is deleted.
    """
    target = folder / f"ledger-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z.sqlite3"
    size = backup(path, target)
    copies = sorted(file for file in folder.iterdir() if _COPY.fullmatch(file.name))
    for file in copies[:-keep]:
        with suppress(FileNotFoundError):  # deleted by another backup
            file.unlink()
    return target, size


def restore(copy: Path, path: Path) -> Path | None:
    """Put a copy of the ledger in the place of the ledger `path`; return the file that the replaced one has now.

    The copy is checked first, and is not changed. No server may use the ledger. Raises MaintenanceFailed; then the
    ledger is unchanged.
    """
    _require_sound(copy)
    partial = path.with_name(f".{path.name}.restored")
    partial.unlink(missing_ok=True)
    _copy(lambda: _open_unchanged(copy), partial)
    try:
        replaced = _keep_replaced(path)
    except MaintenanceFailed:
        partial.unlink()
        raise
    partial.replace(path)
    sync_folder(path.parent)
    return replaced


def _open_unchanged(copy: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro", uri=True)


def _require_sound(copy: Path) -> None:
    """Raise MaintenanceFailed for a file that is damaged, no ledger, or one of a newer version."""
    report = LedgerReport()
    try:
        with closing(_open_unchanged(copy)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("SELECT count(*) FROM jobs")
            _check_rows(connection, report)
    except sqlite3.Error as error:
        raise MaintenanceFailed(f"{copy} cannot be read as a ledger: {error}", next=ANOTHER_COPY) from None
    if not 0 < version <= schema_version():
        known = schema_version()
        raise MaintenanceFailed(
            f"{copy} has the schema version {version}, this program reads 1 to {known}", next=ANOTHER_COPY
        )
    if report.errors:
        raise MaintenanceFailed(f"{copy} is damaged: {report.errors[0]}", next=ANOTHER_COPY)


def _keep_replaced(path: Path) -> Path | None:
    """Give the ledger's file a second name, so that nothing of it is lost; return this name, or None without a file."""
    if not path.exists():
        return None
    _close_journal(path)
    kept = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z")
    try:
        os.link(path, kept)
    except OSError:  # a file system without hard links
        path.rename(kept)
    for suffix in ("-wal", "-shm"):  # SQLite would write an old -wal into the copy
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    return kept


def _close_journal(path: Path) -> None:
    """Write the rows of the write-ahead log into the ledger's file, which only its sole user can do.

    A damaged file is kept as it is. Raises MaintenanceFailed while a process has the ledger open, such as a server with
    another state folder: what it writes later would be in the replaced file.
    """
    try:
        with closing(connect(path, busy_seconds=0)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise MaintenanceFailed(f"a server uses the ledger {path}", next="Stop all servers of it first.") from None


def _copy(opened: Callable[[], sqlite3.Connection], target: Path) -> int:
    """Copy a ledger to the file `target`, complete and synced; return its size. Raises MaintenanceFailed."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        make_private(partial)  # hashes of keys, which sign webhooks, and prompts
        with closing(opened()) as source, closing(sqlite3.connect(partial)) as copy:
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
