"""The store of image records."""

from collections.abc import Sequence

from umrgen.server.domain.job import Job, Output, thumbnail_name
from umrgen.server.ledger.errors import OutputExpired
from umrgen.server.ledger.sql.database import Database, SqlConnection, Transaction

__all__ = ["LATE_FILES", "SqlOutputStore", "add_obsolete_file", "expire_outputs_of"]

ANY_TIME = 2**62
LATE_FILES = 3_600_000
"""Milliseconds in which an attempt that lost its lease, or a server that makes a thumbnail, may still store a file."""


def _kept_bytes(connection: SqlConnection) -> int:
    row = connection.one("kept_bytes")
    return int(row[0]) if row else 0


def _favorite_bytes(connection: SqlConnection) -> int:
    row = connection.one("favorite_bytes")
    return int(row[0]) if row else 0


def _expire(transaction: Transaction, *, now: int, before: int, keep_bytes: int, limit: int) -> list[Output]:
    connection, expired = transaction.connection, []
    kept = start = _kept_bytes(connection)
    if keep_bytes:
        keep_bytes += _favorite_bytes(connection)
    for *values, created_at in connection.all("oldest_outputs", {"limit": limit}):
        output = Output(*values)
        if created_at >= before and not (keep_bytes and kept > keep_bytes):
            break
        connection.send("expire_output", {"name": output.name, "now": now})
        _add_obsolete_image(connection, output.session_id, output.name)
        kept -= output.bytes
        expired.append(output)
    connection.send("add_kept_bytes", {"bytes": kept - start})
    return expired


def add_obsolete_file(connection: SqlConnection, session_id: str, name: str, *, not_before: int = 0) -> None:
    """Have a file deleted, at `not_before` (ms since the epoch) or later."""
    connection.send("add_obsolete_file", {"session_id": session_id, "name": name, "not_before": not_before})


def _add_obsolete_image(connection: SqlConnection, session_id: str, name: str) -> None:
    for file in (name, thumbnail_name(name)):
        add_obsolete_file(connection, session_id, file)


def _is_kept(connection: SqlConnection, image: Output) -> bool:
    row = connection.one("get_output", {"session_id": image.session_id, "name": image.name})
    return row is not None and row[-1] is None


def _expect_file(transaction: Transaction, image: Output, name: str, now: int) -> bool:
    kept = _is_kept(transaction.connection, image)
    if kept:
        add_obsolete_file(transaction.connection, image.session_id, name, not_before=now + LATE_FILES)
    return kept


def _keep_file(transaction: Transaction, image: Output, name: str) -> bool:
    kept = _is_kept(transaction.connection, image)
    if kept:
        _forget_files(transaction, [(image.session_id, name)], ANY_TIME)
    return kept


def expire_outputs_of(connection: SqlConnection, job: Job, *, now: int) -> list[tuple[str, str]]:
    """Expire the images of a job; return their files, which are obsolete now."""
    files, size = [], 0
    for name, bytes in connection.all("outputs_of_job", {"id": job.id}):
        connection.send("expire_output", {"name": name, "now": now})
        _add_obsolete_image(connection, job.session_id, name)
        files += [(job.session_id, name), (job.session_id, thumbnail_name(name))]
        size += bytes
    connection.send("add_kept_bytes", {"bytes": -size})
    return files


def _forget_files(transaction: Transaction, files: Sequence[tuple[str, str]], now: int) -> None:
    for session_id, name in files:
        transaction.connection.send("forget_obsolete_file", {"session_id": session_id, "name": name, "now": now})


class SqlOutputStore:
    """Implements `OutputStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, session_id: str, name: str) -> Output | None:
        values = {"session_id": session_id, "name": name}
        row = await self._database.read(lambda connection: connection.one("get_output", values))
        if row is None:
            return None
        *columns, expired_at = row
        if expired_at is not None:
            raise OutputExpired
        return Output(*columns)

    async def newest(self) -> int | None:
        row = await self._database.read(lambda connection: connection.one("newest_output"))
        return None if row is None else int(row[0])

    async def kept_bytes(self) -> int:
        return await self._database.read(_kept_bytes)

    async def expire(self, *, now: int, before: int, keep_bytes: int, limit: int) -> list[Output]:
        return await self._database.write(
            lambda transaction: _expire(transaction, now=now, before=before, keep_bytes=keep_bytes, limit=limit)
        )

    async def expect_file(self, image: Output, name: str, *, now: int) -> bool:
        return await self._database.write(lambda transaction: _expect_file(transaction, image, name, now))

    async def keep_file(self, image: Output, name: str) -> bool:
        return await self._database.write(lambda transaction: _keep_file(transaction, image, name))

    async def obsolete_files(self, *, now: int, limit: int) -> list[tuple[str, str]]:
        values = {"now": now, "limit": limit}
        rows = await self._database.read(lambda connection: connection.all("obsolete_files", values))
        return [(session_id, name) for session_id, name in rows]

    async def forget_files(self, files: Sequence[tuple[str, str]], *, now: int = ANY_TIME) -> None:
        await self._database.write(lambda transaction: _forget_files(transaction, files, now))
