"""The partial file of a download: locked by one process, resumed by the next, renamed only when it is complete."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from umrgen.client.failures import disk_reason
from umrgen.client.flows.download import PartialState, classify_response, partial_name, partial_prefix, validator_of
from umrgen.durable import sync_folder
from umrgen.errors import TargetUnusable, UmrgenError
from umrgen.file_locks import lock

__all__ = ["PartialFile", "target_exists", "translate_disk_errors"]


def target_exists(target: Path) -> TargetUnusable:
    """Return the error for a target that is another file."""
    return TargetUnusable(
        f"{target} already exists", code="target_exists", next="Choose another name, or allow --overwrite."
    )


@contextmanager
def translate_disk_errors(target: Path) -> Iterator[None]:
    """Translate OSErrors of the file system to TargetUnusable."""
    try:
        yield
    except UmrgenError:  # WaitTimeout is a TimeoutError, and so an OSError
        raise
    except FileExistsError:
        raise target_exists(target) from None
    except FileNotFoundError:
        raise TargetUnusable(
            f"the folder {target.parent} no longer exists", next="Create it again, then fetch the image again."
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TargetUnusable(
            f"{target} cannot be written: {disk_reason(error)}",
            code="disk_full" if full else None,
            next="Free disk space, then fetch the image again." if full else "Choose another path with -o.",
        ) from None


class PartialFile:
    """The partial file of a download, in the folder of its target, locked by this process.

    Its name depends on the job and the version of the image, so that a later process can continue it.
    """

    def __init__(self, target: Path, job_id: str) -> None:
        self._target = target
        self._job_id = job_id
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self.state = self._find_previous()

    def _find_previous(self) -> PartialState:
        """Return the size of an earlier process's partial file; its version is not known before the response."""
        sizes = [path.stat().st_size for path in self._siblings()]
        return PartialState(max(sizes, default=0))

    def _siblings(self) -> list[Path]:
        """Return all partial files of this target."""
        pattern = re.compile(re.escape(partial_prefix(self._target.name)) + r"[0-9a-f]{12}(\.[0-9a-f]{8})?\.part")
        with suppress(OSError):
            return [path for path in self._target.parent.iterdir() if pattern.fullmatch(path.name)]
        return []

    def begin(
        self, status: int, headers: dict[str, str], error: bytes = b"", *, foreign: bool = False, coded: bool = False
    ) -> bool:
        """Prepare for a response's body; return whether it continues the file. Raises as `classify_response`."""
        if status == 206 and self._file is None:
            self._open_previous(validator_of(headers))
        continues = classify_response(status, headers, self.state, error, foreign=foreign, coded=coded) == "append"
        if continues and self._file is not None:  # a 206 from the first byte may be sent without a partial file
            return True
        self._create(validator_of(headers))
        return False

    def _open_previous(self, validator: str) -> None:
        """Open an earlier process's partial file, if it has the same version and is not locked."""
        path = self._target.parent / partial_name(self._target.name, self._job_id, validator)
        self.state = PartialState(0)
        with suppress(OSError):
            file = path.open("r+b")
            if lock(file, wait=False) and os.fstat(file.fileno()).st_nlink == 1:
                size = file.seek(0, os.SEEK_END)
                self._file, self._path, self.state = file, path, PartialState(size, validator)
            else:  # another process writes it, or has just linked it to its final name
                file.close()

    def _create(self, validator: str) -> None:
        self.discard()
        path = self._target.parent / partial_name(self._target.name, self._job_id, validator)
        _remove_if_unlocked(path)
        try:
            file = path.open("x+b")
        except FileExistsError:  # another process downloads the same image: use another name
            path = path.with_name(f"{path.name.removesuffix('.part')}.{secrets.token_hex(4)}.part")
            file = path.open("x+b")
        lock(file, wait=False)
        self._file, self._path, self.state = file, path, PartialState(0, validator)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`."""
        assert self._file is not None
        self._file.write(chunk)
        self.state.size += len(chunk)

    def read(self) -> bytes:
        """Return the whole content."""
        assert self._file is not None
        self._file.flush()
        self._file.seek(0)
        return self._file.read()

    def replace(self, content: bytes) -> None:
        """Replace the whole content, by the image in another format."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(content)

    def sync(self) -> None:
        """Write the whole content to the disk."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Rename the synced file to `target` atomically; without `overwrite`, never replace another file."""
        assert self._file is not None and self._path is not None
        if overwrite:
            os.replace(self._path, target)
        else:
            _rename_without_replacing(self._path, target)
        for sibling in self._siblings():
            _remove_if_unlocked(sibling)
        self._file.close()
        self._file = self._path = None
        sync_folder(target.parent)

    def discard(self) -> None:
        """Remove the partial file."""
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
        self._file = self._path = None
        self.state = PartialState(0)

    def close(self) -> None:
        """Close the partial file and keep it for a later call; remove it when it is empty."""
        if self._file is not None and self._path is not None:
            if self.state.size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
        self._file = None


def _remove_if_unlocked(path: Path) -> None:
    """Remove an abandoned partial file. Never truncate it: it may be a second name of a finished image."""
    with suppress(OSError), path.open("rb") as file:
        if lock(file, wait=False):
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
