"""The store of reference image records."""

from dataclasses import asdict, replace

from umrgen.server.domain.references import archive_name
from umrgen.server.ledger.errors import UploadsFull
from umrgen.server.ledger.sql.database import Database, Transaction
from umrgen.server.ledger.sql.outputs import add_obsolete_file
from umrgen.server.ledger.values import Upload

__all__ = ["SqlUploadStore"]

LONGEST_UPLOAD = 3_600_000
"""Milliseconds after which an upload that was not marked as stored is no longer counted: its server was stopped."""


def _add(transaction: Transaction, upload: Upload, cap: int) -> Upload:
    row = transaction.connection.one("find_upload", {"session_id": upload.session_id, "sha256": upload.sha256})
    if row is not None:
        known = replace(Upload(*row), created_at=upload.created_at)
        transaction.connection.send("renew_upload", {"name": known.name, "created_at": known.created_at})
        return known
    values = {"session_id": upload.session_id, "since": upload.created_at - LONGEST_UPLOAD}
    row = transaction.connection.one("count_uploads", values)
    if row is not None and row[0] >= cap:
        raise UploadsFull
    transaction.connection.send("insert_upload", asdict(upload))
    return upload


def _expire(transaction: Transaction, before: int, limit: int) -> list[Upload]:
    rows = transaction.connection.all("old_uploads", {"before": before, "limit": limit})
    uploads = [Upload(*row) for row in rows]
    for upload in uploads:
        _remove(transaction, upload.session_id, upload.name)
    return uploads


def _remove(transaction: Transaction, session_id: str, name: str) -> bool:
    removed = transaction.connection.run("delete_upload", {"name": name, "session_id": session_id}) == 1
    if removed:
        for file in filter(None, (name, archive_name(name))):
            add_obsolete_file(transaction.connection, session_id, file)
    return removed


class SqlUploadStore:
    """Implements `UploadStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, upload: Upload, *, cap: int) -> Upload:
        return await self._database.write(lambda transaction: _add(transaction, upload, cap))

    async def mark_stored(self, session_id: str, name: str) -> bool:
        values = {"session_id": session_id, "name": name}
        return await self._database.write(
            lambda transaction: transaction.connection.run("mark_upload_stored", values) == 1
        )

    async def get(self, session_id: str, name: str) -> Upload | None:
        values = {"session_id": session_id, "name": name}
        row = await self._database.read(lambda connection: connection.one("get_upload", values))
        return Upload(*row) if row else None

    async def of_session(self, session_id: str) -> list[Upload]:
        values = {"session_id": session_id}
        rows = await self._database.read(lambda connection: connection.all("uploads_of_session", values))
        return [Upload(*row) for row in rows]

    async def remove(self, session_id: str, name: str) -> bool:
        return await self._database.write(lambda transaction: _remove(transaction, session_id, name))

    async def expire(self, *, before: int, limit: int) -> list[Upload]:
        return await self._database.write(lambda transaction: _expire(transaction, before, limit))
