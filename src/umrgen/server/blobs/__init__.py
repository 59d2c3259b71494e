"""Storage: where finished images lie. One file per alternative."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

__all__ = ["STORAGES", "Storage"]

STORAGES: Mapping[str, str] = {"local": "umrgen.server.blobs.local:LocalStorage"}


class Storage(Protocol):
    """Bytes under (session, name). Both are made by this program, never by a caller.

    Every method raises ValueError for a part that is not a plain name.
    """

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        """Store; returns when the bytes would survive a power cut. Raises OSError."""
        ...

    async def get(self, session_id: str, name: str) -> bytes | None: ...

    async def delete(self, session_id: str, name: str) -> None:
        """Remove; what is not there is no error."""
        ...

    async def free(self) -> int | None:
        """Bytes that can still be stored; None where nobody knows."""
        ...

    def older(self, before: int) -> AsyncIterator[tuple[str, Sequence[str]]]:
        """Everything last written before `before` (ms since the epoch): sessions, each with some of its
        names, at most a few hundred at a time; what was never finished counts too."""
        ...
