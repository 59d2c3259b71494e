"""Group commit: one writer owns the writing connection and commits many callers' changes at once.

Syncing is the expensive part of a durable write; it is paid once per batch, and a batch is whatever
was asked for in one turn of the event loop, and whatever has gathered while the one before was being synced.
"""

import asyncio
import itertools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from umrgen.server.domain.job import Job
from umrgen.server.ledger import LedgerUnavailable

__all__ = ["InlineWriter", "Operation", "ThreadWriter", "Transaction"]


@dataclass(slots=True)
class Transaction:
    """What an operation sees: the connection, inside a transaction, and a place to tell what it changed."""

    connection: sqlite3.Connection
    changes: Iterator[int]
    """Numbers for changes of state, each larger than all before it."""
    changed: list[Job] = field(default_factory=list)


Operation = Callable[[Transaction], Any]
_Waiting = tuple[Operation, "asyncio.Future[Any]"]
_Settled = tuple[list[tuple["asyncio.Future[Any]", Any, BaseException | None]], list[Job]]
"""What is to be told: what became of each operation of a batch, and the jobs that were changed."""


def _apart(transaction: Transaction, operation: Operation) -> tuple[Any, BaseException | None]:
    """One operation under its own savepoint, so that its failure does not touch its neighbours.

    Gives its result, or its error. Raises sqlite3.OperationalError: then nothing can be written at all.
    """
    before = len(transaction.changed)
    transaction.connection.execute("SAVEPOINT operation")
    try:
        result, error = operation(transaction), None
    except sqlite3.OperationalError:
        raise
    except Exception as failure:
        transaction.connection.execute("ROLLBACK TO operation")
        del transaction.changed[before:]
        result, error = None, failure
    transaction.connection.execute("RELEASE operation")
    return result, error


class GroupWriter:
    """Runs operations in the order of their arrival, each whole or not at all. Its subclasses say when, and on
    which thread; everything else is the same."""

    BATCH = 256

    def __init__(
        self,
        connection: sqlite3.Connection,
        on_change: Callable[[Sequence[Job]], None],
        *,
        last_change: int,
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`observe` hears, on the writing thread, how many seconds each commit took."""
        self._connection = connection
        self._changes = itertools.count(last_change + 1)
        self._on_change = on_change
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._asked: list[_Waiting] = []
        """In this turn of the loop: all of it is one batch, or few."""

    async def do(self, operation: Operation) -> Any:
        """Run `operation` in a transaction; return its result once that is on disk."""
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append((operation, future))
        return await future

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), self.BATCH):
            self._take(asked[start : start + self.BATCH])

    def _take(self, batch: list[_Waiting]) -> None:
        """Have `_commit` called with this batch, and what it gives handed to `_settle` on the loop."""
        raise NotImplementedError

    async def close(self) -> None:
        """Finish what was asked for."""
        self._closed = True
        self._hand_over()

    def _commit(self, batch: list[_Waiting]) -> _Settled:
        done: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        transaction = Transaction(self._connection, self._changes)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for operation, future in batch:
                done.append((future, *_apart(transaction, operation)))
            begun = time.perf_counter()
            self._connection.execute("COMMIT")
            self._observe(time.perf_counter() - begun)
        except sqlite3.Error as error:
            # Nothing of the batch was written: disk full, or the file is locked by another program.
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                self._connection.execute("ROLLBACK")
            words = f"the ledger cannot be written: {error}"
            done = [(future, None, LedgerUnavailable(words)) for _, future in batch]
            transaction.changed.clear()
        return done, transaction.changed

    def _settle(self, settled: _Settled) -> None:
        done, changed = settled
        for future, result, error in done:
            if future.cancelled():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        if changed:
            self._on_change(changed)


class ThreadWriter(GroupWriter):
    """Writes on a thread of its own: the loop goes on while the disk syncs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="umrgen-ledger", daemon=True)
        self._thread.start()

    def _take(self, batch: list[_Waiting]) -> None:
        self._queue.put(batch)  # wakes the thread, which costs both a switch: so not for each operation

    async def close(self) -> None:
        """Finish what was asked for, then end the thread."""
        await super().close()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while (batch := self._gather()) is not None:
                self._loop.call_soon_threadsafe(self._settle, self._commit(batch))
        finally:
            self._connection.close()

    def _gather(self) -> list[_Waiting] | None:
        """The next batch: blocks for its first operations, takes along what else is there. None: there are no more."""
        batch = self._queue.get()
        while batch is not None and len(batch) < self.BATCH:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            batch += more
        return batch


class InlineWriter(GroupWriter):
    """Writes on the loop's own thread, a turn later: no chance in the order."""

    def _take(self, batch: list[_Waiting]) -> None:
        self._loop.call_soon(self._write, batch)

    def _write(self, batch: list[_Waiting]) -> None:
        self._loop.call_soon(self._settle, self._commit(batch))

    async def close(self) -> None:
        await super().close()
        for _ in range(2):
            await asyncio.sleep(0)  # for writing a turn, and one for telling of it
