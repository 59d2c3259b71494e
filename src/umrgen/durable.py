"""Creating folders and files that survive a power cut.

`fsync` of a file stores its content. The name of a file or folder is stored by `fsync` of the folder that contains
it.
"""

import os
from itertools import takewhile
from pathlib import Path

__all__ = ["make_folder", "make_private", "sync", "sync_folder"]


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Create `folder` and its missing parents; each new name is on disk before this returns. Raises OSError.

    `mode` applies to `folder` only.
    """
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    for path in reversed(missing):
        path.mkdir(mode if path == folder else 0o777, exist_ok=True)
        sync_folder(path.parent)


def make_private(file: Path) -> None:
    """Create an empty file that only this user can read, whatever the umask. Raises OSError if it exists."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def sync_folder(folder: Path) -> None:
    """Store the folder's list of names: new, renamed and removed ones. Raises OSError.

    Windows cannot open a folder, and stores names by itself.
    """
    if os.name != "nt":
        _sync(folder)


def sync(file: Path) -> None:
    """Store an existing file's content, then its name. Raises OSError."""
    _sync(file)
    sync_folder(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
