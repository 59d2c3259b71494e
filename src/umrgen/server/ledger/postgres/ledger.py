"""The ledger in a PostgreSQL database."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

import psycopg

from umrgen.server.domain.job import Job
from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import PostgresAddress
from umrgen.server.ledger.postgres.listener import ChangeListener
from umrgen.server.ledger.postgres.readers import ReaderThreads
from umrgen.server.ledger.postgres.schema import migrate
from umrgen.server.ledger.postgres.writer import PostgresWriter
from umrgen.server.ledger.sql.change_feed import ChangeFeed
from umrgen.server.ledger.sql.database import Read, SqlConnection, Transaction
from umrgen.server.ledger.sql.ledger import SqlStores, read_time
from umrgen.server.ledger.sql.writer import ThreadWriter
from umrgen.server.ledger.values import OnChange

__all__ = ["PostgresLedger"]

T = TypeVar("T")


class PostgresLedger(SqlStores):
    """Implements `Ledger` and its `Database`. Reads run in threads; all writes in one more, with group commit."""

    rows_at_a_time = 5000  # a query in a thread delays no call; it is bounded so that a thread is free soon

    def __init__(self, url: str, observe_commit: Callable[[float], None] = lambda seconds: None) -> None:
        super().__init__(self)
        self._address = PostgresAddress(url)
        self._observe_commit = observe_commit
        self._readers: ReaderThreads
        self._writer: ThreadWriter
        self._listener: ChangeListener
        self._feed: ChangeFeed
        self._on_foreign_change: OnChange

    async def open(self, on_change: OnChange = lambda jobs: None, on_foreign_change: OnChange | None = None) -> None:
        await asyncio.to_thread(self._migrate)
        self.jobs.clear_cache()
        self._readers = ReaderThreads(self._address)
        self._listener = ChangeListener(self._address, self._on_number)
        self._on_foreign_change = self._observing(on_foreign_change or on_change)
        try:
            self._feed = ChangeFeed(await self.jobs.last_change())
            await self._listener.start()
        except LedgerUnavailable:
            await self._readers.close()
            raise
        self._writer = ThreadWriter(
            PostgresWriter(self._address),
            self._observing(on_change),
            observe=self._observe_commit,
            ranges=self._feed,
        )

    def _migrate(self) -> None:
        with closing(self._address.connect()) as connection:
            try:
                migrate(connection)
            except psycopg.Error as error:
                raise self._address.unavailable(error) from None

    async def close(self) -> None:
        await self._listener.stop()
        try:
            await self._writer.close()
        finally:
            await self._readers.close()

    def _observing(self, on_change: OnChange) -> OnChange:
        """Let the job store see a change before `on_change` does."""

        def observe(jobs: Sequence[Job]) -> None:
            self.jobs.observe(jobs)
            on_change(jobs)

        return observe

    async def _on_number(self, number: int | None) -> None:
        """Report what other servers changed up to `number`, or up to now. Raises LedgerUnavailable."""
        if number is not None and not self._feed.is_behind(number):
            return
        if jobs := await self.read(self._feed.read):
            self._on_foreign_change(jobs)

    async def read(self, query: Callable[[SqlConnection], T]) -> T:
        self._listener.check()
        return await self._readers.read(query)

    async def time(self) -> int | None:
        return await self.read(read_time)

    async def search(self, query: Callable[[SqlConnection], T]) -> T:
        return await self.read(query)

    def peek(self, query: Callable[[SqlConnection], T]) -> T | None:
        """Return None: every query waits for the network. The job store's cache has what this server saw end."""
        return None

    async def write(self, operation: Callable[[Transaction], T], *, changes: int = 0, reads: Sequence[Read] = ()) -> T:
        self._listener.check()
        return await self._writer.write(operation, changes, reads)
