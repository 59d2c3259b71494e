"""The ledger in one SQLite file: WAL, every commit synced. Several servers on one machine may share the file."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TypeVar

from umrgen.durable import make_folder, make_private
from umrgen.server.domain.job import Job
from umrgen.server.ledger.errors import LedgerDamaged, LedgerUnavailable
from umrgen.server.ledger.sql.change_feed import ChangeFeed
from umrgen.server.ledger.sql.database import Read, SqlConnection, Transaction
from umrgen.server.ledger.sql.ledger import SqlStores
from umrgen.server.ledger.sql.writer import ThreadWriter
from umrgen.server.ledger.sqlite.connection import SqliteConnection, connect, migrate
from umrgen.server.ledger.values import OnChange

__all__ = ["SqliteLedger"]

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_INTERVAL = 0.25
"""Seconds between two polls for changes by other servers."""


class SqliteLedger(SqlStores):
    """Implements `Ledger` and its `Database`. Reads run on the caller's thread: one takes 4 to 7 microseconds."""

    rows_at_a_time = 250  # a millisecond of the event loop

    def __init__(self, path: Path, observe_commit: Callable[[float], None] = lambda seconds: None) -> None:
        super().__init__(self)
        self._path = path
        self._observe_commit = observe_commit
        self._reader: SqliteConnection
        self._writer: ThreadWriter
        self._polling: asyncio.Task[None] | None = None

    async def open(self, on_change: OnChange = lambda jobs: None, on_foreign_change: OnChange | None = None) -> None:
        make_folder(self._path.parent)
        with suppress(FileExistsError):
            make_private(self._path)
        try:
            await self._open(on_change, on_foreign_change or on_change)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise LedgerDamaged(f"the ledger {self._path} cannot be read: {error}") from None

    async def _open(self, on_change: OnChange, on_foreign_change: OnChange) -> None:
        with closing(connect(self._path)) as connection:
            migrate(connection)
        with ExitStack() as opened:
            self._reader = SqliteConnection(opened.enter_context(closing(connect(self._path, busy_seconds=0))))
            feed = ChangeFeed(await self.jobs.last_change())
            self._writer = ThreadWriter(
                SqliteConnection(opened.enter_context(closing(connect(self._path)))),
                self._observing(on_change),
                observe=self._observe_commit,
                ranges=feed,
            )
            opened.pop_all()  # from here on `close` closes them
        self._polling = asyncio.create_task(self._poll(feed, self._observing(on_foreign_change)))

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        try:
            await self._writer.close()
        finally:
            self._reader.close()

    def _observing(self, on_change: OnChange) -> OnChange:
        """Let the job store see a change before `on_change` does."""

        def observe(jobs: Sequence[Job]) -> None:
            self.jobs.observe(jobs)
            on_change(jobs)

        return observe

    async def _poll(self, feed: ChangeFeed, on_change: OnChange) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            try:
                if jobs := feed.read(self._reader):
                    on_change(jobs)
            except LedgerUnavailable:
                pass  # the next poll reads from the same change number
            except Exception:
                log.exception("changes of other servers could not be observed")

    async def read(self, query: Callable[[SqlConnection], T]) -> T:
        return query(self._reader)

    async def search(self, query: Callable[[SqlConnection], T]) -> T:
        return await asyncio.to_thread(self._search, query)

    def _search(self, query: Callable[[SqlConnection], T]) -> T:
        """Run a query on a separate connection: that of `read` is used on the event loop."""
        try:
            connection = connect(self._path, busy_seconds=0)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger cannot be used: {error}") from error
        with closing(connection):
            return query(SqliteConnection(connection))

    def peek(self, query: Callable[[SqlConnection], T]) -> T | None:
        return query(self._reader)

    async def write(self, operation: Callable[[Transaction], T], *, changes: int = 0, reads: Sequence[Read] = ()) -> T:
        return await self._writer.write(operation, changes, reads)
