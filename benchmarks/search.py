"""Searching a session's jobs: the time of a page, and the longest time that the event loop is blocked.

.venv/bin/python benchmarks/search.py [--jobs 100000] [--postgres URL]
"""

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import JobFilter, Ledger
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sqlite.file import SqliteLedger

WORDS = ("light", "house", "sea", "dusk", "red", "blue", "stone", "bridge", "forest", "moon", "portrait", "boat", "old")
FILTERS = {
    "no filter": JobFilter(),
    "a word of most prompts": JobFilter(words=("light",)),
    "a word of the first job": JobFilter(words=("zeppelin",)),
    "no match": JobFilter(words=("light", "absent")),
    "the first ten jobs by date": JobFilter(until=10),
}


async def fill(ledger: Ledger, count: int) -> None:
    choose = random.Random(1)

    async def submit(number: int) -> None:
        prompt = " ".join(choose.choices(WORDS, k=choose.randint(8, 60))) + (" zeppelin" if number == 0 else "")
        request = GenerationRequest(prompt, seed=number)
        await ledger.jobs.submit(f"ext_{number}", "sid_a", request, "procedural", now=number)

    for start in range(0, count, 2000):
        await asyncio.gather(*(submit(number) for number in range(start, min(count, start + 2000))))


async def longest_block(until: "asyncio.Task[object]") -> float:
    longest, last = 0.0, time.perf_counter()
    while not until.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def measure(ledger: Ledger, count: int) -> None:
    await ledger.open(lambda jobs: None)
    try:
        await fill(ledger, count)
        for name, where in FILTERS.items():
            found = []
            for _ in range(5):
                begun = time.perf_counter()
                page = asyncio.create_task(ledger.jobs.page("sid_a", where=where, limit=48, before=None))
                blocked = await longest_block(page)
                found.append((time.perf_counter() - begun, blocked, len(page.result()[0])))
            took, blocked, jobs = sorted(found)[2]
            print(f"{name}: {jobs} jobs in {took * 1000:.1f} ms; the loop was blocked for {blocked * 1000:.1f} ms")
    finally:
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--postgres")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        asyncio.run(measure(PostgresLedger(given.postgres) if given.postgres else SqliteLedger(path), given.jobs))


if __name__ == "__main__":
    main()
