"""Group commit: one writer owns the writing connection and commits the operations of many callers together.

The sync is the expensive part of a durable write; it happens once per batch. A batch has the operations of one
iteration of the event loop, and those that arrived while the previous batch was being synced.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from umrgen.server.domain.job import Job
from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.sql.database import CommitUnknown, Read, RunAgain, Transaction, WriteConnection

__all__ = ["GroupWriter", "InlineWriter", "NumberRanges", "ThreadWriter"]

log = logging.getLogger(__name__)

T = TypeVar("T")

ASK_AGAIN = 0.2
"""Seconds between two questions whether a transaction was committed."""

_Operation = Callable[[Transaction], Any]
_Waiting = tuple[_Operation, int, Sequence[Read], "asyncio.Future[Any]"]
"""An operation, the number of changes it makes at most, its first reads, and the future of its result."""
_Settled = tuple[list[tuple["asyncio.Future[Any]", Any, BaseException | None]], list[Job]]
"""The result of one committed batch: (future, result, error) per operation, and the changed jobs."""


class NumberRanges(Protocol):
    """A record of the change numbers that this writer draws. Called on the writing thread."""

    def draw(self, numbers: range) -> None:
        """These numbers are about to be committed."""
        ...

    def undo(self) -> None:
        """The numbers drawn last are not used: their transaction is about to be rolled back."""
        ...


class _NoRanges:
    def draw(self, numbers: range) -> None: ...
    def undo(self) -> None: ...


def _run_operation(
    connection: WriteConnection, transaction: Transaction, operation: _Operation
) -> tuple[Any, BaseException | None]:
    """Run one operation under its own savepoint, so that its failure does not affect the others of its batch.

    Return its result or its error. Raises LedgerUnavailable: then the whole batch has failed.
    """
    before = len(transaction.changed)
    connection.savepoint()
    try:
        result = operation(transaction)
    except (LedgerUnavailable, RunAgain):
        raise
    except Exception as error:
        connection.undo()
        del transaction.changed[before:]
        transaction.next_jobs.clear()
        transaction.counts.clear()
        return None, error
    connection.release()
    return result, None


def _failed(batch: list[_Waiting], error: LedgerUnavailable) -> _Settled:
    return [(future, None, error) for *_, future in batch], []


class GroupWriter:
    """Runs operations in the order of their arrival, each completely or not at all.

    Subclasses decide when, and on which thread.
    """

    BATCH = 256

    def __init__(
        self,
        connection: WriteConnection,
        on_change: Callable[[Sequence[Job]], None],
        *,
        observe: Callable[[float], None] = lambda seconds: None,
        ranges: NumberRanges | None = None,
    ) -> None:
        """`observe` is called on the writing thread with the seconds that each commit took."""
        self._connection = connection
        self._on_change = on_change
        self._observe = observe
        self._ranges: NumberRanges = ranges or _NoRanges()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._arrived: list[_Waiting] = []
        """The operations of this iteration of the loop."""

    async def write(self, operation: Callable[[Transaction], T], changes: int, reads: Sequence[Read] = ()) -> T:
        """Run `operation` in a transaction; return its result once that is on disk."""
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._arrived:
            self._loop.call_soon(self._hand_over)
        self._arrived.append((operation, changes, reads, future))
        return await future

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        for start in range(0, len(arrived), self.BATCH):
            self._take(arrived[start : start + self.BATCH])

    def _take(self, batch: list[_Waiting]) -> None:
        """Arrange a call of `_commit` with this batch, and then of `_settle` with its result, on the loop."""
        raise NotImplementedError

    async def close(self) -> None:
        """Finish the operations that were handed over."""
        self._closed = True
        self._hand_over()

    def _commit(self, batch: list[_Waiting]) -> _Settled:
        try:
            try:
                return self._attempt(batch, careful=False)
            except RunAgain:
                return self._attempt(batch, careful=True)
        except LedgerUnavailable as error:
            return _failed(batch, error)
        except Exception:  # the thread must not end: all later operations would wait without end
            log.exception("a batch of changes failed")
            return _failed(batch, LedgerUnavailable("the ledger cannot be written"))

    def _attempt(self, batch: list[_Waiting], *, careful: bool) -> _Settled:
        """Run the batch in one transaction. When this raises, nothing was written."""
        done: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        drawn: range | None = None
        try:
            count = sum(changes for _, changes, _, _ in batch)
            self._connection.begin(careful=careful, reads=self._first_reads(batch, count))
            drawn = self._draw_numbers(count)
            transaction = Transaction(self._connection, iter(drawn))
            for operation, _, _, future in batch:
                done.append((future, *_run_operation(self._connection, transaction, operation)))
            if self._connection.has_written:
                begun = time.perf_counter()
                self._commit_transaction()
                self._observe(time.perf_counter() - begun)
            else:  # such as a claim without a job: nothing is synced, and no other server notified
                self._undo(drawn)
        except Exception:
            # Such as a full disk, or a lock of another program.
            with suppress(LedgerUnavailable):  # SQLite rolls back by itself after some errors
                self._undo(drawn)
            raise
        return done, transaction.changed

    @staticmethod
    def _first_reads(batch: list[_Waiting], count: int) -> list[Read]:
        numbers: list[Read] = [("advance_clock", {"count": count})] if count else []
        return numbers + [read for _, _, reads, _ in batch for read in reads]

    def _undo(self, drawn: range | None) -> None:
        if drawn:
            self._ranges.undo()
        self._connection.rollback()

    def _commit_transaction(self) -> None:
        """Return when the transaction is on disk. Raises LedgerUnavailable when nothing of it was written."""
        try:
            self._connection.commit()
        except CommitUnknown as unknown:
            if not self._learn(unknown):
                raise LedgerUnavailable(str(unknown), next=unknown.next) from None

    def _learn(self, unknown: CommitUnknown) -> bool:
        """Return whether the transaction was committed, as soon as that is known."""
        return unknown.ask()

    def _draw_numbers(self, count: int) -> range:
        """Take change numbers from the database, inside the transaction: other writers wait for its end."""
        if not count:
            return range(0)
        row = self._connection.one("advance_clock", {"count": count})
        assert row is not None
        numbers = range(row[0] - count + 1, row[0] + 1)
        self._ranges.draw(numbers)
        return numbers

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
    """Writes on a separate thread: the loop continues while the disk syncs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umrgen-ledger", daemon=True)
        self._thread.start()

    def _take(self, batch: list[_Waiting]) -> None:
        self._queue.put(batch)  # one thread switch for the whole batch, not one for each operation

    async def close(self) -> None:
        """Finish the operations that were handed over, then end the thread."""
        await super().close()
        self._stopping.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while (batch := self._gather()) is not None:
                self._loop.call_soon_threadsafe(self._settle, self._commit(batch))
        finally:
            self._connection.close()

    def _learn(self, unknown: CommitUnknown) -> bool:
        """Ask until there is an answer. New operations fail without waiting for it."""
        while True:
            try:
                return unknown.ask()
            except LedgerUnavailable as error:
                self._refuse_waiting(error)
            if self._stopping.wait(ASK_AGAIN):
                log.error("the server stops while it is not known whether its last changes were written: %s", unknown)
                return False

    def _refuse_waiting(self, error: LedgerUnavailable) -> None:
        while not self._queue.empty():
            batch = self._queue.get()
            if batch is None:
                self._queue.put(None)
                return
            self._loop.call_soon_threadsafe(self._settle, _failed(batch, error))

    def _gather(self) -> list[_Waiting] | None:
        """Wait for a batch, and add the batches that have arrived since. None after `close`."""
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
    """Writes on the loop's thread, in its next iteration, so that the order of events is always the same."""

    def _take(self, batch: list[_Waiting]) -> None:
        self._loop.call_soon(self._write, batch)

    def _write(self, batch: list[_Waiting]) -> None:
        self._loop.call_soon(self._settle, self._commit(batch))

    async def close(self) -> None:
        await super().close()
        for _ in range(2):
            await asyncio.sleep(0)  # one iteration for the write, one for its results
