"""The tables of a ledger in SQLite, for copying."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from umrgen.durable import make_folder, make_private
from umrgen.server.ledger.errors import LedgerDamaged
from umrgen.server.ledger.sql.checks import MaintenanceFailed
from umrgen.server.ledger.sql.database import Row
from umrgen.server.ledger.sqlite.connection import connect, migrate

__all__ = ["SqliteTables"]


class SqliteTables:
    """Implements `LedgerTables`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        if not self._path.is_file():
            raise MaintenanceFailed(f"there is no ledger {self._path}")
        with self._transaction():
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        new = not self._path.exists()
        if new:
            make_folder(self._path.parent)
            make_private(self._path)
        try:
            with self._transaction():
                yield
        except BaseException:
            if new:
                self._path.unlink()
            raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write-lock the file: a server that uses it cannot write meanwhile."""
        try:
            with closing(connect(self._path)) as self._connection:
                migrate(self._connection)
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            raise MaintenanceFailed(f"the ledger {self._path} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise LedgerDamaged(f"the ledger {self._path} cannot be read: {error}") from None

    def columns(self, table: str) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT name FROM pragma_table_info(?)", [table])]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        return self._connection.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608 - our own names

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        values = ", ".join("?" * len(columns))
        self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)  # noqa: S608

    def clear(self, table: str) -> None:
        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own name

    def value(self, sql: str) -> Any:
        return self._connection.execute(sql).fetchone()[0]

    def numbered(self) -> None:
        """SQLite does this itself."""
