"""The store of the calls that last until their job is over."""

from dataclasses import asdict
from typing import Any

from umrgen.server.ledger.sql.database import Database, SqlConnection, Transaction
from umrgen.server.ledger.values import Call

__all__ = ["SqlCallStore", "enter_call"]

UNCLAIMED = 600_000
"""Milliseconds after the end of a call that was cut off, in which an equal call takes its job."""


def enter_call(connection: SqlConnection, job_id: str, session_id: str, call: Call, *, now: int) -> None:
    """Write that `call` holds the new job. Each new call also deletes a few rows that no call can take any more."""
    connection.send("expire_calls", {"before": now - UNCLAIMED})
    connection.send("insert_call", {"job_id": job_id, "session_id": session_id} | asdict(call))


def _take(transaction: Transaction, session_id: str, call: Call, now: int) -> str | None:
    connection = transaction.connection
    values = {"session_id": session_id, "digest": call.digest, "now": now, "since": now - UNCLAIMED}
    row = connection.one("unclaimed_call", values)
    if row is None:
        return None
    connection.send("take_call", {"job_id": row[0]} | asdict(call))
    return str(row[0])


class SqlCallStore:
    """Implements `CallStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, session_id: str, call: Call, *, now: int) -> str | None:
        return await self._database.write(lambda transaction: _take(transaction, session_id, call, now))

    async def hold(self, call_id: str, *, until: int) -> None:
        await self._run("hold_calls", call_id=call_id, until=until)

    async def release_all(self, worker: str, *, now: int) -> None:
        await self._run("release_calls", worker=worker, now=now)

    async def remove(self, call_id: str) -> None:
        await self._run("delete_calls", call_id=call_id)

    async def _run(self, statement: str, **values: Any) -> None:
        await self._database.write(lambda transaction: transaction.connection.run(statement, values))
