"""Why change numbers come from one row of the database: 20,000 transactions of 4 writers, and one watcher."""

import asyncio
import threading
from collections.abc import Sequence

import psycopg
import pytest

from postgres import PostgresDatabases
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.postgres.ledger import PostgresLedger

pytestmark = pytest.mark.slow
WRITERS, EACH = 4, 5000


async def test_a_watcher_sees_every_change_by_the_numbers_of_the_row(postgres: PostgresDatabases) -> None:
    url = postgres.create()
    seen: set[str] = set()
    complete = asyncio.Event()

    def on_change(jobs: Sequence[Job]) -> None:
        seen.update(job.id for job in jobs)
        if len(seen) == WRITERS * EACH:
            complete.set()

    async def write(writer: int) -> None:
        for number in range(EACH):
            job_id = f"ext_{writer}_{number}"
            await ledgers[writer].jobs.submit(job_id, f"sid_{writer}", GenerationRequest("a boat"), "fake", now=1)

    ledgers = [PostgresLedger(url) for _ in range(WRITERS)]
    watcher = PostgresLedger(url)
    await watcher.open(lambda jobs: None, on_change)
    for ledger in ledgers:
        await ledger.open()
    try:
        await asyncio.gather(*map(write, range(WRITERS)))
        async with asyncio.timeout(20):
            await complete.wait()
    finally:
        for ledger in (*ledgers, watcher):
            await ledger.close()


def test_a_watcher_misses_changes_by_the_numbers_of_a_sequence(postgres: PostgresDatabases) -> None:
    """The same work with a sequence shows why: numbers are drawn in another order than transactions commit."""
    url = postgres.create()
    with psycopg.connect(url, autocommit=True) as watcher:
        watcher.execute("CREATE TABLE events (n BIGINT PRIMARY KEY)")
        watcher.execute("CREATE SEQUENCE numbers")
        threads = [threading.Thread(target=_write, args=(url,)) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        seen = position = 0
        running = True
        while running:
            running = any(thread.is_alive() for thread in threads)
            rows = watcher.execute("SELECT n FROM events WHERE n > %s ORDER BY n", [position]).fetchall()
            seen, position = seen + len(rows), rows[-1][0] if rows else position
        (written,) = watcher.execute("SELECT count(*) FROM events").fetchone() or (0,)
    assert written == WRITERS * EACH
    assert seen < written


def _write(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(EACH):
            with connection.transaction():
                (number,) = connection.execute("SELECT nextval('numbers')").fetchone() or (0,)
                connection.execute("INSERT INTO events VALUES (%s)", [number])
