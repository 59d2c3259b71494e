"""Connections to PostgreSQL: their settings, and the named statements that read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8BinaryDumper

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.failures import DEFECTS, unavailable
from umrgen.server.ledger.sql.database import NO_VALUES, Row
from umrgen.server.ledger.sql.statements import Dialect, load_statements

__all__ = [
    "APPLICATION",
    "CHANNEL",
    "DIALECT",
    "WORDS",
    "PostgresAddress",
    "PostgresReader",
    "plain_value",
]

APPLICATION = "umrgen"
"""The name of the connections in `pg_stat_activity`."""
CHANNEL = "umrgen_changes"
"""The channel of notifications; each carries the last change number of a commit."""
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
WORDS = "NOT EXISTS (SELECT 1 FROM unnest(:words::text[]) AS word WHERE strpos(searched, word) = 0)"
DIALECT = Dialect(
    contains=lambda name: f"= ANY(:{name})",
    words=WORDS,
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
_SESSION = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),
       set_config('enable_seqscan', 'off', false), set_config('enable_sort', 'off', false),
       set_config('max_parallel_workers_per_gather', '0', false), set_config('tcp_keepalives_idle', '5', false),
       set_config('tcp_keepalives_interval', '3', false), set_config('tcp_keepalives_count', '3', false)
"""
"""Each statement is planned once: all of them find their rows by an index, and read them in its order. Without the
setting `enable_seqscan`, those that were planned while the ledger was new would read whole tables, until PostgreSQL's
statistics change; without `enable_sort`, pruning would, by some statistics, read and sort all old records for the next
50. The server, too, ends a connection whose other end is gone."""


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
        except psycopg.Error as error:
            raise self.unavailable(error) from None
        try:
            connection.adapters.register_dumper(int, Int8BinaryDumper)  # one type, so one plan for each statement
            connection.execute(_SESSION)
        except psycopg.Error as error:
            connection.close()
            raise self.unavailable(error) from None
        return connection

    def unavailable(self, error: psycopg.Error) -> LedgerUnavailable:
        return unavailable(error, self.password)


def plain_value(value: Any) -> Any:
    """Return a value that PostgreSQL can store: it has arrays for collections, and no text with NUL."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value
    return value if value is None or isinstance(value, int | bytes) else list(value)


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in values.items()}


class PostgresReader:
    """Implements `SqlConnection`, for reading, on a connection that is made when it is needed. For one thread."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._sql, _ = load_statements(DIALECT)
        self._connected: psycopg.Connection | None = None

    def _execute(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        """Run a statement, and again on a new connection if the present one was lost."""
        reused = self._connected
        try:
            return self._attempt(statement, values)
        except LedgerUnavailable:
            if reused is None or not reused.closed or self._connected is not reused:
                raise
            return self._attempt(statement, values)

    def _attempt(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        if self._connected is None or self._connected.closed:
            self._connected = self._address.connect()
        try:
            return self._connected.execute(self._sql[statement], _plain_values(values))
        except psycopg.Error as error:
            if isinstance(error, DEFECTS):
                raise
            raise self._address.unavailable(error) from None

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        return self._execute(statement, values).rowcount

    def send(self, statement: str, values: Mapping[str, Any] = NO_VALUES, *, rows: int | None = None) -> None:
        raise AssertionError("this connection reads only")

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None:
        row: Row | None = self._execute(statement, values).fetchone()
        return row

    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]:
        return self._execute(statement, values).fetchall()

    def close(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None
