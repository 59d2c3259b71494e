"""The small interface between the stores' rules and a database."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from umrgen.server.domain.job import Job
from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.values import ClaimFilter

__all__ = [
    "NO_VALUES",
    "CommitUnknown",
    "Database",
    "Read",
    "Row",
    "RunAgain",
    "SessionCounts",
    "SqlConnection",
    "Transaction",
    "WriteConnection",
    "WrongRowCount",
]

T = TypeVar("T")

Row = Sequence[Any]
"""The columns of a result, in the order in which the statement names them."""

NO_VALUES: Mapping[str, Any] = {}

Read = tuple[str, Mapping[str, Any]]
"""A statement and its values."""


class CommitUnknown(LedgerUnavailable):
    """The connection was lost during a commit. `ask` returns whether the transaction was committed.

    `ask` raises LedgerUnavailable while that cannot be learned.
    """

    def __init__(self, message: str, *, ask: Callable[[], bool], next: str) -> None:
        super().__init__(message, next=next)
        self.ask = ask


class RunAgain(Exception):
    """The operations of the transaction must run again, each with a savepoint: one of them may have failed."""


class WrongRowCount(Exception):
    """A statement changed another number of rows than its rule expects: a defect."""


class SqlConnection(Protocol):
    """Runs named statements of `statements.sql`. Raises LedgerUnavailable when the database cannot be used."""

    def run(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        """Return the number of rows that the statement changed."""
        ...

    def send(self, statement: str, values: Mapping[str, Any] = NO_VALUES, *, rows: int | None = None) -> None:
        """Run a statement whose result is not needed, now or before the commit.

        `rows`: how many rows it must change. Raises WrongRowCount.
        """
        ...

    def one(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Row | None: ...
    def all(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> Sequence[Row]: ...


class WriteConnection(SqlConnection, Protocol):
    """A connection with transactions. `begin` excludes other writers, `commit` returns when the change is on disk."""

    def begin(self, *, careful: bool = False, reads: Sequence[Read] = ()) -> None:
        """Start a transaction, which will probably read this by `one`.

        Without `careful`, a failure in it may raise RunAgain from any method.
        """
        ...

    @property
    def has_written(self) -> bool:
        """True after an operation of the transaction has run a statement by `run` or `send`."""
        ...

    def commit(self) -> None:
        """Raises LedgerUnavailable when nothing was written, CommitUnknown when that is not known."""
        ...

    def rollback(self) -> None: ...

    def savepoint(self) -> None:
        """Start an operation inside the transaction; one at a time."""
        ...

    def release(self) -> None:
        """End the operation."""
        ...

    def undo(self) -> None:
        """Undo what the operation wrote, and end it."""
        ...

    def close(self) -> None: ...


class SessionCounts(NamedTuple):
    """The queued and running jobs of a session, and those that it submitted on `day`, as the transaction left them."""

    day: int
    queued: int
    running: int
    made: int


@dataclass(slots=True)
class Transaction:
    """The argument of an operation that writes."""

    connection: SqlConnection
    change_numbers: Iterator[int]
    """A number for each change of a job's state, larger than all earlier ones. An operation may take as many as it
    announced in `Database.write`."""
    next_jobs: deque[Job] = field(default_factory=deque)
    """The next jobs, of different sessions, in the order of their turns. A claim reads several, for the claims that
    follow; every other change empties this."""
    next_of: tuple[int, ClaimFilter | None] = (0, None)
    """The cap and the filter by which `next_jobs` were read."""
    counts: dict[str, SessionCounts] = field(default_factory=dict)
    """The counts of sessions that operations of the transaction have read and changed."""
    changed: list[Job] = field(default_factory=list)
    """The jobs that the operations changed, as they are now."""


class Database(Protocol):
    """Reads, and writes in transactions with group commit."""

    @property
    def rows_at_a_time(self) -> int:
        """The number of rows that one query may search, so that other calls are not delayed."""
        ...

    async def read(self, query: Callable[[SqlConnection], T]) -> T: ...

    async def search(self, query: Callable[[SqlConnection], T]) -> T:
        """Read with a query that may take milliseconds: off the event loop, where the database is not in memory."""
        ...

    def peek(self, query: Callable[[SqlConnection], T]) -> T | None:
        """Read without waiting; None where that is not possible."""
        ...

    async def write(self, operation: Callable[[Transaction], T], *, changes: int = 0, reads: Sequence[Read] = ()) -> T:
        """Run `operation` in a transaction; return its result once that is on disk.

        `changes`: how many jobs' states the operation changes at most. `reads`: its first reads by `one`, so that a
        database may read that of a batch together: a round trip to PostgreSQL would hold up the writes of all servers.
        """
        ...
