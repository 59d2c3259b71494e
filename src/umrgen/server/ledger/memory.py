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
        self._content = b""
        """The database between a `close` and the next `open`."""

    async def open(self, on_change: OnChange = lambda jobs: None) -> None:
        self._recent = OrderedDict()
        if self._connection is None:
            self._connection = self._connected()
        self._reader = self._connection
        self._writer = InlineWriter(self._connection, self._telling(on_change), last_change=await self.last_change())

    def _connected(self) -> sqlite3.Connection:
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
        if self._connection is not None:
            self._content = self._connection.serialize()
            self.discard()

    def discard(self) -> None:
        """Close the connection at once, whatever was asked for: the end of a process, or of a simulated one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
