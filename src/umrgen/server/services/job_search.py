"""The filters of a list of jobs, from what a caller wrote."""

import re
from collections.abc import Mapping
from typing import Any

from umrgen.model import State
from umrgen.server.domain.request import searchable
from umrgen.server.ledger import ALL_JOBS, JobFilter
from umrgen.server.services.refusal import FieldError, invalid

__all__ = ["FILTERS", "MAX_QUERY", "job_filter"]

MAX_QUERY = 200
"""Characters of a search."""
FILTERS = ("state", "q", "favorite", "engine", "before", "after")
"""The names of the filters."""
_ENGINE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIME = re.compile(r"[0-9]{1,15}")


def job_filter(given: Mapping[str, str]) -> JobFilter:
    """Return the filter that these values mean; "" is the same as no value.

    `q`: words that the prompt must have, in any order; `favorite`: "true"; `before` and `after`: milliseconds since the
    epoch. Raises Refusal `invalid_request` with every wrong value.
    """
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name in FILTERS:
        if text := given.get(name):
            try:
                values |= _READERS[name](text)
            except ValueError as wrong:
                errors.append(FieldError(name, str(wrong)))
    if errors:
        raise invalid(errors)
    return JobFilter(**values) if values else ALL_JOBS


def _state(text: str) -> dict[str, Any]:
    if text not in tuple(State):
        raise ValueError(f"must be one of {', '.join(State)}; got {_short(text)}")
    return {"state": State(text)}


def _words(text: str) -> dict[str, Any]:
    if len(text) > MAX_QUERY:
        raise ValueError(f"must have {MAX_QUERY} characters or fewer; got {len(text)}")
    return {"words": tuple(dict.fromkeys(searchable(text).split()))}


def _favorite(text: str) -> dict[str, Any]:
    if text != "true":
        raise ValueError(f"must be true, or left out; got {_short(text)}")
    return {"favorite": True}


def _engine(text: str) -> dict[str, Any]:
    if not _ENGINE.fullmatch(text):
        raise ValueError(f"must be the name of an engine; got {_short(text)}")
    return {"engine": text}


def _milliseconds(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise ValueError(f"must be milliseconds since the epoch; got {_short(text)}")
    return int(text)


_READERS: Mapping[str, Any] = {
    "state": _state,
    "q": _words,
    "favorite": _favorite,
    "engine": _engine,
    "before": lambda text: {"until": _milliseconds(text)},
    "after": lambda text: {"after": _milliseconds(text)},
}


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
