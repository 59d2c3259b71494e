"""The state folder of one server: its lock, and the server's id among those that share a ledger."""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from umrgen.durable import make_folder, sync_folder
from umrgen.server.settings import BadSettings

__all__ = [
    "LINKS",
    "LedgerMark",
    "file_bytes",
    "own_state",
    "server_pid",
    "studio_address",
    "worker_id",
    "write_studio_address",
]

log = logging.getLogger(__name__)

LINKS = "studio-links"
"""The folder of the links that open the studio."""
LOCK = "server.lock"
"""The file that the server locks: its process id, and in a second line the address of its studio, if links open it."""


@contextmanager
def own_state(state: Path) -> Iterator[IO[str]]:
    """Lock the state folder for this process. The system releases the lock when the process ends.

    Raises BadSettings when the folder is not writable, or another server has locked it.
    """
    try:
        make_folder(state, mode=0o700)
        lock = (state / LOCK).open("a")
    except OSError as error:
        raise BadSettings(
            f"the state folder {state} cannot be written: {error.strerror}",
            next="Choose another with --state.",
        ) from None
    if state.stat().st_mode & 0o077:
        log.warning("other users can enter the state folder %s, which has prompts and images: chmod 700 it", state)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadSettings(
                f"another server already runs on the state folder {state}",
                next="Stop it, or choose another folder with --state.",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock


def server_pid(state: Path) -> int | None:
    """Return the process id of the server that has locked the state folder; None without one."""
    lines = _lock_lines(state)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def write_studio_address(state: Path, url: str) -> None:
    """Note the address of the studio of this process, which has locked the folder. Raises OSError."""
    with (state / LOCK).open("a") as lock:
        lock.write(f"{url}\n")


def studio_address(state: Path) -> str | None:
    """Return the address of the running server's studio; "" if no links open it, None without a server."""
    lines = _lock_lines(state)
    return (lines[1] if len(lines) > 1 else "") if lines else None


def _lock_lines(state: Path) -> list[str]:
    """Return the lines of the lock file; none when no server has locked the folder."""
    try:
        with (state / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().splitlines()
    except OSError:
        pass
    return []


def file_bytes(ledger: Path) -> int:
    """Return the size of an SQLite ledger's file with its write-ahead log; 0 while there is none."""
    size = 0
    for file in (ledger, ledger.with_name(f"{ledger.name}-wal")):
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


class LedgerMark:
    """A file with the last change number that this server saw, by which it recognizes an older ledger."""

    def __init__(self, path: Path | None) -> None:
        """`path` is None for a ledger in memory, which has no mark."""
        self._path = path

    def is_older(self, last_change: int) -> bool:
        """Return whether the ledger with this last change number lacks changes that this server saw."""
        try:
            return self._path is not None and int(self._path.read_text()) > last_change
        except (OSError, ValueError):
            return False

    def write(self, last_change: int) -> None:
        """Note the number; without an effect on a full disk."""
        if self._path is not None:
            with suppress(OSError):
                self._path.write_text(f"{last_change}\n")

    def remove(self) -> None:
        """Accept any ledger at the next start."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def worker_id(state: Path) -> str:
    """Return the id under which the server of this state folder leases jobs; the same after a restart.

    By it, a start finds the jobs that this server was running, among those of other servers. Raises OSError.
    """
    path = state / "worker-id"
    make_folder(path.parent, mode=0o700)
    if not path.exists():
        made = path.with_suffix(".new")
        with made.open("w") as file:
            file.write(f"worker_{secrets.token_hex(8)}")
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
        sync_folder(state)
    return path.read_text().strip()
