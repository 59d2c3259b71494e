"""The registry of fingerprints: the time of a lookup among many images, and the bytes that each image adds.

    python benchmarks/registry.py [--images 1000000] [--postgres] [--folder FOLDER]

The digests and hashes are random. The tables are filled with what `index` would write of 131,072 images at a time; one
by one, that takes an hour. The lookups take turns: a hash that differs from a stored one in 31 bits, a file that
is stored, and one that is neither. The bytes are those of the registry's tables and indexes, without the jobs. CPU time
is this process's; that of PostgreSQL's is not in it. A ledger in SQLite that is in FOLDER is used again.
"""

import argparse
import asyncio
import random
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import psycopg

from umrgen.server.ledger import FingerprintStore
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sql.bands import SEGMENT, band_keys, digest_key
from umrgen.server.ledger.sqlite.file import SqliteLedger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import PostgresDatabases, PostgresServer

LOOKUPS = 300
BATCH = 131_072
"""Images of one transaction; a multiple of a group's."""
TABLES = ("new_fingerprints", "fingerprints", "fingerprint_bands")
GROUPS = "INSERT INTO fingerprints (number, engines, records) VALUES"
BANDS = "INSERT INTO fingerprint_bands (key, members)"
MERGED = "ON CONFLICT (key) DO UPDATE SET members = CAST(fingerprint_bands.members || excluded.members AS {})"
IN_SQLITE = f"{BANDS} VALUES (?, ?) {MERGED.format('BLOB')}"
IN_POSTGRES = " ".join((BANDS, "SELECT key, members FROM batch", MERGED.format("BYTEA")))

GROUP = 16
RECORD = struct.Struct(">16s32sIIB")
"""As in `ledger/sql/fingerprints.py`."""

Images = list[tuple[bytes, bytes]]


Rows = list[tuple[int, bytes]]


def batches(images: Images) -> Iterator[tuple[Rows, Rows]]:
    """Yield the numbers and records of the groups of BATCH images each, and their keys with their members."""
    for start in range(0, len(images) // GROUP * GROUP, BATCH):
        members: dict[int, dict[int, None]] = defaultdict(dict)
        records: dict[int, bytes] = defaultdict(bytes)
        for at, (sha256, pdq) in enumerate(images[start : start + BATCH], start):
            records[at // GROUP] += RECORD.pack(sha256[:16], pdq, at, at + 1, 0)
            segment, low = divmod(at // GROUP, SEGMENT)
            for key in (digest_key(sha256, segment), *band_keys(pdq, segment)):
                members[key][low] = None
        yield (
            list(records.items()),
            [(key, struct.pack(f">{len(lows)}H", *lows)) for key, lows in sorted(members.items())],
        )


async def lookups(store: FingerprintStore, images: Images) -> None:
    """Print the time of LOOKUPS lookups, and check their results."""
    source, took, cpu = random.Random(2), [], []
    for turn in range(LOOKUPS):
        sha256, pdq = source.choice(images)
        if turn % 3 != 1:
            sha256 = source.randbytes(32)
        flips = sum(1 << bit for bit in source.sample(range(256), 31))
        near = (int.from_bytes(pdq) ^ flips).to_bytes(32) if turn % 3 == 0 else pdq
        wanted = source.randbytes(32) if turn % 3 == 2 else near
        began = time.perf_counter(), time.process_time()
        found = await store.find(sha256, wanted)
        took.append((time.perf_counter() - began[0]) * 1000)
        cpu.append((time.process_time() - began[1]) * 1000)
        assert (found and (found.exact, found.distance)) == ((False, 31), (True, 0), None)[turn % 3]
    for what, times in (("time", took), ("CPU time", cpu)):
        p99 = sorted(times)[int(LOOKUPS * 0.99)]
        print(f"  {what} of a lookup: first {times[0]:.1f} ms, median {statistics.median(times):.1f}, p99 {p99:.1f}")


async def sqlite(images: Images, kept: str | None) -> None:
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        new = not path.exists()
        ledger = SqliteLedger(path)
        await ledger.open()
        for batch in batches(images) if new else ():
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.executemany(f"{GROUPS} (?, '[\"procedural\"]', ?)", batch[0])
                connection.executemany(IN_SQLITE, batch[1])
        await lookups(ledger.fingerprints, images)
        await ledger.close()
        with closing(sqlite3.connect(path)) as connection:
            pages = "SELECT sum(pgsize) FROM dbstat WHERE name IN (?, ?, ?)"
            (size,) = connection.execute(pages, TABLES).fetchone()
        print(f"  {size / len(images):.1f} bytes an image")


async def postgres(images: Images) -> None:
    server = PostgresServer("synchronous_commit=on", "max_wal_size=2GB").start()
    try:
        await _postgres(PostgresDatabases(server).create(), images)
    finally:
        server.remove()


async def _postgres(url: str, images: Images) -> None:
    ledger = PostgresLedger(url)
    await ledger.open()
    with psycopg.connect(url, autocommit=True) as connection:
        for groups, keys in batches(images):
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(f"{GROUPS} (%s, '[\"procedural\"]', %s)", groups)
                cursor.execute("CREATE TEMP TABLE batch (key BIGINT, members BYTEA) ON COMMIT DROP")
                with cursor.copy("COPY batch FROM STDIN") as copy:
                    for row in keys:
                        copy.write_row(row)
                cursor.execute(IN_POSTGRES)
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
    parser.add_argument("--folder")
    options = parser.parse_args()
    source = random.Random(1)
    images = [(source.randbytes(32), source.randbytes(32)) for _ in range(options.images)]
    print(f"{options.images} images, in {'PostgreSQL' if options.postgres else 'SQLite'}:")
    asyncio.run(postgres(images) if options.postgres else sqlite(images, options.folder))


if __name__ == "__main__":
    main()
