"""Reading in threads, each with its own connection, so that no query blocks the event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import PostgresAddress, PostgresReader
from umrgen.server.ledger.sql.database import SqlConnection

__all__ = ["ReaderThreads"]

T = TypeVar("T")

READERS = 4
"""Connections for reading. A query takes a fraction of a millisecond, so a few serve many callers."""


class ReaderThreads:
    """Runs queries on up to READERS threads."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="umrgen-ledger-read")
        self._local = threading.local()
        self._made: list[PostgresReader] = []
        self._closed = False

    async def read(self, query: Callable[[SqlConnection], T]) -> T:
        """Run the query in a thread. Raises LedgerUnavailable."""
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    def _run(self, query: Callable[[SqlConnection], T]) -> T:
        reader: PostgresReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = PostgresReader(self._address)
            self._made.append(reader)
        return query(reader)

    async def close(self) -> None:
        """Finish the queries that were started, and close the connections."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for reader in self._made:
            reader.close()
