"""The ledger in memory: the same statements, durable as long as the object exists. For tests and simulations."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from umrgen.server.domain.job import Job
from umrgen.server.ledger.sql.database import Read, SqlConnection, Transaction
from umrgen.server.ledger.sql.ledger import SqlStores
from umrgen.server.ledger.sql.writer import InlineWriter
from umrgen.server.ledger.sqlite.connection import SqliteConnection, connect, migrate
from umrgen.server.ledger.values import OnChange

__all__ = ["MemoryLedger"]

T = TypeVar("T")


class MemoryLedger(SqlStores):
    """Implements `Ledger` and its `Database`. Its content survives `close` and the next `open`, as after a restart."""

    rows_at_a_time = 250

    def __init__(self) -> None:
        super().__init__(self)
        self._connection: SqliteConnection | None = None
        self._raw: sqlite3.Connection | None = None
        self._writer: InlineWriter
        self._content = b""
        """The database between a `close` and the next `open`."""

    async def open(self, on_change: OnChange = lambda jobs: None, on_foreign_change: OnChange | None = None) -> None:
        self.jobs.clear_cache()
        if self._raw is None:
            self._raw = self._connect()
        self._connection = SqliteConnection(self._raw)

        def observe(jobs: Sequence[Job]) -> None:
            self.jobs.observe(jobs)
            on_change(jobs)

        self._writer = InlineWriter(self._connection, observe)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(":memory:")
        try:
            if self._content:
                connection.deserialize(self._content)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        await self._writer.close()
        if self._raw is not None:
            self._content = self._raw.serialize()
            self.discard()

    def discard(self) -> None:
        """Close the connection without finishing pending operations, as the end of a process would."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    async def read(self, query: Callable[[SqlConnection], T]) -> T:
        assert self._connection is not None
        return query(self._connection)

    async def search(self, query: Callable[[SqlConnection], T]) -> T:
        return await self.read(query)

    def peek(self, query: Callable[[SqlConnection], T]) -> T | None:
        assert self._connection is not None
        return query(self._connection)

    async def write(self, operation: Callable[[Transaction], T], *, changes: int = 0, reads: Sequence[Read] = ()) -> T:
        return await self._writer.write(operation, changes, reads)
