"""Deleting old records while serving: how long each transaction holds the writer, and what a status read waits.

    .venv/bin/python benchmarks/pruning.py [--records 100000] [--seconds 0]

The records are made directly in the tables: completed jobs whose image is deleted. Then they are deleted as retention
does it, in transactions of up to SLICE jobs with a PAUSE between them; with `--seconds`, for so long only.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from umrgen.model import State
from umrgen.server.domain.job import Job, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Ledger
from umrgen.server.ledger.copying import LedgerTables
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.postgres.tables import PostgresTables
from umrgen.server.ledger.sql.rows import COLUMNS, values_of
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.tables import SqliteTables
from umrgen.server.services.retention import PAUSE, SLICE, next_slice

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresDatabases, PostgresServer

REQUEST = GenerationRequest("a lighthouse on a cliff at dusk, storm over the sea", seed=7)


def fill(tables: LedgerTables, count: int) -> None:
    with tables.writing():
        jobs = (_job(number) for number in range(count))
        tables.write("jobs", COLUMNS, (list(values_of(job).values()) for job in jobs))
        columns = ("name", "session_id", "job_id", "bytes", "sha256", "width", "height", "media_type", "created_at")
        outputs = (
            (f"{n}.png", f"sid_{n % 50}", f"ext_{n}", 3, "00" * 32, 512, 512, "image/png", n, n) for n in range(count)
        )
        tables.write("outputs", (*columns, "expired_at"), outputs)


def _job(number: int) -> Job:
    session = f"sid_{number % 50}"
    output = Output(f"{number}.png", session, 3, "00" * 32, 512, 512)
    job = Job(f"ext_{number}", session, REQUEST, "procedural", created_at=number)
    return job._replace(state=State.COMPLETED, outputs=(output,), completed_at=number, version=3, changed=0)


async def reads(ledger: Ledger, until: asyncio.Event | None = None, count: int = 2000) -> list[float]:
    """Return the milliseconds of reads of a new job, one after the other, with a pause of a millisecond."""
    took: list[float] = []
    while len(took) < count if until is None else not until.is_set():
        begun = time.perf_counter()
        assert await ledger.jobs.get("ext_new") is not None
        took.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.001)
    return took


async def prune(ledger: Ledger, records: int, seconds: float, done: asyncio.Event) -> tuple[list[float], int]:
    """Delete the records; return the milliseconds of each transaction, and how many records were deleted."""
    took: list[float] = []
    limit, left, end = SLICE, records, time.monotonic() + (seconds or float("inf"))
    while left > 0 and time.monotonic() < end:
        begun = time.perf_counter()
        count = await ledger.jobs.prune(before=2**50, limit=limit)
        took.append((time.perf_counter() - begun) * 1000)
        limit = next_slice(limit, took[-1] / 1000)
        assert count
        left -= count
        await asyncio.sleep(PAUSE)
    done.set()
    return took, records - left


async def measure(name: str, ledger: Ledger, records: int, limit: float) -> None:
    await ledger.open(lambda jobs: None)
    try:
        await ledger.jobs.submit("ext_new", "sid_new", REQUEST, "procedural", now=1)
        quiet, done = await reads(ledger), asyncio.Event()
        begun = time.perf_counter()
        busy, (slices, deleted) = await asyncio.gather(reads(ledger, done), prune(ledger, records, limit, done))
        seconds = time.perf_counter() - begun
    finally:
        await ledger.close()
    print(
        f"{name}: {deleted / seconds:,.0f} of {records:,} records a second; a transaction took "
        f"{statistics.median(slices):.1f} ms (p50), {_p99(slices):.1f} ms (p99), {max(slices):.1f} ms at most; "
        f"a read {_p99(quiet):.2f} ms (p99) before, {_p99(busy):.2f} ms during it"
    )


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long; 0: delete all")
    records, limit = (options := parser.parse_args()).records, options.seconds
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite3"
        fill(SqliteTables(file), records)
        asyncio.run(measure("SQLite", SqliteLedger(file), records, limit))
    server = PostgresServer("synchronous_commit=on").start()
    try:
        url = PostgresDatabases(server).create()
        fill(PostgresTables(url), records)
        asyncio.run(measure("PostgreSQL", PostgresLedger(url), records, limit))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
