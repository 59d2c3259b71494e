"""The ledger in memory: the same SQL, durable as long as the object lives. For tests and simulations."""

import sqlite3
from collections import OrderedDict

from umrgen.server.ledger import OnChange
from umrgen.server.ledger.sqlite import SqliteLedger, connect, migrate
from umrgen.server.ledger.writer import InlineWriter

__all__ = ["MemoryLedger"]


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
        self._writer = InlineWriter(self._connection, self._telling(on_change), last_change=await self.last_change())

    async def close(self) -> None:
        await self._writer.close()
