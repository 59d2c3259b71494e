"""The journal: which jobs this user is waiting for, so that none is forgotten when a process dies.

One file of JSON lines, only ever appended to, under a lock. An entry begins before its first byte is
sent, gets its job's id as soon as that is known, and ends with the job. It never holds a key. A torn
last line (the power went in the middle of a write) is passed over.
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

from umrgen.durable import make_folder, sync, sync_folder
from umrgen.errors import UmrgenError
from umrgen.paths import data_home

__all__ = ["Entry", "Journal", "JournalUnusable"]

KEEP_ENDED = 7 * 86400
"""Seconds for which an entry that has ended is kept."""
PRUNE_ABOVE = 256 * 1024
"""Bytes above which the file is looked through for what may go."""


class JournalUnusable(UmrgenError):
    """The journal cannot be written."""

    code = "journal_unusable"
    next = "Make its folder writable (XDG_DATA_HOME chooses another), or turn it off with journal=None."


@dataclass(frozen=True, slots=True)
class Entry:
    """One job as the journal knows it. `server` is its base URL, or the state folder of an embedded one."""

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
    """saved, failed, gone, refused; None while it is unfinished."""
    ended_at: float | None = None
    path: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Journal:
    """The journal of one user on one machine; any number of processes write it at once."""

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
        """Note a job that is about to be submitted; give the entry's id. Raises JournalUnusable."""
        entry = Entry(
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
        self._append({"id": entry_id, "job_id": job_id})

    def ended(self, entry_id: str, end: str, path: Path | None = None) -> None:
        line = {"id": entry_id, "end": end, "ended_at": self._wall()}
        self._append(line | ({"path": str(path.absolute())} if path else {}))

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._locked() as file:
            self._add(file, line)
            if file.tell() > PRUNE_ABOVE:
                self._prune(file)

    def _add(self, file: IO[bytes], line: Mapping[str, Any]) -> None:
        size = file.seek(0, os.SEEK_END)
        torn = False
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        else:
            sync_folder(self.path.parent)  # before the first line: a journal with lines has a name on disk
        file.write((b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """The file, open for reading and appending, for this process alone."""
        try:
            make_folder(self.path.parent, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as raw:
                fcntl.flock(raw, fcntl.LOCK_EX)
                yield raw
        except OSError as error:
            raise JournalUnusable(f"the journal {self.path} cannot be written: {error.strerror or error}") from None

    def _prune(self, file: IO[bytes]) -> None:
        """Rewrite the file in place, under the lock, without what ended long ago."""
        file.seek(0)
        spare = self.path.with_suffix(".new")
        entries = _read((spare.read_bytes() if spare.exists() else b"") + file.read())
        oldest = self._wall() - KEEP_ENDED
        kept = [entry for entry in entries if entry.ended_at is None or entry.ended_at > oldest]
        if len(kept) == len(entries):
            return
        lines = b"".join(json.dumps(entry.as_dict()).encode() + b"\n" for entry in kept)
        spare.write_bytes(lines)
        sync(spare)  # a crash or a power cut between the next two steps loses nothing: the spare has it all
        file.truncate(0)
        file.write(lines)
        os.fsync(file.fileno())
        spare.unlink()

    # --- reading ---

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        found: dict[str, Entry] = {}
        for path in (self.path.with_suffix(".new"), self.path):
            if path.is_file():
                found |= {entry.id: entry for entry in _read(path.read_bytes())}
        return sorted(found.values(), key=lambda entry: entry.begun_at)

    def unfinished(self) -> list[Entry]:
        return [entry for entry in self.entries() if entry.end is None]

    def of_job(self, job_id: str) -> Entry | None:
        """The newest entry of a job."""
        return next((entry for entry in reversed(self.entries()) if entry.job_id == job_id), None)


def _read(data: bytes) -> list[Entry]:
    """The entries in the file's bytes; a line that is no entry is passed over."""
    found: dict[str, Entry] = {}
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
            entry_id = line["id"]
            if entry_id in found:
                found[entry_id] = replace(found[entry_id], **line)
            elif "server" in line:
                found[entry_id] = Entry(**line)
        except (ValueError, TypeError, KeyError):
            continue
    return list(found.values())
