"""The ledger in memory: the same SQL, durable as long as the object lives. For tests and simulations."""

import itertools
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from umrgen.jobs import Job
from umrgen.server.ledger import LedgerUnavailable, OnChange
from umrgen.server.ledger.sqlite import SqliteLedger, connect, migrate
from umrgen.server.ledger.writer import Operation, Transaction, attempt

__all__ = ["MemoryLedger"]


class InlineWriter:
    """Runs each operation at once, in a transaction of its own: no thread, so no chance in the order."""

    def __init__(
        self, connection: sqlite3.Connection, on_change: Callable[[Sequence[Job]], None], *, last_change: int
    ) -> None:
        self._connection = connection
        self._changes = itertools.count(last_change + 1)
        self._on_change = on_change

    async def do(self, operation: Operation) -> Any:
        """The operation's result; its change is told before this returns."""
        transaction = Transaction(self._connection, self._changes)
        self._connection.execute("BEGIN")
        try:
            result, error = attempt(transaction, operation)
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            self._connection.execute("ROLLBACK")
            raise LedgerUnavailable(f"the ledger cannot be written: {failure}") from failure
        if transaction.changed:
            self._on_change(transaction.changed)
        if error is not None:
            raise error
        return result

    async def close(self) -> None:
        """Nothing is left to be done."""


class MemoryLedger(SqliteLedger):
    """Implements `Ledger`. Closing and opening it again is a restart: what was in it is still there."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    async def open(self, on_change: OnChange = lambda jobs: None) -> None:
        self._recent = OrderedDict()
        if self._connection is None:
            self._connection = connect(":memory:")
            migrate(self._connection)
        self._reader = self._connection
        (last_change,) = self._read("last_change").fetchone()
        self._writer = InlineWriter(self._connection, self._telling(on_change), last_change=last_change)

    async def close(self) -> None:
        await self._writer.close()
