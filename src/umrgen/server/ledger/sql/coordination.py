"""The store of what the servers of one ledger share: leases of tasks, and secrets."""

from umrgen.server.ledger.sql.database import Database, Transaction

__all__ = ["SqlCoordinationStore"]


def _secret(transaction: Transaction, name: str, proposal: bytes) -> bytes:
    transaction.connection.run("propose_secret", {"name": name, "value": proposal})
    row = transaction.connection.one("get_secret", {"name": name})
    assert row is not None
    return bytes(row[0])


class SqlCoordinationStore:
    """Implements `CoordinationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, task: str, holder: str, *, now: int, until: int) -> bool:
        values = {"task": task, "holder": holder, "now": now, "until": until}
        return await self._database.write(lambda transaction: transaction.connection.run("acquire_task", values) == 1)

    async def release(self, task: str, holder: str) -> None:
        values = {"task": task, "holder": holder}
        await self._database.write(lambda transaction: transaction.connection.run("release_task", values))

    async def secret(self, name: str, proposal: bytes) -> bytes:
        row = await self._database.read(lambda connection: connection.one("get_secret", {"name": name}))
        if row is not None:
            return bytes(row[0])
        return await self._database.write(lambda transaction: _secret(transaction, name, proposal))
