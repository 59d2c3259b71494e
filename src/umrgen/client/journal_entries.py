"""The entries of the journal, and their form in its file: JSON lines that add fields to an entry."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["JournalEntry", "read_entries"]


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
    planned: bool = False
    """Whether its submit was not begun: no byte of it was sent."""
    job_id: str | None = None
    end: str | None = None
    """One of: saved, failed, gone, missing, refused, forgotten; None while the job is unfinished."""
    ended_at: float | None = None
    path: str | None = None
    key_mark: str | None = None
    """`Server.key_mark` of the key that submitted the job."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def names(self, *ids: str) -> bool:
        """Return whether one of `ids` is the id of this entry or of its job."""
        return self.id in ids or (self.job_id is not None and self.job_id in ids)


_LATEST = 1e11
"""Seconds since the epoch; a later time is an error in the file, and no date."""
_TEXTS, _TIMES = (str, type(None)), (int, float, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "server": (str,),
    "request": (dict,),
    "idempotency_key": (str,),
    "target": _TEXTS,
    "overwrite": (bool,),
    "embedded": (bool,),
    "begun_at": (int, float),
    "planned": (bool,),
    "job_id": _TEXTS,
    "end": _TEXTS,
    "ended_at": _TIMES,
    "path": _TEXTS,
    "key_mark": _TEXTS,
}


def read_entries(data: bytes) -> list[JournalEntry]:
    """Return the entries in the file's content; an invalid line and an unknown field are ignored."""
    found: dict[str, JournalEntry] = {}
    for raw in data.split(b"\n"):
        line = _fields(raw)
        entry_id = line.get("id")
        if entry_id in found:
            found[entry_id] = replace(found[entry_id], **line)
        elif {"id", "server", "request", "idempotency_key"} <= set(line):
            found[line["id"]] = JournalEntry(**line)
    return list(found.values())


def _fields(raw: bytes) -> dict[str, Any]:
    """Return the fields in a line; none when it is not an object, or when a value has a wrong type."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    known = {name: value for name, value in line.items() if name in _TYPES} if isinstance(line, dict) else {}
    return known if all(_is_valid(name, value) for name, value in known.items()) else {}


def _is_valid(name: str, value: Any) -> bool:
    if name in ("begun_at", "ended_at") and isinstance(value, int | float):
        return 0 <= value < _LATEST
    return isinstance(value, _TYPES[name])
