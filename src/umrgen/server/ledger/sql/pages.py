"""Pages of a session's jobs. Without an index for its filter, a page is searched part by part, newest first.

No index of words: a search reads the prompts of one session only, about a microsecond each (benchmarks.md), and the two
databases' indexes of words (FTS5, tsvector) divide and fold text by different rules, so they would find different jobs.
"""

import asyncio
from functools import partial
from typing import Any

from umrgen.server.domain.job import Job
from umrgen.server.ledger.sql.database import Database, Row, SqlConnection
from umrgen.server.ledger.sql.rows import job_of
from umrgen.server.ledger.values import JobFilter

__all__ = ["find_page"]

MOST_SEARCHED = 200_000
"""Jobs that are searched for one page."""


def _values(session_id: str, where: JobFilter) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "state": where.state.value if where.state else "",
        "words": where.words,
        "engine": where.engine,
        "after": where.after,
        "until": where.until,
    }


def _statements(where: JobFilter) -> tuple[str, str]:
    """Return the statements of a page and of its next part, for the index that has the fewest other jobs."""
    if where.favorite:
        return "page_of_favorites", "next_window_of_favorites"
    return ("page_of_state", "next_window_of_state") if where.state else ("page", "next_window")


async def find_page(
    database: Database, session_id: str, where: JobFilter, *, limit: int, before: int
) -> tuple[list[Job], int | None]:
    """Return up to `limit` jobs below the number `before`, and the cursor of the next page, if there may be one."""
    values = _values(session_id, where)
    found: list[Row] = []
    for _ in range(max(1, MOST_SEARCHED // database.rows_at_a_time)):
        part = values | {"before": before, "limit": limit + 1 - len(found), "size": database.rows_at_a_time}
        rows, lowest = await database.read(partial(_search, values=part, where=where))
        found += rows
        if len(found) > limit:
            return [job_of(row) for row in found[:limit]], found[limit - 1][-1]
        if not lowest:
            return [job_of(row) for row in found], None
        before = lowest
        await asyncio.sleep(0)
    return [job_of(row) for row in found], before


def _search(connection: SqlConnection, *, values: dict[str, Any], where: JobFilter) -> tuple[list[Row], int]:
    """Return the matching jobs of a window, and its lowest number; 0 if there are no jobs below it."""
    page, next_window = _statements(where)
    lowest = 0
    if not where.has_index:
        window = connection.one(next_window, values)
        assert window is not None
        lowest = window[0] if window[1] == values["size"] else 0
    return list(connection.all(page, values | {"lowest": lowest})), lowest
