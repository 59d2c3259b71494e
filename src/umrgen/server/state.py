"""The state folder of one server: its lock, and the server's id among those that share a ledger."""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umrgen.durable import make_folder, sync_folder
from umrgen.server.settings import BadSettings

__all__ = ["own_state", "worker_id"]

log = logging.getLogger(__name__)


@contextmanager
def own_state(state: Path) -> Iterator[IO[str]]:
    """Lock the state folder for this process. The system releases the lock when the process ends.

    Raises BadSettings when the folder is not writable, or another server has locked it.
    """
    try:
        make_folder(state, mode=0o700)
        lock = (state / "server.lock").open("w")
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
        yield lock


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
