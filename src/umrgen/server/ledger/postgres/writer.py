"""The writing connection: statements are sent without waiting for each result, and commits are never guessed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import psycopg

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import CHANNEL, WORDS, PostgresAddress
from umrgen.server.ledger.postgres.failures import DEFECTS
from umrgen.server.ledger.postgres.pipeline import PipelineResult, StatementPipeline, numbered
from umrgen.server.ledger.sql.database import NO_VALUES, CommitUnknown, Read, Row, RunAgain, WrongRowCount
from umrgen.server.ledger.sql.statements import Dialect, load_statements

__all__ = ["PostgresWriter"]

T = TypeVar("T")

_DIALECT = Dialect(contains=lambda name: f"= ANY(:{name})", words=WORDS)
_KEYS: Mapping[str, tuple[str, ...]] = {
    "advance_clock": (),
    "get_job": ("id",),
    "session_counts": ("id",),
    "get_idempotency": ("session_id", "key"),
}
"""The statements that may be read at the begin of a transaction, and the values that say which row they read."""
_CHANGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "update_job": ("get_job", ("id",)),
    "set_favorite": ("get_job", ("id",)),
    "erase_job": ("get_job", ("id",)),
    "count_new_job": ("session_counts", ("session_id",)),
    "count_state_change": ("session_counts", ("session_id",)),
}
"""The statements that change such a row, and which one."""
_CHANGE_MANY = frozenset(("prune_jobs", "prune_idempotency"))
_BESIDE_COUNTS = frozenset(
    ("insert_job", "get_idempotency", "expire_idempotency", "put_idempotency", "expire_calls", "insert_call")
)
"""The statements of a submit that neither read nor change the counts of sessions: the new jobs of several submits are
counted by one statement. To change the row once for each of them took a third of PostgreSQL's time for a submit."""
_LOCK = b"SELECT pg_current_xact_id()::text FROM ledger_clock WHERE id = 1 FOR UPDATE"
_LIMITS = (
    "SELECT set_config('lock_timeout', '5s', false), set_config('idle_in_transaction_session_timeout', '15s', false)"
)
"""A write waits 5 s for another server's. PostgreSQL ends a transaction whose server has stopped inside it."""


def _key(statement: str, names: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    return statement, *(values[name] for name in names)


@cache
def _statements() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    return {name: numbered(sql) for name, sql in load_statements(_DIALECT)[0].items()}


class PostgresWriter:
    """Implements `WriteConnection`.

    The results of statements are received when one is needed, and before the commit. Only a `careful` transaction
    waits for each of them, and has savepoints, which take time.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._connection: psycopg.Connection | None = None
        self._pipeline: StatementPipeline
        self._sent: list[tuple[str, PipelineResult, int]] = []
        """Statements whose results are not read yet, and how many rows they must change."""
        self._ahead: dict[tuple[str, ...], tuple[Mapping[str, Any], PipelineResult]] = {}
        """Rows that were read together at the begin and not changed since, with the values they were read by."""
        self._new_jobs: Counter[tuple[str, int]] = Counter()
        """New jobs that are not counted yet, by session and day."""
        self._careful = False
        self.has_written = False
        self._operation_wrote = False
        """Whether the operation has sent a statement that writes."""
        self._transaction = ""
        """The number of the transaction, by which PostgreSQL knows whether it was committed."""
        self._last_change: int | None = None

    # --- statements ---

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        self.has_written = self._operation_wrote = True
        self._ahead.clear()
        return self._received(statement, values).count

    def send(self, statement: str, values: Mapping[str, Any] = NO_VALUES, *, rows: int | None = None) -> None:
        self.has_written = self._operation_wrote = True
        if change := _CHANGES.get(statement):
            self._ahead.pop(_key(*change, values), None)
        elif statement in _CHANGE_MANY:
            self._ahead.clear()
        if statement == "count_new_job" and not self._careful:
            self._new_jobs[values["session_id"], values["day"]] += values["count"]
            return
        result = self._attempt(lambda: self._send(statement, values))
        if rows is not None:
            self._sent.append((statement, result, rows))
        if self._careful:
            self._check_sent()

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        rows = (self._read_ahead(statement, values) or self._received(statement, values)).rows()
        if statement == "advance_clock" and rows:
            self._last_change = rows[0][0]
        return rows[0] if rows else None

    def _read_ahead(self, statement: str, values: Mapping[str, Any]) -> PipelineResult | None:
        if (names := _KEYS.get(statement)) is None:
            return None
        read_by, result = self._ahead.pop(_key(statement, names, values), (None, None))
        return result if read_by == values else None

    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]:
        return self._received(statement, values).rows()

    def _received(self, statement: str, values: Mapping[str, Any]) -> PipelineResult:
        def work() -> PipelineResult:
            result = self._send(statement, values)
            self._pipeline.sync()
            return result

        return self._attempt(work)

    def _send(self, statement: str, values: Mapping[str, Any]) -> PipelineResult:
        if statement not in _BESIDE_COUNTS:
            self._count_new_jobs()
        return self._send_now(statement, values)

    def _count_new_jobs(self) -> None:
        counts, self._new_jobs = self._new_jobs, Counter()
        for (session_id, day), count in counts.items():
            self._send_now("count_new_job", {"session_id": session_id, "day": day, "count": count})

    def _send_now(self, statement: str, values: Mapping[str, Any]) -> PipelineResult:
        sql, names = _statements()[statement]
        return self._pipeline.send(sql, [values[name] for name in names])

    def _attempt(self, work: Callable[[], T]) -> T:
        """Raise RunAgain for a defect, which may be that of an earlier statement, and LedgerUnavailable."""
        try:
            return work()
        except DEFECTS:
            if self._careful:
                raise
            raise RunAgain from None
        except psycopg.Error as error:
            raise self._address.unavailable(error) from None

    def _control(self, sql: bytes, *values: str) -> PipelineResult:
        """Run a statement of the transaction itself. Raises LedgerUnavailable."""
        try:
            result = self._pipeline.send(sql, values)
            self._pipeline.sync()
        except psycopg.Error as error:
            raise self._address.unavailable(error) from None
        return result

    # --- transactions ---

    def begin(self, *, careful: bool = False, reads: Sequence[Read] = ()) -> None:
        """Start a transaction, and lock the row of the clock: the writes of other servers wait for its end.

        So as much as possible is one round trip: this thread may wait for the interpreter after each of them.
        """
        self._careful, self._last_change, self._sent, self._ahead = careful, None, [], {}
        self.has_written = False
        self._new_jobs.clear()
        self._start(() if careful else reads)

    def _start(self, reads: Sequence[Read]) -> None:
        was_open = self._is_open
        try:
            self._lock(reads)
        except LedgerUnavailable:
            if not was_open or self._is_open:
                raise
            self._lock(reads)  # the connection was lost while it was idle; nothing was written

    @property
    def _is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def _lock(self, reads: Sequence[Read]) -> None:
        self._connect()
        rows = self._attempt(lambda: self._begin(reads)).rows()
        if not rows:
            raise LedgerUnavailable("the ledger in PostgreSQL has no clock", next="See: umrgen ledger check")
        self._transaction = rows[0][0]

    def _begin(self, reads: Sequence[Read]) -> PipelineResult:
        self._pipeline.send(b"BEGIN")
        locked = self._pipeline.send(_LOCK)
        self._ahead = {}
        for statement, values in reads:
            key = _key(statement, _KEYS[statement], values)
            if key not in self._ahead:
                self._ahead[key] = values, self._send(statement, values)
        self._pipeline.sync()
        return locked

    def _connect(self) -> None:
        if self._is_open:
            return
        connection = self._address.connect()
        try:
            connection.execute(_LIMITS)
            self._pipeline = StatementPipeline(connection)
        except psycopg.Error as error:
            connection.close()
            raise self._address.unavailable(error) from None
        self._connection = connection

    def commit(self) -> None:
        self._attempt(self._count_new_jobs)
        if self._sent:
            self._check_sent()
        try:
            end = self._attempt(self._end).command
        except LedgerUnavailable as error:
            if self._is_open:
                raise  # the server has refused it
            transaction = self._transaction
            raise CommitUnknown(str(error), ask=lambda: self._was_committed(transaction), next=error.next) from None
        if end != b"COMMIT":
            raise LedgerUnavailable("PostgreSQL has rolled the transaction back")

    def _end(self) -> PipelineResult:
        """Commit, if no statement before has failed: PostgreSQL runs none after it, until `sync`."""
        if self._last_change is not None:
            self._pipeline.send(b"SELECT pg_notify($1, $2)", (CHANNEL, str(self._last_change)))
        result = self._pipeline.send(b"COMMIT")
        self._pipeline.sync()
        return result

    def _check_sent(self) -> None:
        self._attempt(self._pipeline.sync)
        sent, self._sent = self._sent, []
        for statement, result, rows in sent:
            if result.count != rows:
                wrong = WrongRowCount(f"{statement} changed {result.count} rows, not {rows}")
                raise wrong if self._careful else RunAgain

    def _was_committed(self, transaction: str) -> bool:
        """Ask PostgreSQL for the end of a transaction. Raises LedgerUnavailable until it has ended and can be asked."""
        self._connect()
        rows = self._control(b"SELECT pg_xact_status($1::text::xid8)", transaction).rows()
        if rows[0][0] not in ("committed", "aborted"):
            raise LedgerUnavailable("PostgreSQL has not ended the transaction of a lost connection yet")
        return bool(rows[0][0] == "committed")

    def rollback(self) -> None:
        if self._is_open:
            self._control(b"ROLLBACK")

    def savepoint(self) -> None:
        self._operation_wrote = False
        if self._careful:
            self._control(b"SAVEPOINT operation")

    def release(self) -> None:
        if self._careful:
            self._control(b"RELEASE operation")

    def undo(self) -> None:
        if self._careful:
            self._control(b"ROLLBACK TO operation")
            self.release()
        elif self._operation_wrote:
            raise RunAgain

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
