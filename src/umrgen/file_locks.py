"""Locks on open files, which the operating system releases when the process ends."""

import errno
from contextlib import suppress
from typing import IO, Any

__all__ = ["lock"]

posix: Any = None
windows: Any = None
try:
    import fcntl as posix
except ImportError:
    with suppress(ImportError):  # a system without file locks
        import msvcrt as windows

_FAR = 1 << 40
"""Windows locks bytes against reading too: this one is beyond the end of any of our files."""


def lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock `file` for this process; return whether it is locked. With `wait`, wait for it. Raises OSError.

    On a system without file locks, this returns True.
    """
    try:
        if posix is not None:
            posix.flock(file, posix.LOCK_EX | (0 if wait else posix.LOCK_NB))
        elif windows is not None:
            _lock_far_byte(file, wait)
    except OSError as error:
        if wait or error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        return False
    return True


def _lock_far_byte(file: IO[bytes], wait: bool) -> None:
    place = file.tell()
    file.seek(_FAR)
    try:
        windows.locking(file.fileno(), windows.LK_LOCK if wait else windows.LK_NBLCK, 1)
    finally:
        file.seek(place)
