"""Deleting old records while serving: how long each transaction holds the writer, and what a status read waits.

The time of a transaction is given in parts: its statements, and its commit. The sync of a file of 4 KiB on the same
disk, at the same time, shows what part of the commit is the disk's.

    .venv/bin/python benchmarks/pruning.py [--records 100000] [--seconds 0]

The records are made directly in the tables: completed jobs whose image is deleted. Then they are deleted as retention
does it, in transactions of up to SLICE jobs and SLICE_SECONDS with a PAUSE between them; with `--seconds`, for so long
only.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
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
from umrgen.server.services.retention import PAUSE, SLICE, SLICE_SECONDS

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


@dataclass
class Parts:
    """The milliseconds of each pruning transaction: of its statements, of the writing thread's CPU, of its commit."""

    statements: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    _begun: float | None = None
    _cpu: float = 0.0

    def begin(self) -> float:
        """The clock of a transaction, which reads it first when it begins its statements."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun, self._cpu = now, time.thread_time()
        return now

    def committed(self, seconds: float) -> None:
        if self._begun is not None:
            self.statements.append((time.perf_counter() - seconds - self._begun) * 1000)
            self.cpu.append((time.thread_time() - self._cpu) * 1000)
            self.commits.append(seconds * 1000)
            self._begun = None


async def prune(ledger: Ledger, parts: Parts, records: int, seconds: float, done: asyncio.Event) -> int:
    """Delete the records; return how many were deleted."""
    left, end = records, time.monotonic() + (seconds or float("inf"))
    while left > 0 and time.monotonic() < end:
        begun = time.perf_counter()
        count = await ledger.jobs.prune(before=2**50, limit=SLICE, seconds=SLICE_SECONDS, monotonic=parts.begin)
        assert count
        left -= count
        await asyncio.sleep(max(PAUSE, time.perf_counter() - begun))
    done.set()
    return records - left


def syncs(file: Path, done: threading.Event) -> list[float]:
    """Return the milliseconds of syncs of a small file, one each 50 ms."""
    took: list[float] = []
    with file.open("wb", buffering=0) as opened:
        while not done.wait(0.05):
            begun = time.perf_counter()
            opened.seek(0)
            opened.write(os.urandom(4096))
            os.fdatasync(opened.fileno())
            took.append((time.perf_counter() - begun) * 1000)
    return took


async def measure(name: str, ledger: Ledger, parts: Parts, records: int, limit: float) -> None:
    await ledger.open(lambda jobs: None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            await ledger.jobs.submit("ext_new", "sid_new", REQUEST, "procedural", now=1)
            quiet, done, over = await reads(ledger), asyncio.Event(), threading.Event()
            syncing = asyncio.create_task(asyncio.to_thread(syncs, Path(folder) / "synced", over))
            begun = time.perf_counter()
            busy, deleted = await asyncio.gather(reads(ledger, done), prune(ledger, parts, records, limit, done))
            seconds = time.perf_counter() - begun
            over.set()
        finally:
            await ledger.close()
        print(f"{name}: {deleted / seconds:,.0f} of {records:,} records a second; milliseconds, p50, p99, longest:")
        took = {"statements of a transaction": parts.statements, "its commit": parts.commits, "its CPU": parts.cpu}
        took["both, in which other writes wait"] = list(map(sum, zip(parts.statements, parts.commits, strict=True)))
        took["a sync"] = await syncing
        for what, values in (took | {"a read before": quiet, "a read during it": busy}).items():
            print(f"  {what}: {statistics.median(values):.2f}, {_p99(values):.2f}, {max(values):.1f}")
        print(f"  load of the machine: {os.getloadavg()[0]:.1f}")


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
        parts = Parts()
        asyncio.run(measure("SQLite", SqliteLedger(file, parts.committed), parts, records, limit))
    server = PostgresServer("synchronous_commit=on").start()
    try:
        url = PostgresDatabases(server).create()
        fill(PostgresTables(url), records)
        parts = Parts()
        asyncio.run(measure("PostgreSQL", PostgresLedger(url, parts.committed), parts, records, limit))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
