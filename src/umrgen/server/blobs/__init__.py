"""Blob stores: where the bytes of images are kept. One file per alternative."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from umrgen.errors import UmrgenError

__all__ = ["BLOB_STORES", "BlobStore", "BlobStoreForeign", "BlobStoreOutage", "BlobStoreUnavailable", "plain", "read"]

BLOB_STORES: Mapping[str, str] = {
    "local": "umrgen.server.blobs.local:LocalBlobStore",
    "memory": "umrgen.server.blobs.memory:MemoryBlobStore",
    "s3": "umrgen.server.blobs.s3:S3BlobStore",
}

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def plain(name: str) -> str:
    """Return the name of a session or a blob. Raises ValueError unless it is plain: letters, digits, `_`, `-`, `.`."""
    if not _PLAIN.fullmatch(name):
        raise ValueError("not a plain name")
    return name


class BlobStoreUnavailable(UmrgenError):
    """The blob store cannot be read or written now."""

    code = "storage_failed"
    retryable = True
    next = "Check for a full disk, and that the server may write its folder."


class BlobStoreOutage(BlobStoreUnavailable):
    """A blob store on another machine does not answer, or refuses: jobs wait for it without a limit."""


class BlobStoreForeign(UmrgenError):
    """The blob store belongs to another ledger."""

    code = "foreign_blobs"


class BlobStore(Protocol):
    """Bytes under (session, name). Both names are chosen by this program, never by a caller.

    Every method raises ValueError for a name that is not plain, and BlobStoreUnavailable. None needs a listing: files
    are deleted by their record in the ledger.
    """

    async def claim(self, ledger_id: str) -> None:
        """Check that the store can be used, and belongs to this ledger; a new one belongs to it from now on.

        A store that only one ledger can name (a folder of this machine) need not check. Raises BlobStoreForeign.
        """
        ...

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        """Store; return when the bytes would survive a power cut."""
        ...

    async def open_range(
        self, session_id: str, name: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes] | None:
        """Return the bytes from `start` up to (not including) `end`, in parts; None when there is no such blob."""
        ...

    async def delete(self, session_id: str, name: str) -> None:
        """Delete; return when the blob would not come back after a power cut. One that does not exist is no error."""
        ...

    async def url_for(self, session_id: str, name: str) -> str | None:
        """Return a URL from which a client can fetch the blob for a limited time, or None."""
        ...

    async def is_empty(self) -> bool:
        """Return whether there is no blob at all."""
        ...

    async def check(self) -> None:
        """Store something small, and delete it. Raises BlobStoreUnavailable when that fails."""
        ...

    async def free_bytes(self) -> int | None:
        """Return how many bytes can still be stored; None where that is unknown."""
        ...


async def read(store: BlobStore, session_id: str, name: str) -> bytes | None:
    """Return the whole blob; None when it does not exist. Raises BlobStoreUnavailable."""
    parts = await store.open_range(session_id, name)
    return None if parts is None else b"".join([part async for part in parts])
