"""The unfinished file beside a target: owned by one process, resumed by the next, never seen under the final name."""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from umrgen.client.flows.download import PartialState, judge, partial_name, validator_of
from umrgen.durable import sync_folder
from umrgen.errors import TargetUnusable, UmrgenError

__all__ = ["Partial", "check_target", "disk_trouble"]


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise TargetUnusable, before anything is asked of a server, when `target` cannot be written."""
    folder = target.parent
    if not folder.is_dir():
        raise TargetUnusable(f"there is no folder {folder}", next=f"Make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TargetUnusable(f"the folder {folder} cannot be written", next="Choose another place with -o.")
    if target.is_dir():
        raise TargetUnusable(f"{target} is a folder", next="Name a file in it.")
    if target.exists() and not overwrite:
        raise _exists(target)


def _exists(target: Path) -> TargetUnusable:
    return TargetUnusable(
        f"{target} exists already", code="target_exists", next="Choose another name, or allow --overwrite."
    )


@contextmanager
def disk_trouble(target: Path) -> Iterator[None]:
    """Foreign errors of the disk, translated at this one border."""
    try:
        yield
    except UmrgenError:  # WaitTimeout is an OSError too, by way of TimeoutError
        raise
    except FileExistsError:
        raise _exists(target) from None
    except FileNotFoundError:
        raise TargetUnusable(
            f"the folder {target.parent} is gone", next="Make it again, then fetch the image again."
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TargetUnusable(
            f"{target} cannot be written: {error.strerror or error}",
            code="disk_full" if full else None,
            next="Make room, then fetch the image again." if full else "Choose another place with -o.",
        ) from None


class Partial:
    """The unfinished file beside the target, held by this process alone.

    Its name tells the job and the version it is of, so that a later process can go on with it.
    """

    def __init__(self, target: Path, job_id: str) -> None:
        self._target = target
        self._job_id = job_id
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self.have = self._left_behind()

    def _left_behind(self) -> PartialState:
        """What an earlier process, now dead, got of this job's image: its size, its version unknown yet."""
        sizes = [path.stat().st_size for path in self._siblings()]
        return PartialState(max(sizes, default=0))

    def _siblings(self) -> list[Path]:
        """Partial files of this target, whoever's they are."""
        ours = re.compile(re.escape(f".{self._target.name}.") + r"[0-9a-f]{12}(\.[0-9a-f]{8})?\.part")
        with suppress(OSError):
            return [path for path in self._target.parent.iterdir() if ours.fullmatch(path.name)]
        return []

    def begin(self, status: int, headers: dict[str, str]) -> bool:
        """Get ready for an answer's body; whether it continues what is there. Raises as `judge`."""
        if status == 206 and self._file is None:
            self._take_up(validator_of(headers))
        if judge(status, headers, self.have) == "append":
            return True
        self._start_anew(validator_of(headers))
        return False

    def _take_up(self, validator: str) -> None:
        """Open what an earlier process left, if it is of this very version and nobody holds it."""
        path = self._target.parent / partial_name(self._target.name, self._job_id, validator)
        self.have = PartialState(0)
        with suppress(OSError):
            file = path.open("r+b")
            if _hold(file) and os.fstat(file.fileno()).st_nlink == 1:
                size = file.seek(0, os.SEEK_END)
                self._file, self._path, self.have = file, path, PartialState(size, validator)
            else:  # another process is at it, or has just given it its final name
                file.close()

    def _start_anew(self, validator: str) -> None:
        self.drop()
        path = self._target.parent / partial_name(self._target.name, self._job_id, validator)
        _remove_if_unheld(path)
        try:
            file = path.open("x+b")
        except FileExistsError:  # another process downloads the same image: keep out of its way
            path = path.with_name(f"{path.name.removesuffix('.part')}.{secrets.token_hex(4)}.part")
            file = path.open("x+b")
        _hold(file)
        self._file, self._path, self.have = file, path, PartialState(0, validator)

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        self._file.write(chunk)
        self.have.size += len(chunk)

    def read(self) -> bytes:
        assert self._file is not None
        self._file.flush()
        self._file.seek(0)
        return self._file.read()

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Sync, then give the file its final name in one step, which never hides another file."""
        assert self._file is not None and self._path is not None
        os.fsync(self._file.fileno())
        if overwrite:
            os.replace(self._path, target)
        else:
            _rename_without_replacing(self._path, target)
        for sibling in self._siblings():
            _remove_if_unheld(sibling)
        self._file.close()
        self._file = self._path = None
        sync_folder(target.parent)

    def drop(self) -> None:
        """Remove what is there."""
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
        self._file = self._path = None
        self.have = PartialState(0)

    def keep(self) -> None:
        """Let go of the file and leave it for a later try."""
        if self._file is not None and self._path is not None:
            if self.have.size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
        self._file = None


def _hold(file: IO[bytes]) -> bool:
    """Lock `file` for this process; the lock ends with the process, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_unheld(path: Path) -> None:
    """Take a left-behind partial file away. Never emptied in place: it may be a second name of a finished image."""
    with suppress(OSError), path.open("rb") as file:
        if _hold(file):
            path.unlink()


def _rename_without_replacing(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(target) from None
        os.rename(source, target)
    else:
        source.unlink()
