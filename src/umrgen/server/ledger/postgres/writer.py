"""The writing connection: statements are sent without waiting for each result, and commits are never guessed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.errors import PipelineAborted

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import CHANNEL, PostgresAddress, PostgresStatements, plain_values
from umrgen.server.ledger.postgres.failures import DEFECTS
from umrgen.server.ledger.sql.database import NO_VALUES, CommitUnknown, Row, RunAgain

__all__ = ["PostgresWriter"]

T = TypeVar("T")

_LOCK = "SELECT pg_current_xact_id()::text FROM ledger_clock WHERE id = 1 FOR UPDATE"


class PostgresWriter(PostgresStatements):
    """Implements `WriteConnection`.

    The results of statements are received when one is needed, and before the commit. Only a `careful` transaction
    waits for each of them, and has savepoints, which take time.
    """

    SESSION = """
        SELECT set_config(name, value, false)
        FROM (VALUES ('lock_timeout', '5s'), ('idle_in_transaction_session_timeout', '15s'),
                     ('transaction_timeout', '15s')) AS limits (name, value)
        WHERE name IN (SELECT pg_settings.name FROM pg_settings)
    """
    """A write waits 5 s for another server's. PostgreSQL ends a transaction whose server has stopped inside it; before
    version 17, only one that waits for the next statement."""

    def __init__(self, address: PostgresAddress) -> None:
        super().__init__(address)
        self._pipeline: psycopg.Pipeline | None = None
        self._opened = ExitStack()
        self._sent: list[tuple[str, psycopg.Cursor[Any], int]] = []
        """Statements whose results were not looked at, and how many rows they must change."""
        self._jobs: dict[str, psycopg.Cursor[Any]] = {}
        """The rows of jobs that were read together at the begin, and that no statement has changed since."""
        self._careful = False
        self._has_written = False
        """Whether the operation has sent a statement that writes."""
        self._transaction = ""
        """The number of the transaction, by which PostgreSQL knows whether it was committed."""
        self._last_change: int | None = None

    # --- statements ---

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        self._has_written = True
        self._jobs.clear()
        return self._attempt(lambda: self._received(self._execute(statement, values)).rowcount)

    def send(self, statement: str, values: Mapping[str, Any] = NO_VALUES, *, rows: int | None = None) -> None:
        self._has_written = True
        if statement == "update_job":
            self._jobs.pop(values["id"], None)
        elif statement == "prune_jobs":
            self._jobs.clear()
        if self._careful:
            super().send(statement, values, rows=rows)
            return
        cursor = self._attempt(lambda: self._execute(statement, values))
        if rows is not None:
            self._sent.append((statement, cursor, rows))

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        read = self._jobs.pop(values["id"], None) if statement == "get_job" else None
        row: Row | None = self._attempt(lambda: (read or self._execute(statement, values)).fetchone())
        if statement == "advance_clock" and row is not None:
            self._last_change = row[0]
        return row

    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]:
        return self._attempt(lambda: self._execute(statement, values).fetchall())

    def _execute(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        return self._control(self._sql[statement], plain_values(values))

    def _control(self, sql: str, values: Mapping[str, Any] | None = None) -> psycopg.Cursor[Any]:
        """Send a statement on the connection of the transaction, which is never replaced by a new one."""
        if self._connected is None or self._connected.closed:
            raise psycopg.OperationalError("the connection was lost")
        return self._connected.execute(sql, values)

    def _attempt(self, work: Callable[[], T]) -> T:
        """Raise RunAgain for a defect, which may be that of an earlier statement, and LedgerUnavailable."""
        try:
            return work()
        except (*DEFECTS, PipelineAborted):
            if self._careful:
                raise
            raise RunAgain from None
        except psycopg.Error as error:
            raise self._address.unavailable(error) from None

    def _received(self, cursor: psycopg.Cursor[Any]) -> psycopg.Cursor[Any]:
        """Receive the results of all statements."""
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor

    # --- transactions ---

    def begin(self, *, careful: bool = False, job_ids: Collection[str] = ()) -> None:
        """Start a transaction, and lock the row of the clock: the writes of other servers wait for its end."""
        self._careful, self._last_change, self._sent, self._jobs = careful, None, [], {}
        self._start()
        if not careful:
            self._jobs = {job_id: self._attempt(partial(self._read, job_id)) for job_id in job_ids}

    def _read(self, job_id: str) -> psycopg.Cursor[Any]:
        return self._execute("get_job", {"id": job_id})

    def _start(self) -> None:
        was_open = self._is_open
        try:
            self.guarded(self._begin, defects=())
        except LedgerUnavailable:
            if not was_open or self._is_open:
                raise
            self.guarded(self._begin, defects=())  # the connection was lost while it was idle; nothing was written

    @property
    def _is_open(self) -> bool:
        return self._connected is not None and not self._connected.closed

    def _begin(self) -> None:
        self._leave_pipeline()
        connection = self._connection()
        if not self._careful:
            self._pipeline = self._opened.enter_context(connection.pipeline())
        connection.execute("BEGIN")
        row = connection.execute(_LOCK).fetchone()
        if row is None:
            raise LedgerUnavailable("the ledger in PostgreSQL has no clock", next="See: umrgen ledger check")
        self._transaction = row[0]

    def _leave_pipeline(self) -> None:
        self._pipeline = None
        opened, self._opened = self._opened, ExitStack()
        with suppress(psycopg.Error):  # it was reported before
            opened.close()

    def commit(self) -> None:
        self._attempt(self._check_sent)
        try:
            end = self.guarded(self._commit, defects=())
        except LedgerUnavailable as error:
            if self._is_open:
                raise  # the server has refused it
            transaction = self._transaction
            raise CommitUnknown(str(error), ask=lambda: self._was_committed(transaction), next=error.next) from None
        finally:
            self._leave_pipeline()
        if end != "COMMIT":
            raise LedgerUnavailable("PostgreSQL has rolled the transaction back")

    def _check_sent(self) -> None:
        if self._pipeline is not None:
            self._pipeline.sync()
        for statement, cursor, rows in self._sent:
            if cursor.rowcount != rows:
                raise RunAgain(f"{statement} changed {cursor.rowcount} rows, not {rows}")

    def _commit(self) -> str | None:
        if self._last_change is not None:
            self._control(f"NOTIFY {CHANNEL}, '{self._last_change}'")
        return self._received(self._control("COMMIT")).statusmessage

    def _was_committed(self, transaction: str) -> bool:
        """Ask PostgreSQL for the end of a transaction. Raises LedgerUnavailable until it has ended and can be asked."""
        connection = self._connection()
        row = self.guarded(
            lambda: connection.execute("SELECT pg_xact_status(%s::text::xid8)", [transaction]).fetchone(), defects=()
        )
        if row is None or row[0] not in ("committed", "aborted"):
            raise LedgerUnavailable("PostgreSQL has not ended the transaction of a lost connection yet")
        return bool(row[0] == "committed")

    def rollback(self) -> None:
        self._leave_pipeline()
        self.guarded(lambda: self._control("ROLLBACK"), defects=())

    def savepoint(self) -> None:
        self._has_written = False
        if self._careful:
            self.guarded(lambda: self._control("SAVEPOINT operation"), defects=())

    def release(self) -> None:
        if self._careful:
            self.guarded(lambda: self._control("RELEASE operation"), defects=())

    def undo(self) -> None:
        if self._careful:
            self.guarded(lambda: self._control("ROLLBACK TO operation"), defects=())
            self.release()
        elif self._has_written:
            raise RunAgain

    def close(self) -> None:
        self._leave_pipeline()
        super().close()
