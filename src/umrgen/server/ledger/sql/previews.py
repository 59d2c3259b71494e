"""The store of the previews that servers watch at other servers."""

from collections.abc import Collection, Mapping

from umrgen.server.ledger.sql.database import Database, SqlConnection, Transaction

__all__ = ["SqlPreviewStore"]


def _watch(transaction: Transaction, job_ids: Collection[str], now: int, until: int) -> None:
    transaction.connection.send("expire_previews", {"now": now})
    for job_id in sorted(job_ids):
        transaction.connection.send("watch_previews", {"job_id": job_id, "until": until})


def _put(transaction: Transaction, images: Mapping[str, bytes], version: int) -> None:
    for job_id, image in images.items():
        transaction.connection.send("put_preview", {"job_id": job_id, "version": version, "image": image})


def _newer(connection: SqlConnection, known: Mapping[str, int], limit: int) -> dict[str, tuple[int, bytes]]:
    versions = connection.all("preview_versions", {"ids": list(known)})
    newer = [job_id for job_id, version in versions if version != known[job_id]][:limit]
    rows = connection.all("get_previews", {"ids": newer}) if newer else []
    return {job_id: (version, bytes(image)) for job_id, version, image in rows}


class SqlPreviewStore:
    """Implements `PreviewStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def watch(self, job_ids: Collection[str], *, now: int, until: int) -> None:
        await self._database.write(lambda transaction: _watch(transaction, job_ids, now, until))

    async def watched(self, job_ids: Collection[str], *, now: int) -> list[str]:
        values = {"ids": list(job_ids), "now": now}
        return [row[0] for row in await self._database.read(lambda sql: sql.all("watched_previews", values))]

    async def put(self, images: Mapping[str, bytes], *, version: int) -> None:
        await self._database.write(lambda transaction: _put(transaction, images, version))

    async def newer(self, known: Mapping[str, int], *, limit: int) -> dict[str, tuple[int, bytes]]:
        return await self._database.read(lambda connection: _newer(connection, known, limit))

    async def remove(self, job_ids: Collection[str]) -> None:
        values = {"ids": list(job_ids)}
        await self._database.write(lambda transaction: transaction.connection.run("remove_previews", values))
