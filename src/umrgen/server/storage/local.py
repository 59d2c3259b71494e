"""Storage in a folder of this machine: `<root>/<session>/<name>`."""

import asyncio
import os
import re
from pathlib import Path
from tempfile import NamedTemporaryFile

__all__ = ["LocalStorage"]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def _sync_folder(folder: Path) -> None:
    """Make a rename or a new folder itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalStorage:
    """Implements `Storage`; all disk work happens in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, session_id: str, name: str) -> Path:
        for part in (session_id, name):
            if not _PLAIN.fullmatch(part):
                raise ValueError("not a plain name")
        return self._root / session_id / name

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, self._path(session_id, name), data)

    def _put(self, path: Path, data: bytes) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(self._root)
        with NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as partial:
            try:
                partial.write(data)
                partial.flush()
                os.fsync(partial.fileno())
                os.replace(partial.name, path)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)

    async def get(self, session_id: str, name: str) -> bytes | None:
        path = self._path(session_id, name)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return None

    async def delete(self, session_id: str, name: str) -> None:
        await asyncio.to_thread(self._path(session_id, name).unlink, missing_ok=True)

    async def names(self, session_id: str) -> list[str]:
        folder = self._path(session_id, "_").parent
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if _PLAIN.fullmatch(entry.name))
