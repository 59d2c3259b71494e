"""The journal: a file of the user's unfinished jobs, for `umrgen resume` after a crash.

It has JSON lines and is only appended to, under a lock. An entry is written before the first byte of its submit is
sent, gets the job's id after the response, and is closed when the job ends. It never has an API key. An incomplete
last line (after a power cut during a write) is ignored.
"""

import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from umrgen.client.failures import disk_reason
from umrgen.client.journal_entries import JournalEntry, read_entries
from umrgen.durable import make_folder, sync, sync_folder
from umrgen.errors import UmrgenError
from umrgen.file_locks import lock
from umrgen.paths import data_home

__all__ = ["DefaultJournal", "Journal", "JournalEntry", "JournalUnusable"]

KEEP_ENDED = 7 * 86400
"""Seconds for which a closed entry is kept."""
PRUNE_ABOVE = 256 * 1024
"""Bytes above which old entries are removed from the file."""


class JournalUnusable(UmrgenError):
    """The journal cannot be written."""

    code = "journal_unusable"
    next = "Make its folder writable (XDG_DATA_HOME sets another), or turn it off with journal=None."


class Journal:
    """The journal of one user on one machine; any number of processes may write it concurrently."""

    def __init__(self, path: Path | None = None, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path or data_home() / "journal.ndjson"
        self._wall = wall

    # --- writing ---

    def begin(
        self,
        server: str,
        request: Mapping[str, Any],
        idempotency_key: str,
        *,
        target: Path | None = None,
        overwrite: bool = False,
        embedded: bool = False,
        planned: bool = False,
        key_mark: str | None = None,
    ) -> str:
        """Write an entry before its job is submitted; return the entry's id. Raises JournalUnusable.

        `planned` entries are submitted later, after `submitting`.
        """
        entry = JournalEntry(
            id=secrets.token_hex(8),
            server=server,
            request=dict(request),
            idempotency_key=idempotency_key,
            target=str(target.absolute()) if target else None,
            overwrite=overwrite,
            embedded=embedded,
            begun_at=self._wall(),
            planned=planned,
            key_mark=key_mark,
        )
        self._append({name: value for name, value in entry.as_dict().items() if value is not None})
        return entry.id

    def submitting(self, entry_id: str) -> None:
        """Record, before the first byte is sent, that the submit of a planned entry begins."""
        self._append({"id": entry_id, "planned": False, "begun_at": self._wall()})

    def postponed(self, entry_id: str) -> None:
        """Record that a submit was refused for now, so that its job certainly does not exist."""
        self._append({"id": entry_id, "planned": True})

    def submitted(self, entry_id: str, job_id: str) -> None:
        """Write the job's id."""
        self._append({"id": entry_id, "job_id": job_id})

    def ended(self, entry_id: str, end: str, path: Path | None = None) -> None:
        """Close an entry; `path` is the saved image.

        The end of a saved image is not synced: its file is, and after a power cut that loses this line,
        `umrgen resume` finds the same image there and closes the entry again.
        """
        line = {"id": entry_id, "end": end, "ended_at": self._wall()}
        self._append(line | ({"path": str(path.absolute())} if path else {}), synced=end != "saved" or path is None)

    def _append(self, line: Mapping[str, Any], *, synced: bool = True) -> None:
        with self._locked() as file:
            self._add(file, line, synced)
            if file.tell() > PRUNE_ABOVE:
                self._prune(file)

    def _add(self, file: IO[bytes], line: Mapping[str, Any], synced: bool) -> None:
        size = file.seek(0, os.SEEK_END)
        incomplete = False
        if size:
            file.seek(size - 1)
            incomplete = file.read(1) != b"\n"
        else:
            sync_folder(self.path.parent)  # before the first line, so that a journal with lines has a durable name
        file.write((b"\n" if incomplete else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        if synced:
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """Open the file for reading and appending, locked for this process."""
        try:
            make_folder(self.path.parent, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as raw:
                lock(raw, wait=True)
                yield raw
        except OSError as error:
            raise JournalUnusable(f"the journal {self.path} cannot be written: {disk_reason(error)}") from None

    def _prune(self, file: IO[bytes]) -> None:
        """Rewrite the file in place, under the lock, without entries that were closed long ago."""
        file.seek(0)
        copy = self.path.with_suffix(".new")
        entries = read_entries((copy.read_bytes() if copy.exists() else b"") + file.read())
        oldest = self._wall() - KEEP_ENDED
        kept = [entry for entry in entries if entry.ended_at is None or entry.ended_at > oldest]
        if len(kept) == len(entries):
            return
        lines = b"".join(json.dumps(entry.as_dict()).encode() + b"\n" for entry in kept)
        copy.write_bytes(lines)
        sync(copy)  # after a crash between the next two steps, the copy still has all entries
        file.truncate(0)
        file.write(lines)
        os.fsync(file.fileno())
        copy.unlink()

    def check_writable(self) -> None:
        """Open the file as for an entry, and write nothing. Raises JournalUnusable."""
        with self._locked():
            pass

    # --- reading ---

    def entries(self) -> list[JournalEntry]:
        """Return all entries, oldest first. Raises JournalUnusable."""
        found: dict[str, JournalEntry] = {}
        for path in (self.path.with_suffix(".new"), self.path):
            found |= {entry.id: entry for entry in read_entries(self._content(path))}
        return sorted(found.values(), key=lambda entry: entry.begun_at)

    def _content(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise JournalUnusable(f"the journal {path} cannot be read: {error.strerror or error}") from None

    def unfinished(self) -> list[JournalEntry]:
        """Return the entries that are not closed, oldest first."""
        return [entry for entry in self.entries() if entry.end is None]

    def find_job(self, job_id: str) -> JournalEntry | None:
        """Return the newest entry of a job."""
        return next((entry for entry in reversed(self.entries()) if entry.job_id == job_id), None)


class DefaultJournal(Journal):
    """The journal of this user. When it cannot be used, it is off: the first submit warns, and is not refused."""

    def __init__(self) -> None:
        self._unusable: UmrgenError | None = None
        self._warned = False
        try:
            super().__init__()
        except UmrgenError as error:
            super().__init__(Path())
            self._unusable = error

    def _append(self, line: Mapping[str, Any], *, synced: bool = True) -> None:
        try:
            if self._unusable is None:
                super()._append(line, synced=synced)
        except JournalUnusable as error:
            self._unusable = error
        if self._unusable is not None and not self._warned:
            self._warned = True
            text = f"{self._unusable}. `umrgen resume` will not know the jobs of this call. {self._unusable.next}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def entries(self) -> list[JournalEntry]:
        """Return all entries, oldest first; none when the journal is off."""
        try:
            return [] if self._unusable is not None else super().entries()
        except JournalUnusable as error:
            self._unusable = error
            return []
