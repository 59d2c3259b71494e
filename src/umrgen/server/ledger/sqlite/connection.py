"""Connections to SQLite: settings, schema, and named statements."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from umrgen.server.ledger.errors import LedgerTooNew, LedgerUnavailable
from umrgen.server.ledger.sql.database import NO_VALUES, Read, Row, WrongRowCount
from umrgen.server.ledger.sql.rows import searched_of
from umrgen.server.ledger.sql.statements import Dialect, load_migrations, load_statements

__all__ = ["DIALECT", "SqliteConnection", "connect", "migrate", "schema_version"]

BUSY_SECONDS = 5.0
"""Seconds that a write waits for another program's lock. A read does not wait: it would block the event loop."""

_DEFECTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.NotSupportedError)
"""Errors of this program. The others are those of a disk, a lock, or a damaged file."""
DIALECT = Dialect(
    contains=lambda name: f"IN (SELECT value FROM json_each(:{name}))",  # noqa: S608
    words="NOT EXISTS (SELECT 1 FROM json_each(:words) WHERE instr(searched, value) = 0)",
)
SEARCHED = 9
"""The version of the schema that added the column `searched`."""


def connect(path: Path | str, *, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Return a connection in autocommit mode. Raises sqlite3.Error when the file is unreadable or not a database."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=busy_seconds, cached_statements=64
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def schema_version() -> int:
    """Return the version of the schema that this program reads and writes."""
    return len(load_migrations("umrgen.server.ledger.sqlite"))


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the database to the newest schema. Concurrent calls in other processes are safe.

    Raises LedgerTooNew when a newer program wrote it.
    """
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > schema_version():
        raise LedgerTooNew()
    for migration in load_migrations("umrgen.server.ledger.sqlite")[version:]:
        for statement in _statements(migration):
            connection.execute(statement)
    if version < SEARCHED:
        connection.create_function("searched_of", 1, searched_of, deterministic=True)
        connection.execute("UPDATE jobs SET searched = searched_of(request)")
    connection.execute(f"PRAGMA user_version = {schema_version()}")
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements; `executescript` would end the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


class SqliteConnection:
    """Implements `WriteConnection`. Also used for reading."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._sql, self._lists = load_statements(DIALECT)
        self.has_written = False

    def _execute(self, statement: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        if lists := self._lists.get(statement):
            values = {**values, **{name: json.dumps(list(values[name])) for name in lists}}
        try:
            return self._connection.execute(self._sql[statement], values)
        except sqlite3.DatabaseError as error:
            if isinstance(error, _DEFECTS):
                raise
            raise LedgerUnavailable(f"the ledger cannot be used: {error}") from error

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        self.has_written = True
        return self._execute(statement, values).rowcount

    def send(self, statement: str, values: Mapping[str, Any] = NO_VALUES, *, rows: int | None = None) -> None:
        self.has_written = True
        changed = self._execute(statement, values).rowcount
        if rows is not None and changed != rows:
            raise WrongRowCount(f"{statement} changed {changed} rows, not {rows}")

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        row: Row | None = self._execute(statement, values).fetchone()
        return row

    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]:
        return self._execute(statement, values).fetchall()

    def begin(self, *, careful: bool = False, reads: Sequence[Read] = ()) -> None:
        self.has_written = False
        self._control("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._control("COMMIT")

    def rollback(self) -> None:
        self._control("ROLLBACK")

    def savepoint(self) -> None:
        self._control("SAVEPOINT operation")

    def release(self) -> None:
        self._control("RELEASE operation")

    def undo(self) -> None:
        self._control("ROLLBACK TO operation")
        self.release()

    def _control(self, sql: str) -> None:
        try:
            self._connection.execute(sql)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger cannot be written: {error}") from error

    def close(self) -> None:
        self._connection.close()
