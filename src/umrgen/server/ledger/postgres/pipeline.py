"""Many statements in one round trip: libpq's pipeline mode, through psycopg's public `pq` module.

psycopg's own pipeline sends each statement in a packet of its own, and has a cursor for each; that takes 2.6 times as
long (benchmarks.md).
"""

import re
import select
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, pq

from umrgen.server.ledger.sql.database import Row

__all__ = ["PipelineResult", "StatementPipeline", "numbered"]

ANSWER = 20.0
"""Seconds without a byte after which a connection is given up. PostgreSQL ends a wait for a lock after 5 s."""
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
_BYTEA, _INTEGERS = 17, frozenset((20, 21, 23, 26, 1700))
"""Type numbers of PostgreSQL: bytea; int8, int2, int4, oid and numeric."""
_ESCAPED = re.compile(r'(["\\])')


def numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with `$1` for its first parameter, and the names of the parameters in this order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", sql).encode(), names


class PipelineResult:
    """The result of a statement, which is there after the next `sync`."""

    __slots__ = ("_result",)

    def __init__(self) -> None:
        self._result: pq.abc.PGresult | None = None

    def receive(self, result: pq.abc.PGresult) -> None:
        self._result = result

    @property
    def _received(self) -> pq.abc.PGresult:
        assert self._result is not None, "the pipeline was not synchronized"
        return self._result

    @property
    def count(self) -> int:
        """The number of rows that the statement changed."""
        return self._received.command_tuples or 0

    @property
    def command(self) -> bytes:
        """The name of the command that was executed: for a COMMIT of a failed transaction, ROLLBACK."""
        return self._received.command_status or b""

    def rows(self) -> list[Row]:
        result = self._received
        types = [result.ftype(column) for column in range(result.nfields)]
        return [
            [_decoded(result.get_value(row, column), kind) for column, kind in enumerate(types)]
            for row in range(result.ntuples)
        ]


class StatementPipeline:
    """The statements of one connection, which is used for nothing else."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._pgconn = connection.pgconn
        self._pgconn.enter_pipeline_mode()
        self._prepared: dict[bytes, bytes] = {}
        self._names = 0
        self._waiting: deque[PipelineResult] = deque()
        """The results that the next `sync` receives, in the order of their statements."""
        self._readable, self._ready = select.poll(), select.poll()
        self._readable.register(self._pgconn.socket, select.POLLIN)
        self._ready.register(self._pgconn.socket, select.POLLIN | select.POLLOUT)

    def send(self, sql: bytes, values: Sequence[Any] = ()) -> PipelineResult:
        """Send a statement, which is prepared when it is sent first. Raises psycopg.OperationalError."""
        name = self._prepared.get(sql)
        if name is None:
            self._names += 1
            name = self._prepared[sql] = b"umrgen_%d" % self._names
            self._pgconn.send_prepare(name, sql)
            self._waiting.append(PipelineResult())
        result = PipelineResult()
        self._pgconn.send_query_prepared(name, [_encoded(value) for value in values])
        self._waiting.append(result)
        return result

    def sync(self) -> None:
        """Receive all results. Raises the psycopg.Error of the first statement that failed; later ones were not run."""
        self._pgconn.pipeline_sync()
        failure: psycopg.Error | None = None
        while (result := self._next()) is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            if result is None:
                self._require_connection()
                continue
            if result.status == pq.ExecStatus.FATAL_ERROR:
                failure = failure or _error_of(result)
                if self._pgconn.status == pq.ConnStatus.BAD:
                    raise failure
            self._waiting.popleft().receive(result)
        if failure is not None:
            self._prepared.clear()  # after a failure, later statements were not prepared
            raise failure

    def _require_connection(self) -> None:
        if self._pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("the connection was lost")

    def _next(self) -> pq.abc.PGresult | None:
        """Wait for a result, without holding the interpreter's lock; None at the end of those of one statement."""
        while (unsent := self._pgconn.flush()) or self._pgconn.is_busy():
            # More than the system's buffer is sent part by part; PostgreSQL responds to the whole only.
            if not (self._ready if unsent else self._readable).poll(ANSWER * 1000):
                self._pgconn.finish()
                raise psycopg.OperationalError(f"it did not answer for {ANSWER:g} s")
            self._pgconn.consume_input()
        return self._pgconn.get_result()


def _encoded(value: Any) -> bytes | None:
    """Return a value as text. PostgreSQL has no NUL in text."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode().replace(b"\0", b"\xef\xbf\xbd")
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    return ("{" + ",".join(f'"{_ESCAPED.sub(_BACKSLASH, str(item))}"' for item in value) + "}").encode()


_BACKSLASH = r"\\\1"


def _decoded(value: bytes | None, kind: int) -> Any:
    if value is None:
        return None
    if kind in _INTEGERS:
        return int(value)
    return bytes.fromhex(value[2:].decode()) if kind == _BYTEA else value.decode()


def _error_of(result: pq.abc.PGresult) -> psycopg.Error:
    code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    try:
        kind: type[psycopg.Error] = errors.lookup(code)
    except KeyError:
        kind = psycopg.OperationalError
    return kind(text.decode(errors="replace"))
