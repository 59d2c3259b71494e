"""The state folder: one server's alone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umrgen.durable import make_folder
from umrgen.server.settings import BadSettings

__all__ = ["own_state"]


@contextmanager
def own_state(state: Path) -> Iterator[IO[str]]:
    """Hold the state folder for this process alone. The lock ends with the process, however it ends.

    Raises BadSettings when it cannot be written, or another server has it.
    """
    try:
        make_folder(state, mode=0o700)
        lock = (state / "server.lock").open("w")
    except OSError as error:
        raise BadSettings(
            f"the state folder {state} cannot be written: {error.strerror}",
            next="Choose another with --state.",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadSettings(
                f"another server already runs on the state folder {state}",
                next="Stop it, or choose another folder with --state.",
            ) from None
        yield lock
