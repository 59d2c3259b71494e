"""The store of the workers that live."""

from dataclasses import asdict

import msgspec

from umrgen.server.domain.engine_info import EngineInfo
from umrgen.server.ledger.sql.database import Database, Row, Transaction
from umrgen.server.ledger.values import LiveWorker

__all__ = ["SqlWorkerStore"]


def _worker_of(row: Row) -> LiveWorker:
    worker_id, engine, state, capacity, info, until = row
    return LiveWorker(worker_id, engine, state, capacity, info and _info_of(info), until)


def _info_of(text: str) -> EngineInfo | None:
    """Return the description of an engine; None for that of another version of UMRGEN, which may have other members.

    The servers of a ledger are replaced one after the other: one worker must not hide the others.
    """
    try:
        return msgspec.json.decode(text, type=EngineInfo)
    except msgspec.DecodeError:
        return None


def _report(transaction: Transaction, worker: LiveWorker, now: int) -> None:
    info = worker.info and msgspec.json.encode(worker.info).decode()
    transaction.connection.send("expire_workers", {"now": now})
    transaction.connection.send("report_worker", asdict(worker) | {"info": info})


class SqlWorkerStore:
    """Implements `WorkerStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, worker: LiveWorker, *, now: int) -> None:
        await self._database.write(lambda transaction: _report(transaction, worker, now))

    async def remove(self, worker_id: str) -> None:
        await self._database.write(lambda transaction: transaction.connection.run("remove_worker", {"id": worker_id}))

    async def live(self, *, now: int) -> list[LiveWorker]:
        rows = await self._database.read(lambda connection: connection.all("live_workers", {"now": now}))
        return [_worker_of(row) for row in rows]

    async def queued(self) -> dict[tuple[str, str], int]:
        rows = await self._database.read(lambda connection: connection.all("queued_by_engine"))
        return {(engine, model): count for engine, model, count in rows}
