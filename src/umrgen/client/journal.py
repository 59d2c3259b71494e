"""The journal: a file of the user's unfinished jobs, for `umrgen resume` after a crash.

It has JSON lines and is only appended to, under a lock. An entry is written before the first byte of its submit is
sent, gets the job's id after the response, and is closed when the job ends. It never has an API key. An incomplete
last line (after a power cut during a write) is ignored.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from umrgen.client.failures import disk_reason
from umrgen.durable import make_folder, sync, sync_folder
from umrgen.errors import UmrgenError
from umrgen.paths import data_home

__all__ = ["Journal", "JournalEntry", "JournalUnusable"]

KEEP_ENDED = 7 * 86400
"""Seconds for which a closed entry is kept."""
PRUNE_ABOVE = 256 * 1024
"""Bytes above which old entries are removed from the file."""


class JournalUnusable(UmrgenError):
    """The journal cannot be written."""

    code = "journal_unusable"
    next = "Make its folder writable (XDG_DATA_HOME sets another), or turn it off with journal=None."


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One job in the journal. `server` is a base URL, or the state folder of an embedded server."""

    id: str
    server: str
    request: Mapping[str, Any]
    idempotency_key: str
    target: str | None = None
    overwrite: bool = False
    embedded: bool = False
    begun_at: float = 0.0
    job_id: str | None = None
    end: str | None = None
    """One of: saved, failed, missing (no image), gone, refused; None while the job is unfinished."""
    ended_at: float | None = None
    path: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


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
    ) -> str:
        """Write an entry before its job is submitted; return the entry's id. Raises JournalUnusable."""
        entry = JournalEntry(
            id=secrets.token_hex(8),
            server=server,
            request=dict(request),
            idempotency_key=idempotency_key,
            target=str(target.absolute()) if target else None,
            overwrite=overwrite,
            embedded=embedded,
            begun_at=self._wall(),
        )
        self._append({name: value for name, value in entry.as_dict().items() if value is not None})
        return entry.id

    def submitted(self, entry_id: str, job_id: str) -> None:
        """Write the job's id."""
        self._append({"id": entry_id, "job_id": job_id})

    def ended(self, entry_id: str, end: str, path: Path | None = None) -> None:
        """Close an entry; `path` is the saved image."""
        line = {"id": entry_id, "end": end, "ended_at": self._wall()}
        self._append(line | ({"path": str(path.absolute())} if path else {}))

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._locked() as file:
            self._add(file, line)
            if file.tell() > PRUNE_ABOVE:
                self._prune(file)

    def _add(self, file: IO[bytes], line: Mapping[str, Any]) -> None:
        size = file.seek(0, os.SEEK_END)
        incomplete = False
        if size:
            file.seek(size - 1)
            incomplete = file.read(1) != b"\n"
        else:
            sync_folder(self.path.parent)  # before the first line, so that a journal with lines has a durable name
        file.write((b"\n" if incomplete else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """Open the file for reading and appending, locked for this process."""
        try:
            make_folder(self.path.parent, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as raw:
                fcntl.flock(raw, fcntl.LOCK_EX)
                yield raw
        except OSError as error:
            raise JournalUnusable(f"the journal {self.path} cannot be written: {disk_reason(error)}") from None

    def _prune(self, file: IO[bytes]) -> None:
        """Rewrite the file in place, under the lock, without entries that were closed long ago."""
        file.seek(0)
        copy = self.path.with_suffix(".new")
        entries = _read((copy.read_bytes() if copy.exists() else b"") + file.read())
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

    # --- reading ---

    def entries(self) -> list[JournalEntry]:
        """Return all entries, oldest first."""
        found: dict[str, JournalEntry] = {}
        for path in (self.path.with_suffix(".new"), self.path):
            if path.is_file():
                found |= {entry.id: entry for entry in _read(path.read_bytes())}
        return sorted(found.values(), key=lambda entry: entry.begun_at)

    def unfinished(self) -> list[JournalEntry]:
        """Return the entries that are not closed, oldest first."""
        return [entry for entry in self.entries() if entry.end is None]

    def find_job(self, job_id: str) -> JournalEntry | None:
        """Return the newest entry of a job."""
        return next((entry for entry in reversed(self.entries()) if entry.job_id == job_id), None)


def _read(data: bytes) -> list[JournalEntry]:
    """Return the entries in the file's content; an invalid line is ignored."""
    found: dict[str, JournalEntry] = {}
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
            entry_id = line["id"]
            if entry_id in found:
                found[entry_id] = replace(found[entry_id], **line)
            elif "server" in line:
                found[entry_id] = JournalEntry(**line)
        except (ValueError, TypeError, KeyError):
            continue
    return list(found.values())
