"""A blob store in memory, which lasts as long as the object exists. For tests."""

from collections.abc import AsyncIterator

from umrgen.server.blobs import plain

__all__ = ["MemoryBlobStore"]


class MemoryBlobStore:
    """Implements `BlobStore`."""

    def __init__(self) -> None:
        self._blobs: dict[tuple[str, str], bytes] = {}

    async def claim(self, ledger_id: str) -> None:
        """No other ledger knows this object."""

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        self._blobs[plain(session_id), plain(name)] = data

    async def open_range(
        self, session_id: str, name: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes] | None:
        data = self._blobs.get((plain(session_id), plain(name)))
        return None if data is None else _parts(data[start:end])

    async def delete(self, session_id: str, name: str) -> None:
        self._blobs.pop((plain(session_id), plain(name)), None)

    async def url_for(self, session_id: str, name: str) -> str | None:
        return None

    async def is_empty(self) -> bool:
        return not self._blobs

    async def check(self) -> None:
        """Memory can always be written."""

    async def free_bytes(self) -> int | None:
        return None


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    yield data
