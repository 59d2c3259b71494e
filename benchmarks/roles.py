"""Servers and workers on one PostgreSQL: waking a long poll, the time between two jobs, and more workers.

    .venv/bin/python benchmarks/roles.py [long_poll | idle_slot | workers | writers]

All processes, PostgreSQL included, run on the same cores, with images in a folder. PostgreSQL syncs each commit.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import psycopg
from rig import run

from umrgen.server.ledger.postgres.ledger import PostgresLedger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import itertools

from worker_process import worker

from postgres import PostgresServer
from support import SMALL, UNLIMITED, ServerProcess, server, until

BODY = {"prompt": "a boat"} | SMALL
PYTHONPATH = str(Path(__file__).parent)


def engine(seconds: float, notes: Path | None = None) -> tuple[str, ...]:
    """Return the options of a worker whose engine takes so long."""
    options = ("--engine", "timed_engine:TimedEngine", "--engine-option", f"seconds={seconds}")
    return (*options, "--engine-option", f"notes={notes}") if notes else options


@contextmanager
def api(folder: Path, ledger: str, number: int = 1) -> Iterator[tuple[ServerProcess, tuple[str, ...]]]:
    """Run a server without engines; yield it and the options of its workers."""
    shared = ("--ledger", ledger, "--blobs", f"local:{folder / 'images'}")
    name = "timed_engine:TimedEngine"
    options = (*UNLIMITED, *shared, "--no-engines", "--engine", name, "--session-queued", "10000000", "--held", "1000")
    with server(folder / f"api{number}", *options) as running:
        yield running, shared


@contextmanager
def postgres() -> Iterator[str]:
    running = PostgresServer("synchronous_commit=on", "max_connections=200").start()
    try:
        yield running.url("postgres")
    finally:
        running.remove()


def submit(http: httpx2.Client, count: int) -> list[str]:
    return [http.post("/api/v1/generate", json=BODY).json()["job_id"] for _ in range(count)]


def quantiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {statistics.median(values):.1f} ms, p99 {cuts[98]:.1f} ms, at most {max(values):.1f} ms"


def long_poll(folder: Path, count: int = 200) -> None:
    """The time from the end of a job at a worker to the response of a long poll at a server."""
    late: list[float] = []
    with (
        postgres() as url,
        api(folder, url) as (running, shared),
        running.http() as http,
        worker(folder / "worker", *shared, *engine(0.1), PYTHONPATH=PYTHONPATH),
    ):
        for _ in range(count):
            job_id = submit(http, 1)[0]
            response = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=30"})
            ended = time.time()
            late.append((ended - _completed_at(url, job_id)) * 1000)
            assert response.json()["state"] == "completed"
    print(f"long poll at A, job ended by worker B, {count} jobs: {quantiles(late)}, the commit included")


def _completed_at(url: str, job_id: str) -> float:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT completed_at FROM jobs WHERE id = %s", [job_id]).fetchone()
    assert row is not None
    return float(row[0]) / 1000


def idle_slot(folder: Path, count: int = 200) -> None:
    """The time from the end of a drawing to the begin of the next one, as the engine sees it, with a full queue."""
    with postgres() as url:
        for name, ledger in (("SQLite", f"sqlite:{folder / 'ledger.sqlite3'}"), ("PostgreSQL", url)):
            notes, place = folder / f"{name}.txt", folder / name
            with api(place, ledger) as (running, shared), running.http() as http:
                jobs = submit(http, count)
                with worker(place / "worker", *shared, *engine(0.05, notes), PYTHONPATH=PYTHONPATH):
                    until(lambda http=http, jobs=jobs: _all_completed(http, jobs), 120)
            times = [tuple(map(float, line.split())) for line in notes.read_text().splitlines()]
            gaps = [(begun - ended) * 1000 for (_, ended), (begun, _) in itertools.pairwise(times)]
            print(f"idle slot to the next job's start, {name}, {len(gaps)} times: {quantiles(gaps)}")


def _all_completed(http: httpx2.Client, jobs: list[str]) -> bool:
    last = http.get(f"/api/v1/status/{jobs[-1]}").json()["state"] == "completed"
    return last and http.get("/api/v1/capabilities").json()["queued"] == 0


def workers(folder: Path, each: int = 10) -> None:
    """Jobs a second of 1 and of 8 workers, whose engines take 2 s for a job."""
    rates: dict[int, float] = {}
    with postgres() as url:
        for count in (1, 8):
            place = folder / str(count)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
            with api(place, url, count) as (running, shared), running.http() as http, ExitStack() as stack:
                for number in range(count):
                    made = worker(place / f"worker{number}", *shared, *engine(2.0), PYTHONPATH=PYTHONPATH)
                    stack.enter_context(made)
                until(lambda url=url, count=count: _ready(url) == count, 60)
                submit(http, count * each)
                until(lambda http=http: http.get("/api/v1/capabilities").json()["queued"] == 0, 120)
                until(lambda url=url, total=count * each: _completed(url) == total, 60)
            rates[count] = _rate(url)
            print(f"{count} workers: {rates[count]:.3f} jobs/s, {count * each} jobs, each of 2 s")
    print(f"8 workers over 8 × 1 worker: {rates[8] / (8 * rates[1]):.3f}")


def _ready(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM workers WHERE state = 'ready'").fetchone()
    return int(row[0]) if row else 0


def _completed(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM jobs WHERE state = 'completed' AND attempt = 1").fetchone()
    return int(row[0]) if row else 0


def _rate(url: str) -> float:
    """Return completed jobs a second, from the first claim to the last end."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*), max(completed_at) - min(claimed_at) FROM jobs").fetchone()
    assert row is not None
    return float(row[0]) / float(row[1]) * 1000


def writers(folder: Path, seconds: int = 5) -> None:
    """Transactions a second of servers that each write one thing at a time: they wait for the lock of one row."""
    with postgres() as url:
        for count in (1, 4, 16):
            print(f"{count} servers: {asyncio.run(_write(url, count, seconds)):,.0f} transactions/s in all")


async def _write(url: str, count: int, seconds: int) -> float:
    ledgers = [PostgresLedger(url) for _ in range(count)]
    for ledger in ledgers:
        await ledger.open()
    end, made = time.monotonic() + seconds, 0

    async def write(number: int, ledger: PostgresLedger) -> None:
        nonlocal made
        while time.monotonic() < end:
            await ledger.coordination.acquire(f"task {number}", "benchmark", now=1, until=2)
            made += 1

    await asyncio.gather(*(write(number, ledger) for number, ledger in enumerate(ledgers)))
    for ledger in ledgers:
        await ledger.close()
    return made / seconds


if __name__ == "__main__":
    run(__doc__, long_poll, idle_slot, workers, writers)
