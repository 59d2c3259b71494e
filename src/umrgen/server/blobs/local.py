"""A blob store in a folder of this machine: `<root>/<session>/<name>`."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from umrgen.durable import make_folder, sync_folder
from umrgen.server.blobs import BlobStoreUnavailable, plain

__all__ = ["LocalBlobStore"]

INCOMING = ".incoming"
"""The folder of unfinished files, below the root; each server has its own folder in it."""
FREE_KNOWN = 1.0
"""Seconds for which the free space is remembered."""
CHECK = b"x" * 4096
"""What `check` stores: at least one block of the disk."""
PART = 8 << 20
"""Bytes that are read at a time: most images are one part, which is not copied again."""


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BlobStoreUnavailable(f"the image could not be {action}: {error.strerror}") from error


class LocalBlobStore:
    """Implements `BlobStore`. All disk work happens in threads."""

    def __init__(self, root: Path, worker: str = "server") -> None:
        """`worker` names this server's folder of unfinished files, which is cleared now: what an earlier process left
        there was never finished."""
        self._root = root
        self._incoming = root / INCOMING / worker
        self._synced: set[Path] = set()
        """Session folders whose own names are on disk."""
        self._free = 0
        self._free_until = 0.0
        shutil.rmtree(self._incoming, ignore_errors=True)

    def _path(self, session_id: str, name: str) -> Path:
        return self._root / plain(session_id) / plain(name)

    async def claim(self, ledger_id: str) -> None:
        """A folder of this machine is not marked."""

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        path = self._path(session_id, name)
        with _translated("stored"):
            await asyncio.to_thread(self._put, path, data)

    def _put(self, path: Path, data: bytes) -> None:
        self._prepare(path.parent)
        with self._stored(data) as partial:
            os.replace(partial, path)
        sync_folder(path.parent)

    @contextmanager
    def _stored(self, data: bytes) -> Iterator[Path]:
        """Yield an unfinished file with these bytes, synced; delete it unless it was renamed."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        partial = self._incoming / secrets.token_hex(16)
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield partial
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    async def check(self) -> None:
        with _translated("stored"):
            await asyncio.to_thread(self._check)

    def _check(self) -> None:
        with self._stored(CHECK) as partial:
            partial.unlink()

    def _prepare(self, session: Path) -> None:
        """Create the session's folder if it is missing, and sync its name, and the root's, once in this process.

        An existing folder is not enough: another thread, or a server that was killed, may have created it without
        having synced it yet.
        """
        if session in self._synced and session.is_dir():
            return
        make_folder(session)
        sync_folder(self._root.parent)
        sync_folder(self._root)
        self._synced.add(session)

    async def open_range(
        self, session_id: str, name: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes] | None:
        path = self._path(session_id, name)
        with _translated("read"):
            first = await asyncio.to_thread(_read_part, path, start, end)
        return None if first is None else _parts(path, first, start, end)

    async def delete(self, session_id: str, name: str) -> None:
        path = self._path(session_id, name)
        with _translated("deleted"):
            await asyncio.to_thread(_delete, path)

    async def url_for(self, session_id: str, name: str) -> str | None:
        return None

    async def is_empty(self) -> bool:
        with _translated("read"):
            return not any(self._root.glob("[!.]*/*"))

    async def free_bytes(self) -> int | None:
        now = time.monotonic()
        if now >= self._free_until:
            folder = self._root if self._root.is_dir() else self._root.parent
            with _translated("stored"):
                self._free, self._free_until = shutil.disk_usage(folder).free, now + FREE_KNOWN
        return self._free


def _delete(path: Path) -> None:
    session = path.parent
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(session)


def _read_part(path: Path, start: int, end: int | None) -> bytes | None:
    """Return up to PART bytes from `start`, before `end`; None when there is no such file."""
    with suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
        file.seek(start)
        return file.read(PART if end is None else max(0, min(PART, end - start)))
    return None


async def _parts(path: Path, first: bytes, start: int, end: int | None) -> AsyncIterator[bytes]:
    """Yield the first part and those after it."""
    part: bytes | None = first
    while part:
        yield part
        if len(part) < PART:
            return
        start += len(part)
        with _translated("read"):
            part = await asyncio.to_thread(_read_part, path, start, end)
