"""What the SQLite ledger keeps beside jobs: images, reference images and keys."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from umrgen.server.domain.job import Output
from umrgen.server.ledger import Key, OutputExpired, Upload, UploadsFull
from umrgen.server.ledger.queries import load_queries
from umrgen.server.ledger.writer import Operation, Transaction

__all__ = ["Part", "Records", "Writer"]

_SQL = load_queries("sqlite")


class Writer(Protocol):
    """Runs operations that change the ledger; each returns once its change is durable."""

    async def do(self, operation: Operation) -> Any: ...
    async def close(self) -> None: ...


class Part:
    """What each part of `SqliteLedger` reads and writes with; the ledger itself provides it."""

    _writer: Writer

    def _read(self, query: str, values: Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        raise NotImplementedError


class Records(Part):
    """The part of `Ledger` that is not about jobs."""

    # --- images ---

    async def output(self, session_id: str, name: str) -> Output | None:
        row = self._read("get_output", {"session_id": session_id, "name": name}).fetchone()
        if row is None:
            return None
        *values, expired_at = row
        if expired_at is not None:
            raise OutputExpired
        return Output(*values)

    async def known_files(self, names: Sequence[str]) -> set[str]:
        return {row["name"] for row in self._read("known_files", {"names": json.dumps(list(names))})}

    async def kept_bytes(self) -> int:
        return int(self._read("kept_bytes").fetchone()["bytes"])

    async def expire_outputs(self, *, now: int, before: int, keep_bytes: int, limit: int) -> list[Output]:
        def operation(transaction: Transaction) -> list[Output]:
            execute = transaction.connection.execute
            kept = execute(_SQL["kept_bytes"]).fetchone()["bytes"]
            gone = []
            for *values, created_at in execute(_SQL["oldest_outputs"], {"limit": limit}).fetchall():
                output = Output(*values)
                if created_at >= before and not (keep_bytes and kept > keep_bytes):
                    break
                execute(_SQL["expire_output"], {"name": output.name, "now": now})
                kept -= output.bytes
                gone.append(output)
            return gone

        expired: list[Output] = await self._writer.do(operation)
        return expired

    # --- reference images ---

    async def add_upload(self, upload: Upload, *, cap: int) -> None:
        def operation(transaction: Transaction) -> None:
            execute = transaction.connection.execute
            there = execute(_SQL["uploads_of_session"], {"session_id": upload.session_id}).fetchall()
            if len(there) >= cap:
                raise UploadsFull
            execute(_SQL["insert_upload"], asdict(upload))

        await self._writer.do(operation)

    async def upload(self, session_id: str, name: str) -> Upload | None:
        row = self._read("get_upload", {"session_id": session_id, "name": name}).fetchone()
        return Upload(**dict(row)) if row else None

    async def uploads(self, session_id: str) -> list[Upload]:
        return [Upload(**dict(row)) for row in self._read("uploads_of_session", {"session_id": session_id})]

    async def remove_upload(self, session_id: str, name: str) -> bool:
        values = {"session_id": session_id, "name": name}
        return await self._touched("delete_upload", values)

    async def expire_uploads(self, *, before: int, limit: int) -> list[Upload]:
        def operation(transaction: Transaction) -> list[Upload]:
            execute = transaction.connection.execute
            rows = execute(_SQL["old_uploads"], {"before": before, "limit": limit}).fetchall()
            for row in rows:
                execute(_SQL["delete_upload"], {"name": row["name"], "session_id": row["session_id"]})
            return [Upload(**dict(row)) for row in rows]

        expired: list[Upload] = await self._writer.do(operation)
        return expired

    # --- keys ---

    async def add_key(self, key: Key) -> None:
        await self._writer.do(lambda transaction: transaction.connection.execute(_SQL["insert_key"], asdict(key)))

    async def key(self, hash: bytes) -> Key | None:
        row = self._read("get_key", {"hash": hash}).fetchone()
        return Key(**dict(row)) if row else None

    async def key_by_id(self, key_id: str) -> Key | None:
        row = self._read("get_key_by_id", {"id": key_id}).fetchone()
        return Key(**dict(row)) if row else None

    async def keys(self) -> list[Key]:
        return [Key(**dict(row)) for row in self._read("list_keys")]

    async def use_keys(self, uses: Mapping[str, int]) -> None:
        values = [{"id": key_id, "at": at} for key_id, at in uses.items()]
        await self._writer.do(lambda transaction: transaction.connection.executemany(_SQL["use_key"], values))

    async def revoke_key(self, key_id: str, *, now: int) -> bool:
        return await self._touched("revoke_key", {"id": key_id, "now": now})

    async def readmit_key(self, key_id: str) -> bool:
        return await self._touched("readmit_key", {"id": key_id})

    async def _touched(self, query: str, values: Mapping[str, Any]) -> bool:
        """Run a query that changes one row; whether there was such a row."""
        touched: int = await self._writer.do(
            lambda transaction: transaction.connection.execute(_SQL[query], values).rowcount
        )
        return touched == 1
