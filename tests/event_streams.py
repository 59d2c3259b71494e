"""Reading Server-Sent Events, for tests."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

__all__ = ["Event", "events", "read"]


@dataclass
class Event:
    kind: str
    id: str
    data: dict[str, Any]


def read(lines: Iterator[str], other: list[str] | None = None) -> Iterator[Event]:
    """Parse a stream (WHATWG HTML, section 9.2); append the lines that belong to no event to `other`."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line.startswith(":") or name == "retry":
            if other is not None:
                other.append(line)
        elif line:
            fields[name] = value
        elif fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


def events(http: httpx2.Client, job_id: str, query: str = "", **headers: str) -> list[Event]:
    """Return all events until the stream ends."""
    with http.stream("GET", f"/api/v1/events/{job_id}{query}", headers=headers) as answer:
        assert answer.status_code == 200
        return list(read(answer.iter_lines()))
