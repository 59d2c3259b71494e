"""A simulated disk that stores only synced data: the files that exist after a power cut."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Disk"]


class Disk:
    """Records `os.fsync` and renames of this process, and returns the stored files below `root`.

    The rules are the strictest that POSIX allows. `fsync` of a file stores its current content. `fsync` of a
    folder stores its list of names. No other call stores anything: not close, rename, link or unlink, and `fsync`
    of a file does not store its name. The files below `root` at the start are stored.

    SQLite does not sync by `os`: its files are not recorded here (tests/slow/test_power_cut.py records them).
    Create a `Disk` before the ledger: closing a second descriptor of SQLite's file would end SQLite's locks.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.named_early: list[str] = []
        """Names that a file got before its content was stored."""
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._held: list[int] = []
        for path in (root, *root.rglob("*")):
            self._store(path)
        for function in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, function, self._syncing(getattr(os, function)))
        for function in ("rename", "replace", "link"):
            monkeypatch.setattr(os, function, self._naming(getattr(os, function)))

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    def stored(self) -> dict[str, bytes]:
        """Return the files after a power cut now: path below `root` → content."""
        return dict(self._walk(self.root.stat().st_ino, ""))

    def _walk(self, inode: int, place: str) -> Iterator[tuple[str, bytes]]:
        for name, (child, is_folder) in self._names.get(inode, {}).items():
            path = f"{place}/{name}" if place else name
            if is_folder:
                yield from self._walk(child, path)
            else:
                yield path, self._contents.get(child, b"")

    def _store(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {entry.name: (entry.lstat().st_ino, entry.is_dir()) for entry in path.iterdir()}
        else:
            self._contents[inode] = path.read_bytes()
        self._held.append(os.open(path, os.O_RDONLY))  # an inode number is not used again while its file is open

    def _syncing(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def recorded(descriptor: int) -> None:
            sync(descriptor)
            inode = os.fstat(descriptor).st_ino
            for path in (self.root, *self.root.rglob("*")):
                if path.lstat().st_ino == inode:
                    self._store(path)
                    break

        return recorded

    def _naming(self, name: Callable[..., None]) -> Callable[..., None]:
        def recorded(source: Any, target: Any, **options: Any) -> None:
            path = Path(source)
            recorded_here = path.is_relative_to(self.root) and path.is_file()
            if recorded_here and self._contents.get(path.stat().st_ino) != path.read_bytes():
                self.named_early.append(Path(target).name)
            name(source, target, **options)

        return recorded
