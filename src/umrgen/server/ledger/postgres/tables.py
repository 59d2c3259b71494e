"""The tables of a ledger in PostgreSQL, for copying."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql

from umrgen.server.ledger.postgres.connection import APPLICATION, PostgresAddress, plain_value
from umrgen.server.ledger.postgres.schema import migrate, schema_version, stored_version
from umrgen.server.ledger.sql.checks import MaintenanceFailed
from umrgen.server.ledger.sql.database import Row

__all__ = ["PostgresTables"]

FETCHED = 2000
"""Rows that are held in memory."""


class PostgresTables:
    """Implements `LedgerTables`."""

    def __init__(self, url: str) -> None:
        self._address = PostgresAddress(url)
        self._connection: psycopg.Connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._transaction():
            if stored_version(self._connection) != schema_version():
                raise MaintenanceFailed(
                    "the database has no ledger of this version", next="Start the server once, then stop it."
                )
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._transaction():
            migrate(self._connection)
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with closing(self._address.connect()) as self._connection:
            try:
                self._refuse_users()
                self._connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
                with self._connection.transaction():
                    yield
            except psycopg.Error as error:
                raise self._address.unavailable(error) from None

    def _refuse_users(self) -> None:
        row = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
            " AND pid <> pg_backend_pid()",
            [APPLICATION],
        ).fetchone()
        if row and row[0]:
            raise MaintenanceFailed("a server uses the ledger in PostgreSQL", next="Stop all servers of it first.")

    def columns(self, table: str) -> list[str]:
        cursor = self._connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table)))
        return [column.name for column in cursor.description or ()]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        query = sql.SQL("SELECT {} FROM {}").format(_names(columns), sql.Identifier(table))
        with self._connection.cursor(name="umrgen_copy") as cursor:
            cursor.itersize = FETCHED
            cursor.execute(query)
            yield from cursor

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        query = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), _names(columns))
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for row in rows:
                copy.write_row([plain_value(value) for value in row])

    def clear(self, table: str) -> None:
        self._connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))

    def value(self, query: str) -> Any:
        row = self._connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def numbered(self) -> None:
        self._connection.execute(
            "SELECT setval(pg_get_serial_sequence('jobs', 'seq'), (SELECT max(seq) FROM jobs))"
            " WHERE EXISTS (SELECT 1 FROM jobs)"
        )


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
