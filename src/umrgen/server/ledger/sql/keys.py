"""The store of API keys."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from umrgen.server.ledger.sql.database import Database, Transaction
from umrgen.server.ledger.values import Key

__all__ = ["SqlKeyStore"]


def _record_uses(transaction: Transaction, uses: Mapping[str, int]) -> None:
    for key_id, at in uses.items():
        transaction.connection.send("use_key", {"id": key_id, "at": at})


def _replace(transaction: Transaction, key_id: str, successor: Key, now: int, until: int) -> bool:
    connection = transaction.connection
    if connection.run("end_key_later" if until > now else "end_key_now", {"id": key_id, "at": max(until, now)}) != 1:
        return False
    connection.send("insert_key", asdict(successor))
    return True


class SqlKeyStore:
    """Implements `KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: Key) -> None:
        await self._database.write(lambda transaction: transaction.connection.send("insert_key", asdict(key)))

    async def find(self, hash: bytes) -> Key | None:
        return await self._one("get_key", {"hash": hash})

    async def get(self, key_id: str) -> Key | None:
        return await self._one("get_key_by_id", {"id": key_id})

    async def all(self) -> list[Key]:
        rows = await self._database.read(lambda connection: connection.all("list_keys"))
        return [Key(*row) for row in rows]

    async def record_uses(self, uses: Mapping[str, int]) -> None:
        await self._database.write(lambda transaction: _record_uses(transaction, uses))

    async def revoke(self, key_id: str, *, now: int) -> bool:
        return await self._changes_one("revoke_key", {"id": key_id, "now": now})

    async def replace(self, key_id: str, successor: Key, *, now: int, until: int) -> bool:
        return await self._database.write(lambda transaction: _replace(transaction, key_id, successor, now, until))

    async def limit(self, key_id: str, *, rate: int | None, concurrent: int | None, daily: int | None) -> bool:
        limits = {"id": key_id, "rate": rate, "concurrent": concurrent, "daily": daily}
        return await self._changes_one("limit_key", limits)

    async def readmit(self, key_id: str) -> bool:
        return await self._changes_one("readmit_key", {"id": key_id})

    async def delete(self, key_id: str) -> bool:
        return await self._changes_one("delete_key", {"id": key_id})

    async def _one(self, statement: str, values: Mapping[str, Any]) -> Key | None:
        row = await self._database.read(lambda connection: connection.one(statement, values))
        return Key(*row) if row else None

    async def _changes_one(self, statement: str, values: Mapping[str, Any]) -> bool:
        return await self._database.write(lambda transaction: transaction.connection.run(statement, values) == 1)
