"""The registry of fingerprints: the time of a lookup among many images, and the bytes that each image adds.

    python benchmarks/registry.py [--images 1000000] [--postgres]

The digests and hashes are random. The lookups take turns: a hash that differs from a stored one in 31 bits, a file that
is stored, and one that is neither. The bytes are those of the registry's tables and indexes, without the jobs.
"""

import argparse
import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg

from umrgen.server.ledger import FingerprintStore
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sqlite.file import SqliteLedger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresDatabases, PostgresServer

LOOKUPS = 300
BATCH = 131_072
"""Images that are written, and indexed, in one transaction."""
TABLES = ("new_fingerprints", "fingerprints", "fingerprint_bands")
INSERT = "INSERT INTO new_fingerprints (position, sha256, pdq, created_at, engine, job_seq) VALUES"

Images = list[tuple[bytes, bytes]]


def batches(images: Images) -> Iterator[list[tuple[int, bytes, bytes, int, str, int]]]:
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        yield [(at, sha256, pdq, at * 1000, "procedural", at + 1) for at, (sha256, pdq) in enumerate(batch, start)]


async def lookups(store: FingerprintStore, images: Images) -> None:
    """Print the time of LOOKUPS lookups, and check their results."""
    source, took = random.Random(2), []
    for turn in range(LOOKUPS):
        sha256, pdq = source.choice(images)
        if turn % 3 != 1:
            sha256 = source.randbytes(32)
        flips = sum(1 << bit for bit in source.sample(range(256), 31))
        near = (int.from_bytes(pdq) ^ flips).to_bytes(32) if turn % 3 == 0 else pdq
        wanted = source.randbytes(32) if turn % 3 == 2 else near
        began = time.perf_counter()
        found = await store.find(sha256, wanted)
        took.append((time.perf_counter() - began) * 1000)
        assert (found and (found.exact, found.distance)) == ((False, 31), (True, 0), None)[turn % 3]
    took.sort()
    print(f"  lookup: {statistics.median(took):.1f} ms (median), {took[int(LOOKUPS * 0.99)]:.1f} ms (p99)")


async def sqlite(images: Images) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        ledger = SqliteLedger(path)
        await ledger.open()
        for batch in batches(images):
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.executemany(f"{INSERT} (?, ?, ?, ?, ?, ?)", batch)
            await ledger.fingerprints.index(groups=BATCH)
        await lookups(ledger.fingerprints, images)
        await ledger.close()
        with closing(sqlite3.connect(path)) as connection:
            pages = "SELECT sum(pgsize) FROM dbstat WHERE name IN (?, ?, ?)"
            (size,) = connection.execute(pages, TABLES).fetchone()
        print(f"  {size / len(images):.1f} bytes an image")


async def postgres(images: Images) -> None:
    with PostgresServer() as server:
        url = PostgresDatabases(server.url).create()
        ledger = PostgresLedger(url)
        await ledger.open()
        with psycopg.connect(url, autocommit=True) as connection:
            for batch in batches(images):
                with connection.transaction():
                    connection.cursor().executemany(f"{INSERT} (%s, %s, %s, %s, %s, %s)", batch)
                await ledger.fingerprints.index(groups=BATCH)
                connection.execute("VACUUM fingerprint_bands")
            connection.execute("ANALYZE")
            await lookups(ledger.fingerprints, images)
            sizes = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) AS name"
            row = connection.execute(sizes, [list(TABLES)]).fetchone()
            assert row is not None
            print(f"  {row[0] / len(images):.1f} bytes an image")
        await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    source = random.Random(1)
    images = [(source.randbytes(32), source.randbytes(32)) for _ in range(options.images)]
    print(f"{options.images} images, in {'PostgreSQL' if options.postgres else 'SQLite'}:")
    asyncio.run((postgres if options.postgres else sqlite)(images))


if __name__ == "__main__":
    main()
