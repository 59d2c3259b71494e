"""Files of deleted jobs are deleted immediately, or by retention after a failure or a restart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.domain.job import Change, Output, thumbnail_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Key
from umrgen.server.ledger.sql.database import SqlConnection
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_edits import AT_A_TIME, SLICE, JobEdits
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.retention import Retention, RetentionPolicy
from umrgen.testing import FakeClock

T = TypeVar("T")

CALLER = Caller(Key("key_1", b"", "sid_a", "mine", 1))


class StubbornBlobs(MemoryBlobStore):
    """A blob store that cannot delete while `stuck`."""

    stuck = False
    tries = 0

    async def delete(self, session_id: str, name: str) -> None:
        self.tries += 1
        if self.stuck:
            raise BlobStoreUnavailable("read-only")
        await super().delete(session_id, name)


class Edits:
    """Jobs with one image each, and the services that delete them."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger, self.clock, self.blobs = ledger, FakeClock(), StubbornBlobs()
        self.forgotten: list[tuple[str, str]] = []
        self.edits = JobEdits(ledger.jobs, ledger.outputs, self.blobs, self.clock, self.forget)
        lease = TaskLease(ledger.coordination, "retention", "worker", self.clock)
        keep = RetentionPolicy(0, 0, 0)
        self.retention = Retention(
            ledger.jobs, ledger.outputs, ledger.uploads, self.blobs, self.clock, keep, self.forget, lease
        )

    def forget(self, session_id: str, name: str) -> None:
        self.forgotten.append((session_id, name))

    async def draw(self, name: str) -> None:
        jobs, now = self.ledger.jobs, self.clock.now()
        await jobs.submit(name, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=now)
        (job,) = await jobs.claim("worker", now=now, lease_until=now + 1)
        output = Output(f"{name}.png", "sid_a", 3, "00" * 32, 512, 512)
        await self.blobs.put("sid_a", output.name, b"png")
        await self.blobs.put("sid_a", thumbnail_name(output.name), b"webp")
        await jobs.change(job.id, Change.COMPLETE, now=now, token=job.token, outputs=(output,))

    async def left(self) -> list[tuple[str, str]]:
        return await self.ledger.outputs.obsolete_files(now=2**50, limit=2000)


@pytest.fixture
async def edits() -> AsyncIterator[Edits]:
    ledger = MemoryLedger()
    await ledger.open(lambda jobs: None)
    yield Edits(ledger)
    await ledger.close()


async def test_the_files_of_many_jobs_are_deleted_and_forgotten(edits: Edits) -> None:
    ids = [f"ext_{number}" for number in range(SLICE + 3)]
    for job_id in ids:
        await edits.draw(job_id)
    result = await edits.edits.delete_many(CALLER, [*ids, "ext_none"])
    assert (result.deleted, result.unknown) == (ids, ["ext_none"])
    assert await edits.blobs.is_empty()
    assert {name for _, name in edits.forgotten} >= {f"{job_id}.png" for job_id in ids}, "caches drop them"
    assert await edits.left() == []


async def test_files_that_cannot_be_deleted_now_are_deleted_by_retention(edits: Edits) -> None:
    await edits.draw("ext_1")
    edits.blobs.stuck = True
    await edits.edits.delete(CALLER, "ext_1")
    assert ("sid_a", "ext_1.png") in await edits.left()
    edits.blobs.stuck = False
    assert await edits.retention.once() > 0
    assert await edits.blobs.is_empty()
    assert await edits.left() == []


async def test_a_deletion_does_not_wait_for_a_blob_store_that_is_away_file_by_file(edits: Edits) -> None:
    """A try takes seconds while S3 does not respond."""
    ids = [f"ext_{number}" for number in range(2 * SLICE)]
    for job_id in ids:
        await edits.draw(job_id)
    edits.blobs.stuck = True
    assert (await edits.edits.delete_many(CALLER, ids)).deleted == ids
    assert edits.blobs.tries == AT_A_TIME
    assert {name for _, name in edits.forgotten} >= {f"{job_id}.png" for job_id in ids}, "caches drop them"
    edits.blobs.stuck = False
    await edits.retention.once()
    assert await edits.blobs.is_empty()


async def test_a_server_that_is_killed_after_the_record_deletes_the_files_after_its_restart(edits: Edits) -> None:
    await edits.draw("ext_1")
    await edits.ledger.jobs.delete("sid_a", ["ext_1"], now=edits.clock.now())
    await edits.ledger.close()
    await edits.ledger.open(lambda jobs: None)
    await edits.retention.once()
    assert await edits.blobs.is_empty()


async def test_an_unknown_job_cannot_be_deleted(edits: Edits) -> None:
    with pytest.raises(Refusal, match="does not exist"):
        await edits.edits.delete(CALLER, "ext_1")


class SlowReads:
    """The database of a ledger, whose results arrive when `arrive` is set: as from PostgreSQL, read in threads."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.read_once, self.arrive = asyncio.Event(), asyncio.Event()

    async def read(self, query: Callable[[SqlConnection], T]) -> T:
        result = await self._ledger.read(query)
        self.read_once.set()
        await self.arrive.wait()
        return result


async def test_a_read_that_began_before_a_deletion_does_not_bring_the_job_back(edits: Edits) -> None:
    await edits.draw("ext_1")
    database: Any = SlowReads(edits.ledger)
    store = SqlJobStore(database)
    reading = asyncio.create_task(store.get("ext_1"))
    await database.read_once.wait()
    await edits.edits.delete(CALLER, "ext_1")
    deleted = await edits.ledger.jobs.get("ext_1")
    assert deleted is not None
    store.observe([deleted])  # before the result of the read arrives
    database.arrive.set()
    assert await reading == await store.get("ext_1") == deleted
