"""Connections to PostgreSQL: settings, named statements, and transactions one after the other on all servers."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8BinaryDumper

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.failures import DEFECTS, unavailable
from umrgen.server.ledger.sql.database import NO_VALUES, CommitUnknown, Row
from umrgen.server.ledger.sql.statements import Dialect, load_statements

__all__ = ["APPLICATION", "CHANNEL", "DIALECT", "PostgresAddress", "PostgresReader", "PostgresWriter"]

T = TypeVar("T")

APPLICATION = "umrgen"
"""The name of the connections in `pg_stat_activity`."""
CHANNEL = "umrgen_changes"
"""The channel of notifications; each carries the last change number of a commit."""
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
DIALECT = Dialect(
    contains=lambda name: f"= ANY(:{name})",
    parameters=lambda sql: _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%")),
)
_NETWORK: Mapping[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A connection whose other end is gone is reported within 15 seconds. The URL may say otherwise."""
_SESSION = (
    "SELECT set_config('lock_timeout', '5s', false), set_config('idle_in_transaction_session_timeout', '15s', false)"
)
"""A write waits 5 s for another server's; PostgreSQL ends the transaction of a server that stopped inside one."""

_SAVEPOINT = "SAVEPOINT operation"


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """The URL of a ledger."""

    url: str = field(repr=False)  # it may have a password

    @property
    def password(self) -> str:
        return str(self._parts.get("password") or "")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a connection."""
        return {"application_name": APPLICATION, **_NETWORK, **self._parts}

    @property
    def _parts(self) -> Mapping[str, Any]:
        try:
            return conninfo_to_dict(self.url)
        except psycopg.Error:  # its text has parts of the URL
            raise LedgerUnavailable(
                "the URL of the ledger is not one of PostgreSQL",
                next="Write postgresql://USER@HOST:PORT/DATABASE, with %XX for special characters of a password.",
            ) from None

    def connect(self) -> psycopg.Connection:
        """Return a connection in autocommit mode. Raises LedgerUnavailable."""
        try:
            connection = psycopg.connect(autocommit=True, prepare_threshold=0, **self.parameters)
            connection.adapters.register_dumper(int, Int8BinaryDumper)  # one type, so one plan for each statement
            connection.execute(_SESSION)
        except psycopg.Error as error:
            raise self.unavailable(error) from None
        return connection

    def unavailable(self, error: psycopg.Error) -> LedgerUnavailable:
        return unavailable(error, self.password)


def _plain(value: Any) -> Any:
    """Return a value that PostgreSQL can store: it has arrays for collections, and no text with NUL."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value
    return value if value is None or isinstance(value, int | bytes) else list(value)


class _Statements:
    """Runs named statements on a connection that is made when it is needed. For one thread."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._sql, _ = load_statements(DIALECT)
        self._connected: psycopg.Connection | None = None

    def _connection(self) -> psycopg.Connection:
        if self._connected is None or self._connected.closed:
            self._connected = self._address.connect()
        return self._connected

    def _execute(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        plain = {name: _plain(value) for name, value in values.items()}
        return self._guarded(lambda: self._connection().execute(self._sql[statement], plain))

    def _guarded(self, work: Callable[[], T], defects: tuple[type[Exception], ...] = DEFECTS) -> T:
        """Translate the errors of a server, a network or a disk to LedgerUnavailable, and all others but `defects`."""
        try:
            return work()
        except psycopg.Error as error:
            if isinstance(error, defects):
                raise
            raise self._address.unavailable(error) from None

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        return self._execute(statement, values).rowcount

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        row: Row | None = self._execute(statement, values).fetchone()
        return row

    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]:
        return self._execute(statement, values).fetchall()

    def close(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None


class PostgresReader(_Statements):
    """Implements `SqlConnection` for reading. A statement whose connection is lost runs once more on a new one."""

    def _execute(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        fresh = self._connected is None
        try:
            return super()._execute(statement, values)
        except LedgerUnavailable:
            if fresh or self._connected is None or not self._connected.closed:
                raise
            return super()._execute(statement, values)


class PostgresWriter(_Statements):
    """Implements `WriteConnection`. Statements that have no result are sent with the next one that has."""

    def __init__(self, address: PostgresAddress) -> None:
        super().__init__(address)
        self._unsent: list[str] = []
        self._transaction = ""
        """The number of the transaction, by which PostgreSQL knows whether it was committed."""
        self._last_change: int | None = None

    @property
    def _is_open(self) -> bool:
        return self._connected is not None and not self._connected.closed

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        row = super().one(statement, values)
        if statement == "advance_clock" and row is not None:
            self._last_change = row[0]
        return row

    def _execute(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        plain = {name: _plain(value) for name, value in values.items()}
        return self._guarded(lambda: self._send(self._sql[statement], plain))

    def _send(self, sql: str, values: Mapping[str, Any] | None = None) -> psycopg.Cursor[Any]:
        """Send the unsent statements and this one in one round trip. Raises psycopg.Error."""
        unsent, self._unsent = self._unsent, []
        if self._connected is None or self._connected.closed:
            raise psycopg.OperationalError("the connection was lost")
        if not unsent:
            return self._connected.execute(sql, values)
        with self._connected.pipeline():
            for earlier in unsent:
                self._connected.execute(earlier)
            return self._connected.execute(sql, values)

    def _control(self, sql: str) -> psycopg.Cursor[Any]:
        return self._guarded(lambda: self._send(sql), defects=())

    def begin(self) -> None:
        """Start a transaction, and lock the row of the clock: other servers' writes wait for its end."""
        self._last_change = None
        was_open = self._is_open
        try:
            self._begin()
        except LedgerUnavailable:
            if not was_open or self._is_open:
                raise
            self._begin()  # the connection was lost while it was idle; nothing was written

    def _begin(self) -> None:
        self._connection()
        self._unsent = ["BEGIN"]
        row = self._control("SELECT pg_current_xact_id()::text FROM ledger_clock WHERE id = 1 FOR UPDATE").fetchone()
        if row is None:
            raise LedgerUnavailable("the ledger in PostgreSQL has no clock", next="See: umrgen ledger check")
        self._transaction = row[0]

    def commit(self) -> None:
        if self._last_change is not None:
            self._unsent.append(f"NOTIFY {CHANNEL}, '{self._last_change}'")
        try:
            end = self._control("COMMIT").statusmessage
        except LedgerUnavailable as error:
            if self._is_open:
                raise  # the server has refused it
            transaction = self._transaction
            raise CommitUnknown(str(error), ask=lambda: self._was_committed(transaction), next=error.next) from None
        if end != "COMMIT":
            raise LedgerUnavailable("PostgreSQL has rolled the transaction back")

    def _was_committed(self, transaction: str) -> bool:
        """Ask PostgreSQL for the end of a transaction. Raises LedgerUnavailable until it has ended and can be asked."""
        connection = self._connection()
        row = self._guarded(
            lambda: connection.execute("SELECT pg_xact_status(%s::text::xid8)", [transaction]).fetchone(), defects=()
        )
        if row is None or row[0] not in ("committed", "aborted"):
            raise LedgerUnavailable("PostgreSQL has not ended the transaction of a lost connection yet")
        return bool(row[0] == "committed")

    def rollback(self) -> None:
        self._unsent = []
        self._control("ROLLBACK")

    def savepoint(self) -> None:
        self._unsent.append(_SAVEPOINT)

    def release(self) -> None:
        if not self._withdraw_savepoint():
            self._unsent.append("RELEASE operation")

    def undo(self) -> None:
        if not self._withdraw_savepoint():
            self._control("ROLLBACK TO operation")
            self.release()

    def _withdraw_savepoint(self) -> bool:
        """Return whether the operation has sent nothing; then its savepoint is not sent either."""
        unused = bool(self._unsent) and self._unsent[-1] == _SAVEPOINT
        if unused:
            self._unsent.pop()
        return unused

    def close(self) -> None:
        with suppress(psycopg.Error):
            super().close()
