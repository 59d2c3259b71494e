"""The ledger on SQLite: one file, WAL, every commit synced."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from umrgen.jobs import Change, Conflict, Job, JobSpec, Lora, Output, State, advance
from umrgen.server.ledger import Idempotency, IdempotencyConflict, Key, LedgerTooNew, OnChange
from umrgen.server.ledger.queries import load_migrations, load_queries
from umrgen.server.ledger.writer import Transaction, Writer

__all__ = ["SqliteLedger"]

_SQL = load_queries("sqlite")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=64)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _statements(script: str) -> Iterator[str]:
    """The script's statements one by one; `executescript` would end the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def migrate(path: Path) -> None:
    """Bring the file to the newest schema, whoever else does so at the same time.

    Raises LedgerTooNew when it was written by a newer program.
    """
    migrations = load_migrations("sqlite")
    with closing(_connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise LedgerTooNew()
        for migration in migrations[version:]:
            for statement in _statements(migration):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")


class SqliteLedger:
    """Implements `Ledger`. Reads run inline on the caller's thread: one is 4 to 7 microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: sqlite3.Connection
        self._writer: Writer

    async def open(self, on_change: OnChange = lambda jobs: None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        migrate(self._path)
        self._reader = _connect(self._path)
        (last_change,) = self._reader.execute(_SQL["last_change"]).fetchone()
        self._writer = Writer(lambda: _connect(self._path), on_change, last_change=last_change)

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()

    # --- jobs ---

    async def submit(
        self,
        job_id: str,
        session_id: str,
        spec: JobSpec,
        engine: str,
        *,
        now: int,
        idempotency: Idempotency | None = None,
    ) -> tuple[Job, bool]:
        def operation(transaction: Transaction) -> tuple[Job, bool]:
            if idempotency is not None and (earlier := _earlier(transaction, session_id, idempotency, now)):
                return earlier, False
            job = Job(job_id, session_id, spec, engine, created_at=now, changed=next(transaction.changes))
            transaction.connection.execute(_SQL["insert_job"], _row_of(job))
            if idempotency is not None:
                _remember(transaction, job, idempotency, now)
            transaction.changed.append(job)
            return job, True

        result: tuple[Job, bool] = await self._writer.do(operation)
        return result

    async def get(self, job_id: str) -> Job | None:
        row = self._reader.execute(_SQL["get_job"], {"id": job_id}).fetchone()
        return _job_of(row) if row else None

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        return [_job_of(row) for row in self._reader.execute(_SQL["get_jobs"], {"ids": json.dumps(list(job_ids))})]

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        rows = self._reader.execute(_SQL["changes"], {"ids": json.dumps(list(job_ids))})
        return {job_id: (session_id, changed) for job_id, session_id, changed in rows}

    async def queue_position(self, job: Job) -> int | None:
        if job.state is not State.QUEUED:
            return None
        (position,) = self._reader.execute(_SQL["queue_position"], {"id": job.id}).fetchone()
        return position or None

    async def page(
        self, session_id: str, *, state: State | None, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        values = {"session_id": session_id, "state": state, "limit": limit + 1, "before": before or 2**62}
        rows = self._reader.execute(_SQL["page"], values).fetchall()
        cursor = rows[limit - 1]["seq"] if len(rows) > limit else None
        return [_job_of(row) for row in rows[:limit]], cursor

    async def count(self) -> dict[State, int]:
        counted = {State.QUEUED: "count_queued", State.RUNNING: "count_running"}
        return {state: self._reader.execute(_SQL[name]).fetchone()[0] for state, name in counted.items()}

    async def claim(self, worker: str, *, now: int, lease_until: int) -> Job | None:
        def operation(transaction: Transaction) -> Job | None:
            row = transaction.connection.execute(_SQL["next_job"]).fetchone()
            if row is None:
                return None
            return _store(transaction, _job_of(row), Change.CLAIM, now, None, worker=worker, lease_until=lease_until)

        claimed: Job | None = await self._writer.do(operation)
        return claimed

    async def change(self, job_id: str, change: Change, *, now: int, token: int | None = None, **values: Any) -> Job:
        def operation(transaction: Transaction) -> Job:
            row = transaction.connection.execute(_SQL["get_job"], {"id": job_id}).fetchone()
            if row is None:
                raise KeyError(job_id)
            return _store(transaction, _job_of(row), change, now, token, **values)

        changed: Job = await self._writer.do(operation)
        return changed

    async def lapsed(self, *, now: int) -> list[Job]:
        return [_job_of(row) for row in self._reader.execute(_SQL["lapsed"], {"now": now})]

    async def output(self, session_id: str, name: str) -> Output | None:
        row = self._reader.execute(_SQL["get_output"], {"session_id": session_id, "name": name}).fetchone()
        return Output(**dict(row)) if row else None

    # --- keys ---

    async def add_key(self, key: Key) -> None:
        await self._writer.do(lambda transaction: transaction.connection.execute(_SQL["insert_key"], asdict(key)))

    async def key(self, hash: bytes) -> Key | None:
        row = self._reader.execute(_SQL["get_key"], {"hash": hash}).fetchone()
        return Key(**dict(row)) if row else None

    async def keys(self) -> list[Key]:
        return [Key(**dict(row)) for row in self._reader.execute(_SQL["list_keys"])]

    async def revoke_key(self, key_id: str, *, now: int) -> bool:
        def operation(transaction: Transaction) -> bool:
            values = {"id": key_id, "now": now}
            return transaction.connection.execute(_SQL["revoke_key"], values).rowcount == 1

        found: bool = await self._writer.do(operation)
        return found


def _store(transaction: Transaction, job: Job, change: Change, now: int, token: int | None, **values: Any) -> Job:
    changed = advance(job, change, now=now, token=token, **values)
    if changed.state is not job.state:
        changed = replace(changed, changed=next(transaction.changes))
    if transaction.connection.execute(_SQL["update_job"], _row_of(changed)).rowcount != 1:
        raise Conflict("the job changed in the meantime", job_id=job.id)
    if change is Change.COMPLETE:
        for output in changed.outputs:
            row = asdict(output) | {"job_id": job.id, "created_at": now}
            transaction.connection.execute(_SQL["insert_output"], row)
    transaction.changed.append(changed)
    return changed


def _earlier(transaction: Transaction, session_id: str, idempotency: Idempotency, now: int) -> Job | None:
    values = {"session_id": session_id, "key": idempotency.key, "now": now}
    row = transaction.connection.execute(_SQL["get_idempotency"], values).fetchone()
    if row is None:
        return None
    if row["digest"] != idempotency.digest:
        raise IdempotencyConflict(job_id=row["job_id"])
    return _job_of(transaction.connection.execute(_SQL["get_job"], {"id": row["job_id"]}).fetchone())


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


def _row_of(job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in Job.__slots__}
    return row | {
        "state": job.state.value,
        "spec": json.dumps(asdict(job.spec), ensure_ascii=False),
        "outputs": json.dumps([asdict(output) for output in job.outputs]),
    }


def _job_of(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in Job.__slots__}
    spec = JobSpec(**json.loads(row["spec"]))
    spec = replace(
        spec,
        loras=tuple(Lora(**lora) for lora in spec.loras),  # type: ignore[arg-type]  # JSON objects until here
        reference_images=tuple(spec.reference_images),
    )
    values["spec"] = spec
    values["state"] = State(row["state"])
    values["outputs"] = tuple(Output(**output) for output in json.loads(row["outputs"]))
    return Job(**values)
