"""Storage in a folder of this machine: `<root>/<session>/<name>`."""

import asyncio
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from umrgen.durable import make_folder, sync_folder

__all__ = ["LocalStorage"]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_PARTIAL = ".partial-"
FREE_KNOWN = 1.0
"""Seconds for which what was free a moment ago is taken for what is free."""
LISTED = 500
"""Names given at a time."""


class LocalStorage:
    """Implements `Storage`; all disk work happens in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._synced: set[Path] = set()
        """Session folders whose own names are on disk."""
        self._free = 0
        self._free_until = 0.0

    def _path(self, session_id: str, name: str) -> Path:
        for part in (session_id, name.removeprefix(_PARTIAL)):
            if not _PLAIN.fullmatch(part):
                raise ValueError("not a plain name")
        return self._root / session_id / name

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, self._path(session_id, name), data)

    def _put(self, path: Path, data: bytes) -> None:
        self._prepare(path.parent)
        with NamedTemporaryFile(dir=path.parent, prefix=_PARTIAL, delete=False) as partial:
            try:
                partial.write(data)
                partial.flush()
                os.fsync(partial.fileno())
                os.replace(partial.name, path)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
        sync_folder(path.parent)

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

    async def get(self, session_id: str, name: str) -> bytes | None:
        path = self._path(session_id, name)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return None

    async def delete(self, session_id: str, name: str) -> None:
        await asyncio.to_thread(self._path(session_id, name).unlink, missing_ok=True)

    async def free(self) -> int | None:
        now = time.monotonic()
        if now >= self._free_until:
            place = self._root if self._root.is_dir() else self._root.parent
            self._free, self._free_until = shutil.disk_usage(place).free, now + FREE_KNOWN
        return self._free

    async def older(self, before: int) -> AsyncIterator[tuple[str, Sequence[str]]]:
        parts = self._older(before)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part

    def _older(self, before: int) -> Iterator[tuple[str, list[str]]]:
        sessions = [folder for folder in self._folder(self._root) if folder.is_dir() and _PLAIN.fullmatch(folder.name)]
        for session in sessions:
            names: list[str] = []
            for entry in self._folder(Path(session.path)):
                name = entry.name.removeprefix(_PARTIAL)
                if not _PLAIN.fullmatch(name) or entry.stat().st_mtime_ns // 1_000_000 >= before:
                    continue
                names.append(entry.name)
                if len(names) == LISTED:
                    yield session.name, names
                    names = []
            if names:
                yield session.name, names

    @staticmethod
    def _folder(path: Path) -> "Iterator[os.DirEntry[str]]":
        if path.is_dir():
            with os.scandir(path) as entries:
                yield from entries
