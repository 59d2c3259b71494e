"""The ledger on SQLite: one file, WAL, every commit synced."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from umrgen.durable import make_folder
from umrgen.model import State
from umrgen.server.domain.job import Change, Conflict, Job, JobSpec, advance
from umrgen.server.ledger import (
    DAY,
    NO_CAPS,
    Caps,
    DailyLimit,
    Idempotency,
    IdempotencyConflict,
    LedgerTooNew,
    LedgerUnavailable,
    OnChange,
    QueueFull,
    TooManyJobs,
)
from umrgen.server.ledger.deliveries import Deliveries, enter_webhook
from umrgen.server.ledger.queries import load_migrations, load_queries
from umrgen.server.ledger.records import Records, Writer
from umrgen.server.ledger.rows import COLUMNS, job_of, row_of
from umrgen.server.ledger.writer import ThreadWriter, Transaction

__all__ = ["SqliteLedger", "connect", "migrate"]

_SQL = load_queries("sqlite")
RECENT = 4096
"""Jobs kept in memory: those that changed last are those that are asked for."""
BUSY_SECONDS = 5.0
"""How long a write waits for another program that holds the file. A read never does: it would hold up everybody."""


def connect(path: Path | str, *, busy_seconds: float | None = None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS if busy_seconds is None else busy_seconds,
        cached_statements=64,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:  # the file is no database, or cannot be read
        connection.close()
        raise
    return connection


def _statements(script: str) -> Iterator[str]:
    """The script's statements one by one; `executescript` would end the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest schema, whoever else does so at the same time.

    Raises LedgerTooNew when it was written by a newer program.
    """
    migrations = load_migrations("sqlite")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise LedgerTooNew()
    for migration in migrations[version:]:
        for statement in _statements(migration):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute("COMMIT")


class SqliteLedger(Records, Deliveries):
    """Implements `Ledger`. Reads run inline on the caller's thread: one is 4 to 7 microseconds."""

    def __init__(self, path: Path, observe_commit: Callable[[float], None] = lambda seconds: None) -> None:
        self._path = path
        self._observe_commit = observe_commit
        self._reader: sqlite3.Connection
        self._writer: Writer
        self._recent: OrderedDict[str, Job] = OrderedDict()

    async def open(self, on_change: OnChange = lambda jobs: None) -> None:
        make_folder(self._path.parent)
        with closing(connect(self._path)) as connection:
            migrate(connection)
        with ExitStack() as opened:
            self._reader = opened.enter_context(closing(connect(self._path, busy_seconds=0)))
            self._writer = ThreadWriter(
                opened.enter_context(closing(connect(self._path))),
                self._telling(on_change),
                last_change=await self.last_change(),
                observe=self._observe_commit,
            )
            opened.pop_all()  # from here on `close` closes them

    async def close(self) -> None:
        try:
            await self._writer.close()
        finally:
            self._reader.close()

    def _telling(self, on_change: OnChange) -> OnChange:
        """Keep what has just changed in memory, then tell of it."""

        def tell(jobs: Sequence[Job]) -> None:
            for job in jobs:
                self._keep(job)
            on_change(jobs)

        return tell

    def _keep(self, job: Job) -> Job:
        """Remember a job as it is now. Only this process changes jobs, and this thread hears of it: what is
        read here is never older than what is remembered."""
        self._recent[job.id] = job
        self._recent.move_to_end(job.id)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return job

    def _read(self, query: str, values: Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        try:
            return self._reader.execute(_SQL[query], values or {})
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(f"the ledger cannot be read: {error}") from error

    # --- jobs ---

    async def submit(
        self,
        job_id: str,
        session_id: str,
        spec: JobSpec,
        engine: str,
        *,
        now: int,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        caps: Caps = NO_CAPS,
        key_id: str = "",
    ) -> tuple[Job, bool]:
        def operation(transaction: Transaction) -> tuple[Job, bool]:
            if idempotency is not None:
                earlier = _earlier(transaction.connection, session_id, idempotency, now)
                if earlier is not None:
                    return earlier, False
            if caps is not NO_CAPS:
                _check_caps(transaction, session_id, caps, now)
            job = Job(
                job_id,
                session_id,
                spec,
                engine,
                created_at=now,
                priority=priority,
                changed=next(transaction.changes),
                key_id=key_id,
            )
            transaction.connection.execute(_SQL["insert_job"], row_of(job))
            if idempotency is not None:
                _remember(transaction, job, idempotency, now)
            transaction.changed.append(job)
            return job, True

        result: tuple[Job, bool] = await self._writer.do(operation)
        return result

    async def earlier(self, session_id: str, idempotency: Idempotency, *, now: int) -> Job | None:
        try:
            return _earlier(self._reader, session_id, idempotency, now)
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(f"the ledger cannot be read: {error}") from error

    def peek(self, job_id: str) -> Job | None:
        return self._recent.get(job_id) or self._get(job_id)

    async def get(self, job_id: str) -> Job | None:
        return self.peek(job_id)

    def _get(self, job_id: str) -> Job | None:
        row = self._read("get_job", {"id": job_id}).fetchone()
        return self._keep(job_of(row)) if row else None

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        return [job_of(row) for row in self._read("get_jobs", {"ids": json.dumps(list(job_ids))})]

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        rows = self._read("changes", {"ids": json.dumps(list(job_ids))})
        return {job_id: (session_id, changed) for job_id, session_id, changed in rows}

    async def last_change(self) -> int:
        (changed,) = self._read("last_change").fetchone()
        return int(changed)

    async def queue_position(self, job: Job) -> int | None:
        if job.state is not State.QUEUED:
            return None
        (rank,) = self._read("rank_in_session", {"id": job.id}).fetchone()
        (others,) = self._read("ahead_of_session", {"session_id": job.session_id, "rank": rank}).fetchone()
        return int(rank + others + 1)

    async def page(
        self, session_id: str, *, state: State | None, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        values = {"session_id": session_id, "limit": limit + 1, "before": before or 2**62}
        if state is None:
            rows = self._read("page", values).fetchall()
        else:
            rows = self._read("page_of_state", values | {"state": state.value}).fetchall()
        cursor = rows[limit - 1]["seq"] if len(rows) > limit else None
        return [job_of(row) for row in rows[:limit]], cursor

    async def count(self) -> dict[State, int]:
        queued, running = self._read("count").fetchone()
        return {State.QUEUED: queued, State.RUNNING: running}

    async def recent_runs(self, *, among: int) -> list[Job]:
        return [job_of(row) for row in self._read("recent_runs", {"among": among})]

    async def claim(self, worker: str, *, now: int, lease_until: int, running_cap: int = 0) -> Job | None:
        def operation(transaction: Transaction) -> Job | None:
            execute = transaction.connection.execute
            session = execute(_SQL["next_session"], {"running_cap": running_cap}).fetchone()
            if session is None:
                return None
            row = execute(_SQL["next_job"], {"session_id": session["id"]}).fetchone()
            job = _store(transaction, job_of(row), Change.CLAIM, now=now, worker=worker, lease_until=lease_until)
            execute(_SQL["serve_session"], {"id": job.session_id, "served": job.changed})
            return job

        claimed: Job | None = await self._writer.do(operation)
        return claimed

    async def change(
        self,
        job_id: str,
        change: Change,
        *,
        now: int,
        token: int | None = None,
        version: int | None = None,
        **values: Any,
    ) -> Job:
        def operation(transaction: Transaction) -> Job:
            row = transaction.connection.execute(_SQL["get_job"], {"id": job_id}).fetchone()
            if row is None:
                raise KeyError(job_id)
            return _store(transaction, job_of(row), change, now=now, token=token, version=version, **values)

        changed: Job = await self._writer.do(operation)
        return changed

    async def expired_leases(self, *, now: int) -> list[Job]:
        return [job_of(row) for row in self._read("expired_leases", {"now": now})]


def _store(transaction: Transaction, job: Job, change: Change, **values: Any) -> Job:
    changed = advance(job, change, **values)
    if changed.state is not job.state:
        changed = changed._replace(changed=next(transaction.changes))
    new = dict(zip(COLUMNS, row_of(changed), strict=True))
    if transaction.connection.execute(_SQL["update_job"], new).rowcount != 1:
        raise Conflict("the job changed in the meantime", job_id=job.id)
    if change is Change.COMPLETE:
        for output in changed.outputs:
            row = asdict(output) | {"job_id": job.id, "created_at": changed.completed_at}
            transaction.connection.execute(_SQL["insert_output"], row)
    if changed.over and changed.spec.webhook_url:
        enter_webhook(transaction, changed, now=values["now"])
    transaction.changed.append(changed)
    return changed


def _check_caps(transaction: Transaction, session_id: str, caps: Caps, now: int) -> None:
    """Raise what stands in the way of one more job."""
    execute, day = transaction.connection.execute, now // DAY
    row = execute(_SQL["session_counts"], {"id": session_id, "day": day}).fetchone()
    if row is None:
        return
    if caps.alive and row["queued"] + row["running"] >= caps.alive:
        raise TooManyJobs(job_id=execute(_SQL["oldest_alive"], {"session_id": session_id}).fetchone()["id"])
    if caps.queued and row["queued"] >= caps.queued:
        raise QueueFull
    if caps.daily and row["made"] >= caps.daily:
        raise DailyLimit(until=(day + 1) * DAY)


def _earlier(connection: sqlite3.Connection, session_id: str, idempotency: Idempotency, now: int) -> Job | None:
    values = {"session_id": session_id, "key": idempotency.key, "now": now}
    row = connection.execute(_SQL["get_idempotency"], values).fetchone()
    if row is None:
        return None
    if row["digest"] != idempotency.digest:
        raise IdempotencyConflict(job_id=row["job_id"])
    return job_of(connection.execute(_SQL["get_job"], {"id": row["job_id"]}).fetchone())


def _remember(transaction: Transaction, job: Job, idempotency: Idempotency, now: int) -> None:
    transaction.connection.execute(_SQL["expire_idempotency"], {"now": now})
    values = {
        "session_id": job.session_id,
        "key": idempotency.key,
        "digest": idempotency.digest,
        "job_id": job.id,
        "expires_at": now + idempotency.kept_for,
    }
    transaction.connection.execute(_SQL["put_idempotency"], values)
