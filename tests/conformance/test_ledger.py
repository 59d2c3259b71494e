"""The conformance suite of ledgers, run with each implementation."""

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psycopg
import pytest

from postgres import PostgresDatabases
from support import open_descriptors
from umrgen.model import State
from umrgen.server.domain.engine_info import EngineInfo
from umrgen.server.domain.job import Change, Conflict, Job, Output, output_name, thumbnail_name
from umrgen.server.domain.request import GenerationRequest, Lora, searchable
from umrgen.server.ledger import (
    ALL_BITS,
    DAY,
    NO_CAPS,
    Call,
    Caps,
    ClaimFilter,
    DailyLimit,
    Idempotency,
    IdempotencyConflict,
    JobCounts,
    JobFilter,
    Key,
    KnownImage,
    Ledger,
    LedgerDamaged,
    LedgerTooNew,
    LedgerUnavailable,
    LiveWorker,
    OutputExpired,
    QueueFull,
    Template,
    TemplatesFull,
    TooManyJobs,
    UnhashedImage,
    Upload,
    UploadsFull,
    Webhook,
    WebhookState,
)
from umrgen.server.ledger.postgres.connection import CHANNEL, PostgresAddress
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.postgres.pipeline import StatementPipeline
from umrgen.server.ledger.sql import pages, statements
from umrgen.server.ledger.sql.database import Row, SessionCounts, SqlConnection, Transaction
from umrgen.server.ledger.sql.job_changes import READ_AHEAD
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sql.statements import Dialect, load_migrations, load_statements
from umrgen.server.ledger.sqlite import connection as sqlite_connection
from umrgen.server.ledger.sqlite import file as sqlite_file
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.memory import MemoryLedger

SPEC = GenerationRequest("a lighthouse", seed=7, negative="fog", loras=(Lora("ink", 0.5),), reference_images=("a.png",))


class ObservedLedger:
    """A ledger, and the changes that it has reported."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.reported: list[Job] = []

    def on_commit(self, jobs: Sequence[Job]) -> None:
        self.reported += jobs

    async def submit(self, job_id: str, session: str = "sid_a", now: int = 1000, **options: int) -> Job:
        job, new = await self.ledger.jobs.submit(job_id, session, SPEC, "procedural", now=now, **options)
        assert new
        return job

    async def claim(self, now: int = 2000) -> Job:
        (job,) = await self.ledger.jobs.claim("worker", now=now, lease_until=now + 30_000)
        return job


def make_postgres(request: pytest.FixtureRequest) -> Ledger:
    databases: PostgresDatabases = request.getfixturevalue("postgres")
    return PostgresLedger(databases.create_schema())


@pytest.fixture(params=["sqlite", "memory", "postgres"])
async def observed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObservedLedger]:
    made = {
        "sqlite": lambda: SqliteLedger(tmp_path / "ledger.sqlite3"),
        "memory": MemoryLedger,
        "postgres": lambda: make_postgres(request),
    }
    ledger = made[request.param]()
    observed = ObservedLedger(ledger)
    await ledger.open(observed.on_commit)
    yield observed
    await ledger.close()


def make_output(name: str = "umrgen_7_aa.png", session: str = "sid_a") -> Output:
    return Output(name, session, 3, "00" * 32, 512, 512)


async def test_a_job_is_stored_as_submitted(observed: ObservedLedger) -> None:
    job = await observed.submit("ext_1")
    assert await observed.ledger.jobs.get("ext_1") == job
    assert job.request == SPEC
    assert job.state is State.QUEUED
    assert await observed.ledger.jobs.get("ext_2") is None
    assert observed.reported == [job]


async def test_each_job_has_a_random_output_key_that_it_keeps(observed: ObservedLedger) -> None:
    jobs = [await observed.submit(f"ext_{number}") for number in range(3)]
    assert len({job.output_key for job in jobs}) == 3
    assert all(len(job.output_key) == 32 for job in jobs)
    assert (await observed.claim()).output_key == jobs[0].output_key


async def test_jobs_are_claimed_in_the_order_of_their_submits(observed: ObservedLedger) -> None:
    for number in range(3):
        await observed.submit(f"ext_{number}")
    assert [(await observed.claim()).id for _ in range(3)] == ["ext_0", "ext_1", "ext_2"]
    assert await observed.ledger.jobs.claim("worker", now=2000, lease_until=3000) == []


async def test_sessions_take_turns_and_a_new_session_does_not_wait_for_a_backlog(observed: ObservedLedger) -> None:
    for number in range(3):
        await observed.submit(f"a{number}", "sid_a")
    assert (await observed.claim()).id == "a0"
    for number in range(2):
        await observed.submit(f"b{number}", "sid_b")
    await observed.submit("c0", "sid_c")
    waiting = [job for name in ("b0", "c0", "a1", "b1", "a2") if (job := await observed.ledger.jobs.get(name))]
    assert [await observed.ledger.jobs.queue_position(job) for job in waiting] == [1, 2, 3, 4, 5]
    assert [(await observed.claim()).id for _ in range(5)] == ["b0", "c0", "a1", "b1", "a2"]


async def test_a_priority_orders_only_the_jobs_of_its_session(observed: ObservedLedger) -> None:
    await observed.submit("a0", "sid_a")
    await observed.submit("a1", "sid_a", priority=5)
    await observed.submit("b0", "sid_b", priority=-5)
    assert [(await observed.claim()).id for _ in range(3)] == ["a1", "b0", "a0"]


async def test_jobs_of_a_session_at_its_running_cap_are_skipped(observed: ObservedLedger) -> None:
    for name in ("a0", "a1"):
        await observed.submit(name, "sid_a")
    await observed.submit("b0", "sid_b")
    capped = {"now": 2000, "lease_until": 9000, "running_cap": 1}
    claimed = [await observed.ledger.jobs.claim("worker", **capped) for _ in range(3)]
    assert [[job.id for job in jobs] for jobs in claimed] == [["a0"], ["b0"], []]
    await observed.ledger.jobs.change("a0", Change.CANCEL, now=2500)
    (again,) = await observed.ledger.jobs.claim("worker", **capped)
    assert again.id == "a1"


async def submit_for(observed: ObservedLedger, job_id: str, engine: str, model: str | None, session: str) -> None:
    request = msgspec.structs.replace(SPEC, model=model)
    await observed.ledger.jobs.submit(job_id, session, request, engine, now=1000)


async def test_a_worker_claims_only_jobs_for_its_engine_and_models(observed: ObservedLedger) -> None:
    """Jobs for others do not delay it: those of the same session, and those of more sessions than are read ahead."""
    for number in range(READ_AHEAD + 2):
        await submit_for(observed, f"other{number}", "other", None, f"sid_{number:02}")
    await submit_for(observed, "second", "painter", "second", "sid_a")
    await submit_for(observed, "first", "painter", "first", "sid_a")
    await submit_for(observed, "any", "painter", None, "sid_z")
    lease = {"now": 2000, "lease_until": 9000}
    first, every = ClaimFilter("painter", ("first",)), ClaimFilter("painter")
    assert [job.id for job in await observed.ledger.jobs.claim("w", only=every, **lease)] == ["any"]
    assert [job.id for job in await observed.ledger.jobs.claim("w", only=first, **lease)] == ["first"]
    assert await observed.ledger.jobs.claim("w", only=first, **lease) == []
    queued = await observed.ledger.workers.queued()
    assert queued == {("other", ""): READ_AHEAD + 2, ("painter", "second"): 1}
    assert len(await observed.ledger.jobs.claim("w", limit=99, **lease)) == READ_AHEAD + 3


async def test_a_worker_lives_until_its_report_expires_or_is_removed(observed: ObservedLedger) -> None:
    workers, info = observed.ledger.workers, EngineInfo("painter", "model", "1", models=("first",), default_cfg=3.5)
    one = LiveWorker("one", "painter", "ready", 2, info, until=5000)
    two = LiveWorker("two", "other", "loading", 0, None, until=9000)
    for worker in (replace(one, state="loading", info=None), one, two):
        await workers.report(worker, now=1000)
    assert await workers.live(now=4999) == [two, one]
    assert await workers.live(now=5000) == [two]
    await workers.report(two, now=5000)
    assert await workers.live(now=0) == [two], "the expired report is deleted"
    await workers.remove("two")
    assert await workers.live(now=0) == []


async def test_a_worker_of_another_version_does_not_hide_the_others(observed: ObservedLedger) -> None:
    workers, info = observed.ledger.workers, EngineInfo("painter", "model", "1")
    one = LiveWorker("one", "painter", "ready", 2, info, until=5000)
    await workers.report(one, now=1000)
    later = asdict(replace(one, id="later")) | {"info": '{"title": "a painter"}'}
    ledger: Any = observed.ledger
    await ledger.write(lambda transaction: transaction.connection.run("report_worker", later))
    assert await workers.live(now=1000) == [replace(one, id="later", info=None), one]


async def test_a_preview_is_kept_for_the_jobs_that_are_watched(observed: ObservedLedger) -> None:
    previews = observed.ledger.previews
    await previews.watch(["ext_1", "ext_2"], now=1000, until=5000)
    assert await previews.watched(["ext_1", "ext_3"], now=4999) == ["ext_1"]
    assert await previews.watched(["ext_1"], now=5000) == []
    assert await previews.newer({"ext_1": 0}, limit=9) == {}
    await previews.put({"ext_1": b"\x00one", "ext_3": b"unwatched"}, version=7)
    assert await previews.newer({"ext_1": 0, "ext_2": 0, "ext_3": 0}, limit=9) == {"ext_1": (7, b"\x00one")}
    assert await previews.newer({"ext_1": 7}, limit=9) == {}
    await previews.watch(["ext_1"], now=2000, until=6000)
    assert await previews.newer({"ext_1": 6}, limit=9) == {"ext_1": (7, b"\x00one")}, (
        "a renewed watch keeps the preview"
    )
    await previews.watch(["ext_4"], now=6000, until=9000)
    assert await previews.watched(["ext_1", "ext_2", "ext_4"], now=0) == ["ext_4"], "expired watches are deleted"
    await previews.remove(["ext_4"])
    assert await previews.watched(["ext_4"], now=0) == []


async def test_a_claim_ends_before_the_first_job_of_another_batch_key(observed: ObservedLedger) -> None:
    for name, steps in (("ext_1", 4), ("ext_2", 4), ("ext_3", 8), ("ext_4", 4)):
        request = msgspec.structs.replace(SPEC, steps=steps)
        await observed.ledger.jobs.submit(name, "sid_a", request, "procedural", now=1000)

    async def claim() -> list[str]:
        claimed = await observed.ledger.jobs.claim(
            "worker", now=2000, lease_until=3000, limit=9, batch_key=lambda request: request.steps
        )
        return [job.id for job in claimed]

    assert [await claim() for _ in range(4)] == [["ext_1", "ext_2"], ["ext_3"], ["ext_4"], []]


async def test_a_claim_of_several_jobs_has_the_order_of_single_claims(observed: ObservedLedger) -> None:
    for name in ("a0", "a1", "a2"):
        await observed.submit(name, "sid_a")
    for name in ("b0", "b1"):
        await observed.submit(name, "sid_b")
    first = await observed.ledger.jobs.claim("worker", now=2000, lease_until=9000, limit=3)
    assert [job.id for job in first] == ["a0", "b0", "a1"]
    assert len({job.changed for job in first}) == 3
    rest = await observed.ledger.jobs.claim("worker", now=2000, lease_until=9000, limit=99)
    assert [job.id for job in rest] == ["b1", "a2"]
    assert [job.id for job in observed.reported[-5:]] == ["a0", "b0", "a1", "b1", "a2"]


async def test_a_submit_beyond_the_queue_cap_of_the_session_is_refused(observed: ObservedLedger) -> None:
    used = Idempotency("key", b"digest")
    posted, _ = await observed.ledger.jobs.submit(
        "a0", "sid_a", SPEC, "procedural", now=1, idempotency=used, caps=Caps(queued=1)
    )
    with pytest.raises(QueueFull):
        await observed.submit("a1", "sid_a", caps=Caps(queued=1))
    await observed.submit("b0", "sid_b", caps=Caps(queued=1))
    again = await observed.ledger.jobs.submit(
        "a2", "sid_a", SPEC, "procedural", now=2, idempotency=used, caps=Caps(queued=1)
    )
    assert again == (posted, False), "a repeated submit creates no job"
    await observed.claim()
    await observed.submit("a3", "sid_a", caps=Caps(queued=1))


async def test_a_change_with_an_outdated_version_is_refused(observed: ObservedLedger) -> None:
    await observed.submit("ext_1")
    seen = await observed.claim()
    await observed.ledger.jobs.change("ext_1", Change.PROGRESS, now=2100, token=seen.token, lease_until=90_000)
    with pytest.raises(Conflict):
        await observed.ledger.jobs.change("ext_1", Change.RELEASE, now=2200, token=seen.token, version=seen.version)


async def test_recent_runs_are_newest_first(observed: ObservedLedger) -> None:
    for number in range(3):
        await observed.submit(f"ext_{number}")
    claimed = [await observed.claim(now=2000) for _ in range(3)]
    for job, now in ((claimed[1], 3000), (claimed[0], 4000)):
        await observed.ledger.jobs.change(
            job.id, Change.COMPLETE, now=now, token=job.token, outputs=(make_output(f"{job.id}.png"),)
        )
    assert [job.id for job in await observed.ledger.jobs.recent_runs(among=10)] == ["ext_1", "ext_0"]
    assert await observed.ledger.jobs.recent_runs(among=1) == []


async def test_a_queue_position_decreases_after_a_claim(observed: ObservedLedger) -> None:
    jobs = [await observed.submit(f"ext_{number}") for number in range(3)]
    assert [await observed.ledger.jobs.queue_position(job) for job in jobs] == [1, 2, 3]
    running = await observed.claim()
    assert await observed.ledger.jobs.queue_position(running) is None
    assert await observed.ledger.jobs.queue_position(jobs[2]) == 2
    assert await observed.ledger.jobs.count() == JobCounts(2, 1)


async def test_the_jobs_of_a_session_are_counted_by_day(observed: ObservedLedger) -> None:
    for number, (session, day) in enumerate((("sid_a", 5), ("sid_a", 6), ("sid_a", 6), ("sid_b", 6))):
        await observed.submit(f"ext_{number}", session, now=day * DAY)
    await observed.claim(now=6 * DAY)
    counts = observed.ledger.jobs.count
    assert await counts("sid_a", now=6 * DAY + 1) == JobCounts(2, 1, 2)
    assert await counts("sid_a", now=7 * DAY) == JobCounts(2, 1, 0)
    assert await counts("sid_b", now=6 * DAY) == JobCounts(1, 0, 1)
    assert await counts("sid_c", now=6 * DAY) == JobCounts(0, 0, 0)


async def test_a_job_is_completed_with_its_output(observed: ObservedLedger) -> None:
    await observed.submit("ext_1")
    running = await observed.claim()
    done = await observed.ledger.jobs.change(
        "ext_1", Change.COMPLETE, now=3000, token=running.token, outputs=(make_output(),), step=4
    )
    assert (done.state, done.completed_at, done.lease_until) == (State.COMPLETED, 3000, None)
    assert await observed.ledger.jobs.get("ext_1") == done
    assert await observed.ledger.outputs.get("sid_a", "umrgen_7_aa.png") == make_output()
    assert await observed.ledger.outputs.get("sid_b", "umrgen_7_aa.png") is None
    with pytest.raises(Conflict):
        await observed.ledger.jobs.change("ext_1", Change.CANCEL, now=4000)


async def test_a_worker_that_lost_its_lease_can_change_nothing(observed: ObservedLedger) -> None:
    await observed.submit("ext_1")
    first = await observed.claim()
    await observed.ledger.jobs.change("ext_1", Change.RELEASE, now=3000, token=first.token)
    second = await observed.claim(now=4000)
    assert (second.attempt, second.token) == (2, first.token + 1)
    for change in (Change.PROGRESS, Change.COMPLETE, Change.FAIL, Change.RELEASE):
        with pytest.raises(Conflict):
            await observed.ledger.jobs.change("ext_1", change, now=5000, token=first.token)
    assert await observed.ledger.jobs.get("ext_1") == second


async def test_jobs_with_an_expired_lease_are_found(observed: ObservedLedger) -> None:
    await observed.submit("ext_1")
    running = await observed.claim(now=2000)
    assert await observed.ledger.jobs.expired_leases(now=32_000) == []
    assert await observed.ledger.jobs.expired_leases(now=32_001) == [running]
    await observed.ledger.jobs.change("ext_1", Change.PROGRESS, now=20_000, token=running.token, lease_until=50_000)
    assert await observed.ledger.jobs.expired_leases(now=32_001) == []


async def test_concurrent_submits_with_one_idempotency_key_create_one_job(observed: ObservedLedger) -> None:
    async def post(number: int) -> tuple[Job, bool]:
        again = Idempotency("key", b"digest")
        return await observed.ledger.jobs.submit(
            f"ext_{number}", "sid_a", SPEC, "procedural", now=1000, idempotency=again
        )

    results = await asyncio.gather(*(post(number) for number in range(64)))
    assert len({job.id for job, _ in results}) == 1
    assert sum(new for _, new in results) == 1
    assert await observed.ledger.jobs.count() == JobCounts(1, 0)


class TestCapsInOneTransaction:
    """The operations of one transaction see each other's jobs, although the ledger reads for all of them before."""

    @staticmethod
    async def together(*operations: Coroutine[Any, Any, Any]) -> list[Any]:
        """Return the result of each, or the type of its error."""
        results = await asyncio.gather(*operations, return_exceptions=True)
        return [type(result) if isinstance(result, Exception) else True for result in results]

    @staticmethod
    async def submit(observed: ObservedLedger, job_id: str, caps: Caps = NO_CAPS, day: int = 0) -> None:
        await observed.ledger.jobs.submit(job_id, "sid_a", SPEC, "procedural", now=day * DAY, caps=caps)

    async def test_submits_count(self, observed: ObservedLedger) -> None:
        cap = Caps(queued=5)
        done = await self.together(*(self.submit(observed, f"ext_{number}", cap) for number in range(20)))
        assert done == [True] * 5 + [QueueFull] * 15

    async def test_other_changes_count(self, observed: ObservedLedger) -> None:
        """Of a submit without a cap, a cancellation, and a claim."""
        jobs, cap = observed.ledger.jobs, Caps(queued=2)
        await self.submit(observed, "ext_0", cap)
        assert await self.together(
            self.submit(observed, "ext_1"),
            self.submit(observed, "ext_2", cap),
            jobs.change("ext_0", Change.CANCEL, now=1),
            self.submit(observed, "ext_3", cap),
            jobs.claim("worker", now=1, lease_until=99),
            self.submit(observed, "ext_4", cap),
            self.submit(observed, "ext_5", cap),
        ) == [True, QueueFull, True, True, True, True, QueueFull]

    async def test_a_job_that_was_not_written_does_not_count(self, observed: ObservedLedger) -> None:
        cap = Caps(queued=2)
        done = await self.together(*(self.submit(observed, f"ext_{name}", cap) for name in "aabc"))
        assert [done[0], *done[2:]] == [True, True, QueueFull]
        assert done[1] is not True

    async def test_an_operation_that_failed_counts_nothing(self, observed: ObservedLedger) -> None:
        def fail(transaction: Transaction) -> None:
            transaction.counts["sid_a"] = SessionCounts(0, 9, 9, 9)
            raise ValueError

        database: Any = observed.ledger
        done = await self.together(database.write(fail), self.submit(observed, "ext_1", Caps(queued=2)))
        assert done == [ValueError, True]

    async def test_each_day_counts_its_own(self, observed: ObservedLedger) -> None:
        cap = Caps(daily=1)
        days = (self.submit(observed, f"ext_{number}", cap, day) for number, day in enumerate((0, 0, 1, 1)))
        assert await self.together(*days) == [True, DailyLimit, True, DailyLimit]

    async def test_the_idempotency_key_of_a_deleted_job_is_free(self, observed: ObservedLedger) -> None:
        jobs, once = observed.ledger.jobs, Idempotency("once", b"body")
        await jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1, idempotency=once)
        _, (job, new) = await asyncio.gather(
            jobs.delete("sid_a", ["ext_1"], now=2),
            jobs.submit("ext_2", "sid_a", SPEC, "procedural", now=2, idempotency=once),
        )
        assert (job.id, new) == ("ext_2", True)


async def test_an_idempotency_key_with_another_body_is_a_conflict_for_a_day(observed: ObservedLedger) -> None:
    async def post(job_id: str, session: str, digest: bytes, now: int) -> tuple[Job, bool]:
        used = Idempotency("key", digest)
        return await observed.ledger.jobs.submit(job_id, session, SPEC, "procedural", now=now, idempotency=used)

    await post("ext_1", "sid_a", b"one", 0)
    with pytest.raises(IdempotencyConflict):
        await post("ext_2", "sid_a", b"two", 1000)
    assert (await post("ext_3", "sid_b", b"two", 1000))[1], "the same key of another session is independent"
    assert (await post("ext_4", "sid_a", b"two", 24 * 3600 * 1000 + 1))[1], "after 24 h the key can be used again"


async def test_pages_are_newest_first_and_of_one_session(observed: ObservedLedger) -> None:
    for number in range(5):
        await observed.submit(f"ext_{number}")
    await observed.submit("ext_other", session="sid_b")
    first, cursor = await observed.ledger.jobs.page("sid_a", limit=2, before=None)
    second, cursor = await observed.ledger.jobs.page("sid_a", limit=2, before=cursor)
    third, end = await observed.ledger.jobs.page("sid_a", limit=2, before=cursor)
    assert [job.id for job in first + second + third] == [f"ext_{number}" for number in (4, 3, 2, 1, 0)]
    assert end is None
    running = await observed.claim()
    assert (await observed.ledger.jobs.page("sid_a", where=JobFilter(State.RUNNING), limit=9, before=None))[0] == [
        running
    ]


async def test_several_jobs_are_read_in_one_call(observed: ObservedLedger) -> None:
    jobs = [await observed.submit(f"ext_{number}") for number in range(3)]
    found = await observed.ledger.jobs.get_many(["ext_2", "ext_0", "ext_9"])
    assert {job.id: job for job in found} == {"ext_0": jobs[0], "ext_2": jobs[2]}
    changes = await observed.ledger.jobs.changes(["ext_2", "ext_0", "ext_9"])
    assert changes == {job.id: ("sid_a", job.changed) for job in (jobs[0], jobs[2])}


async def test_a_change_of_state_gets_a_change_number_and_progress_does_not(observed: ObservedLedger) -> None:
    queued = await observed.submit("ext_1")
    running = await observed.claim()
    progressed = await observed.ledger.jobs.change(
        "ext_1", Change.PROGRESS, now=2500, token=running.token, step=1, lease_until=9999
    )
    assert queued.changed < running.changed == progressed.changed
    assert progressed.version > running.version


async def test_a_batch_that_is_larger_than_the_buffers_of_a_connection_is_committed(observed: ObservedLedger) -> None:
    """Megabytes of prompts, of jobs that are submitted together; PostgreSQL responds when it has received all."""
    request = msgspec.structs.replace(SPEC, prompt="\N{SAILBOAT}\N{VARIATION SELECTOR-16}" * 1000)
    async with asyncio.timeout(30):
        made = await asyncio.gather(
            *(
                observed.ledger.jobs.submit(f"ext_{number}", "sid_a", request, "procedural", now=1)
                for number in range(200)
            )
        )
    assert all(new for _, new in made)
    assert await observed.ledger.jobs.count() == JobCounts(200, 0)


@pytest.mark.timeout(20)
def test_a_statement_may_be_larger_than_the_buffers_of_a_connection(postgres: PostgresDatabases) -> None:
    with closing(PostgresAddress(postgres.create_schema()).connect()) as connection:
        pipeline = StatementPipeline(connection)
        results = [pipeline.send(b"SELECT length($1::text)", ["x" * 3_000_000]) for _ in range(2)]
        pipeline.sync()
        assert [result.rows() for result in results] == [[[3_000_000]]] * 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_other_servers_are_observed_again_after_a_failure(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that wait for a job of another server would otherwise not end before their time limit."""
    failed, observed = asyncio.Event(), asyncio.Event()

    def observe(jobs: Sequence[Job]) -> None:
        if failed.is_set():
            observed.set()
        else:
            failed.set()
            raise RuntimeError("a defect")

    url = request.getfixturevalue("postgres").create_schema() if kind == "postgres" else ""
    one, other = (PostgresLedger(url) if url else SqliteLedger(tmp_path / "ledger.sqlite3") for _ in range(2))
    await one.open(lambda jobs: None, observe)
    await other.open()
    async with asyncio.timeout(20):
        if url:
            with psycopg.connect(url, autocommit=True) as foreign:
                foreign.execute("SELECT pg_notify(%s, 'not a number')", [CHANNEL])
        await other.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1)
        await failed.wait()
        await other.jobs.submit("ext_2", "sid_a", SPEC, "procedural", now=2)
        await observed.wait()
    assert caplog.text.count("changes of other servers could not be observed") == 1
    await one.close()
    await other.close()


async def test_a_claim_without_a_job_commits_nothing(observed: ObservedLedger) -> None:
    """Else each worker that finds no job would sync the disk, and wake all others, under the lock of the clock."""
    before = await observed.ledger.jobs.last_change()
    assert await observed.ledger.jobs.claim("worker", now=1, lease_until=99, limit=3) == []
    assert await observed.ledger.jobs.last_change() == before
    assert (await observed.submit("ext_1")).changed == before + 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_another_server_may_draw_the_numbers_of_a_claim_without_a_job(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """They are not mistaken for numbers of this server, whose changes it has observed already."""
    observed = asyncio.Event()
    url = request.getfixturevalue("postgres").create_schema() if kind == "postgres" else ""
    one, other = (PostgresLedger(url) if url else SqliteLedger(tmp_path / "ledger.sqlite3") for _ in range(2))
    await one.open(lambda jobs: None, lambda jobs: observed.set())
    await other.open()
    async with asyncio.timeout(20):
        assert await one.jobs.claim("worker", now=1, lease_until=99) == []
        await other.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1)
        await observed.wait()
    await one.close()
    await other.close()


async def test_a_failing_change_does_not_affect_the_others_of_its_batch(observed: ObservedLedger) -> None:
    await observed.submit("ext_1")
    results = await asyncio.gather(
        observed.submit("ext_2"),
        observed.ledger.jobs.change("ext_1", Change.COMPLETE, now=1, outputs=(make_output(),)),
        observed.ledger.jobs.change("ext_0", Change.CANCEL, now=1),
        observed.submit("ext_3"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Job, Conflict, KeyError, Job]
    assert [job.id for job in observed.reported] == ["ext_1", "ext_2", "ext_3"]


async def test_a_change_that_fails_after_its_first_statement_is_rolled_back(observed: ObservedLedger) -> None:
    """The row of the second job is written first; then the row of its output violates the unique name."""
    for job_id in ("ext_1", "ext_2"):
        await observed.submit(job_id)
    first, second = await observed.claim(), await observed.claim()
    complete = {"now": 3000, "outputs": (make_output(),), "step": 4}
    await observed.ledger.jobs.change(first.id, Change.COMPLETE, token=first.token, **complete)
    with pytest.raises(Exception, match=r"(?i)unique"):
        await observed.ledger.jobs.change(second.id, Change.COMPLETE, token=second.token, **complete)
    (now,) = await observed.ledger.jobs.get_many([second.id])
    assert (now.state, now.version) == (State.RUNNING, second.version)
    failed = await observed.ledger.jobs.change(second.id, Change.FAIL, now=4000, token=second.token, error_code="x")
    assert failed.state is State.FAILED


async def test_keys_are_found_by_hash_and_revoked_once(observed: ObservedLedger) -> None:
    key = Key("key_1", b"h" * 32, "sid_a", "mine", 1000)
    await observed.ledger.keys.add(key)
    assert await observed.ledger.keys.find(b"h" * 32) == key
    assert await observed.ledger.keys.find(b"x" * 32) is None
    assert await observed.ledger.keys.get("key_1") == key
    assert await observed.ledger.keys.get("key_2") is None
    assert await observed.ledger.keys.revoke("key_1", now=2000)
    assert await observed.ledger.keys.revoke("key_1", now=3000)
    assert not await observed.ledger.keys.revoke("key_2", now=3000)
    assert [found.revoked_at for found in await observed.ledger.keys.all()] == [2000]
    assert [await observed.ledger.keys.delete("key_1") for _ in range(2)] == [True, False]
    assert await observed.ledger.keys.all() == []


class TestWebhooks:
    """The message about the end of a job is stored in the transaction that ends the job."""

    URL = "https://hooks.example:8443/umrgen?a=1"

    async def over(
        self, observed: ObservedLedger, job_id: str, session: str = "sid_a", url: str = URL, now: int = 3000
    ) -> None:
        spec = msgspec.structs.replace(SPEC, webhook_url=url)
        await observed.ledger.jobs.submit(job_id, session, spec, "procedural", now=1000, key_id="key_1")
        await observed.ledger.jobs.change(job_id, Change.CANCEL, now=now, error="cancelled", error_code="cancelled")

    async def due(self, observed: ObservedLedger, now: int = 5000, **but: Sequence[str]) -> list[str]:
        return [webhook.job_id for webhook in await observed.ledger.webhooks.due(now=now, limit=10, **but)]

    async def test_each_end_of_a_job_makes_its_webhook_due(self, observed: ObservedLedger) -> None:
        spec = msgspec.structs.replace(SPEC, webhook_url=self.URL)
        for name in ("ext_1", "ext_2", "ext_3"):
            await observed.ledger.jobs.submit(name, "sid_a", spec, "procedural", now=1000, key_id="key_1")
        await observed.submit("ext_4")
        first, second = await observed.claim(), await observed.claim()
        assert await self.due(observed) == []
        await observed.ledger.jobs.change(
            "ext_1", Change.COMPLETE, now=3000, token=first.token, outputs=(make_output("ext_1.png"),)
        )
        await observed.ledger.jobs.change(
            "ext_2", Change.FAIL, now=3001, token=second.token, error="no", error_code="no"
        )
        for name in ("ext_3", "ext_4"):
            await observed.ledger.jobs.change(name, Change.CANCEL, now=3002)
        assert await self.due(observed) == ["ext_1", "ext_2", "ext_3"], "a job without a webhook_url has none"
        found = (await observed.ledger.webhooks.of_jobs(["ext_1", "ext_4", "ext_9"]))["ext_1"]
        assert found.id.startswith("msg_")
        assert found == Webhook(
            found.id, "ext_1", "sid_a", "key_1", self.URL, "hooks.example", WebhookState.PENDING, 0, 3000, 3000
        )

    async def test_a_refused_end_creates_no_webhook(self, observed: ObservedLedger) -> None:
        await self.over(observed, "ext_1")
        with pytest.raises(Conflict):
            await observed.ledger.jobs.change("ext_1", Change.CANCEL, now=4000)
        assert await self.due(observed) == ["ext_1"]

    async def test_an_invalid_url_does_not_prevent_the_end_of_its_job(self, observed: ObservedLedger) -> None:
        for number, url in enumerate(("http://[", "nonsense", "http://[::1]:x/", "//")):
            await self.over(observed, f"ext_{number}", url=url)
        assert len(await self.due(observed)) == 4

    async def test_due_excludes_hosts_sessions_and_ids(self, observed: ObservedLedger) -> None:
        await self.over(observed, "ext_1", now=3003)
        await self.over(observed, "ext_2", "sid_b", now=3002)
        await self.over(observed, "ext_3", "sid_c", "http://other.example/", now=3001)
        await self.over(observed, "ext_4", "sid_c", "http://third.example/", now=6000)
        assert await self.due(observed) == ["ext_3", "ext_2", "ext_1"], "the earliest due time first"
        assert await self.due(observed, hosts=["hooks.example"]) == ["ext_3"]
        assert await self.due(observed, sessions=["sid_b", "sid_c"]) == ["ext_1"]
        second = (await observed.ledger.webhooks.of_jobs(["ext_2"]))["ext_2"]
        assert await self.due(observed, ids=[second.id]) == ["ext_3", "ext_1"]
        assert len(await observed.ledger.webhooks.due(now=5000, limit=1)) == 1
        assert await observed.ledger.webhooks.next_at(after=5000) == 6000
        assert await observed.ledger.webhooks.next_at(after=6000) is None

    async def test_an_attempt_is_recorded_and_a_delivery_is_final(self, observed: ObservedLedger) -> None:
        await self.over(observed, "ext_1")
        (webhook,) = await observed.ledger.webhooks.due(now=5000, limit=1)
        retried = {
            "state": WebhookState.PENDING,
            "attempts": 1,
            "next_at": 9000,
            "last_error": "the receiver responded 500",
        }
        assert await observed.ledger.webhooks.record_attempt(webhook.id, **retried)
        assert await self.due(observed) == []
        assert await self.due(observed, now=9000) == ["ext_1"]
        delivered = {"state": WebhookState.DELIVERED, "attempts": 2, "delivered_at": 9100}
        assert await observed.ledger.webhooks.record_attempt(webhook.id, **delivered)
        assert not await observed.ledger.webhooks.record_attempt(webhook.id, **retried)
        expected = replace(webhook, next_at=None, **delivered)
        assert await observed.ledger.webhooks.of_jobs(["ext_1"]) == {"ext_1": expected}
        assert await observed.ledger.webhooks.next_at(after=0) is None

    async def test_a_job_has_the_id_of_its_key(self, observed: ObservedLedger) -> None:
        await self.over(observed, "ext_1")
        job = await observed.ledger.jobs.get("ext_1")
        assert job is not None
        assert job.key_id == "key_1"
        assert (await observed.submit("ext_2")).key_id == ""


class TestSqliteFile:
    """Tests of the ledger's file."""

    async def test_a_job_is_found_after_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite3"
        ledger = SqliteLedger(path)
        await ledger.open()
        await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
        await ledger.close()
        again = SqliteLedger(path)
        await again.open()
        found = await again.jobs.get("ext_1")
        await again.close()
        assert found is not None
        assert found.request == SPEC

    async def test_a_newer_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 999")
        with pytest.raises(LedgerTooNew):
            await SqliteLedger(path).open()
        assert open_descriptors(tmp_path) == []

    async def test_a_file_that_is_no_ledger_is_closed_after_the_error(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite3"
        path.write_bytes(b"This is no database. " * 400)
        with pytest.raises(LedgerDamaged, match="not a database"):
            await SqliteLedger(path).open()
        assert open_descriptors(tmp_path) == []

    async def test_a_migration_that_fails_leaves_nothing_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_connection, "load_migrations", lambda package: ["CREATE TABLE t (x);", "NO SQL;"])
        with pytest.raises(sqlite3.OperationalError):
            await SqliteLedger(tmp_path / "ledger.sqlite3").open()
        assert open_descriptors(tmp_path) == []

    async def test_a_start_that_fails_after_the_first_connection_leaves_nothing_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fails(jobs: SqlJobStore) -> int:
            raise LedgerUnavailable("the disk is gone")

        monkeypatch.setattr(SqlJobStore, "last_change", fails)
        with pytest.raises(LedgerUnavailable):
            await SqliteLedger(tmp_path / "ledger.sqlite3").open()
        assert open_descriptors(tmp_path) == []

    async def test_a_second_connection_that_fails_leaves_nothing_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = sqlite_file.connect
        made: list[sqlite3.Connection] = []

        def fails_after_two(path: Path, *, busy_seconds: float = 5.0) -> sqlite3.Connection:
            if len(made) == 2:  # one for the schema, one for reading
                raise sqlite3.OperationalError("unable to open database file")
            made.append(connect(path, busy_seconds=busy_seconds))
            return made[-1]

        monkeypatch.setattr(sqlite_file, "connect", fails_after_two)
        with pytest.raises(sqlite3.OperationalError):
            await SqliteLedger(tmp_path / "ledger.sqlite3").open()
        assert len(made) == 2
        assert open_descriptors(tmp_path) == []

    async def test_an_older_file_is_migrated(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite3"
        first = load_migrations("umrgen.server.ledger.sqlite")[0]
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(first + "PRAGMA user_version = 1;")
            for number, state, lease in ((1, "queued", None), (2, "running", 5000)):
                connection.execute(
                    "INSERT INTO jobs (id, session_id, spec, engine, state, version, attempt, interruptions, token,"
                    " lease_until, step, created_at, outputs, changed) VALUES (?, 'sid_a', ?, 'procedural', ?, 1, 1, 0,"
                    " 1, ?, 0, 1000, '[]', ?)",
                    (f"ext_{number}", '{"prompt": "a lighthouse", "seed": 7}', state, lease, number),
                )
            connection.commit()
        ledger = SqliteLedger(path)
        await ledger.open()
        assert await ledger.jobs.count() == JobCounts(1, 1)
        (job,) = await ledger.jobs.claim("worker", now=2000, lease_until=3000)
        await ledger.close()
        assert (job.id, job.request, job.priority) == ("ext_1", GenerationRequest("a lighthouse", seed=7), 0)

    async def test_a_file_that_another_program_has_locked_is_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = sqlite_file.connect
        monkeypatch.setattr(
            sqlite_file, "connect", lambda path, busy_seconds=0.05: connect(path, busy_seconds=busy_seconds)
        )
        ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
        await ledger.open()
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnavailable, match="locked"):
                await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
            assert await ledger.jobs.get("ext_1") is None, "reads succeed"
        await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
        await ledger.close()


def test_every_statement_is_used() -> None:
    named, _ = load_statements(Dialect(contains=str, words=""))
    used = "".join(path.read_text() for path in Path(statements.__file__).parent.glob("*.py"))
    assert [name for name in named if f'"{name}"' not in used] == []


# --- limits, expired images, uploads, keys ---------------------------------------------------------------


async def test_a_session_is_limited_in_unfinished_jobs_and_jobs_a_day(observed: ObservedLedger) -> None:
    caps = Caps(active=2, daily=3)
    first = await observed.submit("a1", now=DAY, caps=caps)
    await observed.submit("a2", now=DAY, caps=caps)
    await observed.claim(now=DAY + 1)
    with pytest.raises(TooManyJobs) as full:
        await observed.submit("a3", now=DAY + 2, caps=caps)
    assert full.value.job_id == first.id, "the running job"
    await observed.submit("b1", "sid_b", now=DAY, caps=caps)
    await observed.ledger.jobs.change("a1", Change.CANCEL, now=DAY + 3)
    await observed.submit("a3", now=DAY + 4, caps=caps)
    await observed.ledger.jobs.change("a3", Change.CANCEL, now=DAY + 5)
    with pytest.raises(DailyLimit) as used_up:
        await observed.submit("a4", now=2 * DAY - 1, caps=caps)
    assert used_up.value.until == 2 * DAY
    await observed.submit("a4", now=2 * DAY, caps=caps)


async def test_a_refused_submit_stores_nothing(observed: ObservedLedger) -> None:
    await observed.submit("a1", caps=Caps(active=1))
    with pytest.raises(TooManyJobs):
        used = Idempotency("k", b"1" * 32)
        await observed.ledger.jobs.submit(
            "a2", "sid_a", SPEC, "procedural", now=1, idempotency=used, caps=Caps(active=1)
        )
    assert await observed.ledger.jobs.get("a2") is None
    assert await observed.ledger.jobs.earlier("sid_a", Idempotency("k", b"2" * 32), now=2) is None


async def test_a_released_call_is_taken_once_and_only_by_an_equal_one(observed: ObservedLedger) -> None:
    calls = observed.ledger.calls

    def call(call_id: str, digest: bytes = b"equal", until: int = 700_000, worker: str = "w1") -> Call:
        return Call(call_id, digest, worker, until)

    for name in ("a1", "a2"):
        await observed.ledger.jobs.submit(name, "sid_a", SPEC, "procedural", now=1000, call=call(f"first {name}"))
    assert await calls.take("sid_a", call("early"), now=1499) is None
    await calls.hold("first a1", until=1500)
    assert await calls.take("sid_a", call("other", b"other"), now=1500) is None
    assert await calls.take("sid_b", call("other session"), now=1500) is None
    assert await calls.take("sid_a", call("late"), now=1500 + 600_000) is None
    assert await calls.take("sid_a", call("second"), now=1500) == "a1"
    assert await calls.take("sid_a", call("third"), now=1500) is None
    await calls.remove("second")
    await calls.release_all("w2", now=1600)
    assert await calls.take("sid_a", call("fourth"), now=1600) is None
    await calls.release_all("w1", now=1600)
    assert await calls.take("sid_a", call("fifth"), now=1600) == "a2"


async def test_the_job_of_a_call_that_failed_is_not_taken(observed: ObservedLedger) -> None:
    call = Call("first", b"equal", "w1", 1000)
    await observed.ledger.jobs.submit("a1", "sid_a", SPEC, "procedural", now=1000, call=call)
    await observed.ledger.jobs.change("a1", Change.CANCEL, now=1100)
    assert await observed.ledger.calls.take("sid_a", replace(call, call_id="second"), now=1200) is None


async def test_an_earlier_job_is_found_by_its_idempotency_key(observed: ObservedLedger) -> None:
    used = Idempotency("k", b"1" * 32)
    made, _ = await observed.ledger.jobs.submit("a1", "sid_a", SPEC, "procedural", now=1, idempotency=used)
    assert await observed.ledger.jobs.earlier("sid_a", used, now=2) == made
    assert await observed.ledger.jobs.earlier("sid_b", used, now=2) is None
    assert await observed.ledger.jobs.earlier("sid_a", used, now=1 + DAY) is None
    with pytest.raises(IdempotencyConflict):
        await observed.ledger.jobs.earlier("sid_a", Idempotency("k", b"2" * 32), now=2)


async def finished(observed: ObservedLedger, number: int) -> Output:
    """Complete a job at the time `number`, with an image of 3 bytes. Return the output."""
    await observed.submit(f"a{number}", now=number)
    job = await observed.claim(now=number)
    output = make_output(f"umrgen_{number}.png")
    await observed.ledger.jobs.change(job.id, Change.COMPLETE, now=number, token=job.token, outputs=(output,), step=4)
    return output


async def test_images_expire_by_age_and_their_job_keeps_its_outputs(observed: ObservedLedger) -> None:
    first, second, third = [await finished(observed, number) for number in (1, 2, 3)]
    assert await observed.ledger.outputs.kept_bytes() == 9
    assert await observed.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=1) == [first]
    assert await observed.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=10) == [second]
    assert await observed.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=10) == []
    assert await observed.ledger.outputs.kept_bytes() == 3
    with pytest.raises(OutputExpired):
        await observed.ledger.outputs.get("sid_a", first.name)
    assert await observed.ledger.outputs.get("sid_b", first.name) is None
    assert await observed.ledger.outputs.get("sid_a", third.name) == third
    obsolete = await observed.ledger.outputs.obsolete_files(now=2**50, limit=99)
    assert {("sid_a", first.name), ("sid_a", thumbnail_name(first.name))} <= set(obsolete)
    assert ("sid_a", third.name) not in obsolete
    job = await observed.ledger.jobs.get("a1")
    assert job is not None
    assert (job.state, job.outputs) == (State.COMPLETED, (first,))


async def test_the_oldest_images_expire_above_the_size_limit(observed: ObservedLedger) -> None:
    first, second, _ = [await finished(observed, number) for number in (1, 2, 3)]
    assert await observed.ledger.outputs.expire(now=9, before=0, keep_bytes=9, limit=10) == []
    assert await observed.ledger.outputs.expire(now=9, before=0, keep_bytes=4, limit=10) == [first, second]
    assert await observed.ledger.outputs.kept_bytes() == 3


async def test_a_file_of_an_image_that_is_deleted_while_it_is_stored_is_deleted_too(observed: ObservedLedger) -> None:
    outputs, hour = observed.ledger.outputs, 3_600_000
    image = await finished(observed, 1)
    assert await outputs.expect_file(image, "a.webp", now=10)
    assert await outputs.obsolete_files(now=10 + hour, limit=9) == [("sid_a", "a.webp")]
    assert await outputs.keep_file(image, "a.webp")
    assert await outputs.obsolete_files(now=2**50, limit=9) == []
    assert await outputs.expect_file(image, "a.webp", now=10)
    await observed.ledger.jobs.delete("sid_a", ["a1"], now=11)
    assert not await outputs.keep_file(image, "a.webp")
    assert ("sid_a", "a.webp") in await outputs.obsolete_files(now=2**50, limit=9)
    assert not await outputs.expect_file(image, "other.webp", now=12)
    assert not await outputs.expect_file(make_output("umrgen_none.png"), "c.webp", now=12)
    assert "other.webp" not in str(await outputs.obsolete_files(now=2**50, limit=9))


def upload(name: str, session: str = "sid_a", created_at: int = 5) -> Upload:
    return Upload(name, session, 3, hashlib.sha256(name.encode()).hexdigest(), 64, 64, created_at)


async def add_upload(observed: ObservedLedger, upload: Upload, cap: int = 10) -> None:
    await observed.ledger.uploads.add(upload, cap=cap)
    assert await observed.ledger.uploads.mark_stored(upload.session_id, upload.name)


async def test_uploads_are_visible_in_their_session_only_and_limited_in_number(observed: ObservedLedger) -> None:
    ledger = observed.ledger
    for number in range(3):
        await add_upload(observed, upload(f"ref_{number}.png", created_at=number), cap=3)
    with pytest.raises(UploadsFull):
        await ledger.uploads.add(upload("ref_3.png"), cap=3)
    await add_upload(observed, upload("ref_b.png", "sid_b"), cap=3)
    assert [each.name for each in await ledger.uploads.of_session("sid_a")] == ["ref_0.png", "ref_1.png", "ref_2.png"]
    assert await ledger.uploads.get("sid_b", "ref_0.png") is None
    assert not await ledger.uploads.remove("sid_b", "ref_0.png")
    assert await ledger.uploads.remove("sid_a", "ref_0.png")
    assert not await ledger.uploads.remove("sid_a", "ref_0.png")
    assert await ledger.outputs.obsolete_files(now=0, limit=9) == [("sid_a", "ref_0.png")]
    await ledger.outputs.forget_files([("sid_a", "ref_0.png")])
    assert await ledger.outputs.obsolete_files(now=0, limit=9) == []


async def test_templates_are_visible_in_their_session_only_and_limited_in_number(observed: ObservedLedger) -> None:
    templates = observed.ledger.templates
    first = Template("film noir", "sid_a", '{"prompt":"a boat \u00fc"}', 1)
    await templates.put(first, cap=2)
    await templates.put(Template("Aquarell", "sid_a", "{}", 2), cap=2)
    with pytest.raises(TemplatesFull):
        await templates.put(Template("third", "sid_a", "{}", 3), cap=2)
    await templates.put(Template("film noir", "sid_b", '{"steps":3}', 4), cap=2)
    again = replace(first, request='{"seed":7}', updated_at=5)
    await templates.put(again, cap=2)
    assert await templates.of_session("sid_a") == [Template("Aquarell", "sid_a", "{}", 2), again]
    assert await templates.get("sid_b", "film noir") == Template("film noir", "sid_b", '{"steps":3}', 4)
    assert await templates.get("sid_b", "Aquarell") is None
    assert not await templates.remove("sid_b", "Aquarell")
    assert await templates.remove("sid_a", "film noir")
    assert not await templates.remove("sid_a", "film noir")
    assert [each.name for each in await templates.of_session("sid_b")] == ["film noir"]


async def test_the_same_content_again_is_the_same_upload(observed: ObservedLedger) -> None:
    uploads = observed.ledger.uploads
    first = upload("a.png", created_at=1)
    assert await uploads.add(first, cap=1) == first
    again = replace(first, name="b.png", created_at=5)
    with pytest.raises(UploadsFull):  # the first is not stored yet
        await uploads.add(again, cap=1)
    assert await uploads.mark_stored("sid_a", "a.png")
    assert await uploads.add(again, cap=1) == replace(first, created_at=5)
    assert await uploads.of_session("sid_a") == [replace(first, created_at=5)]
    assert (await uploads.add(replace(again, session_id="sid_b"), cap=1)).name == "b.png"


async def test_an_upload_is_visible_once_its_file_is_stored(observed: ObservedLedger) -> None:
    uploads, hour = observed.ledger.uploads, 3_600_000
    await uploads.add(upload("a.png"), cap=1)
    assert await uploads.get("sid_a", "a.png") is None
    assert await uploads.of_session("sid_a") == []
    with pytest.raises(UploadsFull):
        await uploads.add(upload("b.png", created_at=hour), cap=1)
    await uploads.add(
        upload("b.png", created_at=hour + 9), cap=1
    )  # the first has no file for an hour, and no longer counts
    assert await uploads.mark_stored("sid_a", "b.png")
    assert not await uploads.mark_stored("sid_b", "b.png")
    assert [each.name for each in await uploads.of_session("sid_a")] == ["b.png"]
    assert [each.name for each in await uploads.expire(before=10, limit=10)] == ["a.png"]


async def test_an_upload_expires_after_the_end_of_the_jobs_that_use_it(observed: ObservedLedger) -> None:
    ledger = observed.ledger
    await add_upload(observed, upload("a.png"))  # a reference image of SPEC
    await add_upload(observed, upload("b.png"))
    await add_upload(observed, upload("c.png", created_at=50))
    await observed.submit("ext_1")
    assert [each.name for each in await ledger.uploads.expire(before=10, limit=10)] == ["b.png"]
    await ledger.jobs.change("ext_1", Change.CANCEL, now=9)
    assert [each.name for each in await ledger.uploads.expire(before=10, limit=10)] == ["a.png"]
    assert [each.name for each in await ledger.uploads.of_session("sid_a")] == ["c.png"]


async def test_the_recorded_last_use_of_a_key_never_decreases(observed: ObservedLedger) -> None:
    limited = Key("key_1", b"1" * 32, "sid_a", "mine", 1, expires_at=99, rate=5, concurrent=0, daily=7)
    await observed.ledger.keys.add(limited)
    assert await observed.ledger.keys.find(limited.hash) == limited
    await observed.ledger.keys.record_uses({"key_1": 50, "key_none": 1})
    await observed.ledger.keys.record_uses({"key_1": 40})
    assert await observed.ledger.keys.get("key_1") == replace(limited, last_used_at=50)


async def found(observed: ObservedLedger, where: JobFilter, session: str = "sid_a") -> list[str]:
    """Return the ids of all jobs that a filter finds, read page by page."""
    ids: list[str] = []
    before: int | None = None
    while True:
        jobs, before = await observed.ledger.jobs.page(session, where=where, limit=2, before=before)
        ids += [job.id for job in jobs]
        if before is None:
            return ids


class TestFavorites:
    """Retention keeps the images and records of favorites."""

    async def test_a_favorite_is_marked_without_a_change_of_its_state(self, observed: ObservedLedger) -> None:
        ledger, only = observed.ledger, JobFilter(favorite=True)
        await finished(observed, 1)
        await observed.submit("a2")
        before = await ledger.jobs.get("a1")
        marked = await ledger.jobs.set_favorite("sid_a", "a1", True, now=50)
        assert before is not None
        assert marked == before._replace(favorite=True, edited_at=50, version=marked.version, changed=marked.changed)
        assert marked.changed > before.changed, "other servers read it"
        assert await ledger.jobs.get("a1") == marked
        assert observed.reported[-1] == marked
        assert await ledger.jobs.set_favorite("sid_a", "a1", True, now=60) == marked
        assert (await found(observed, only), await found(observed, only, "sid_b")) == (["a1"], [])
        for session, job_id in (("sid_b", "a1"), ("sid_a", "a9")):
            with pytest.raises(KeyError):
                await ledger.jobs.set_favorite(session, job_id, True, now=60)
        assert not (await ledger.jobs.set_favorite("sid_a", "a1", False, now=70)).favorite
        assert await found(observed, only) == []

    async def test_the_images_of_a_favorite_neither_expire_nor_count(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        first, second, third = [await finished(observed, number) for number in (1, 2, 3)]
        await ledger.jobs.set_favorite("sid_a", "a1", True, now=5)
        assert await ledger.outputs.expire(now=9, before=0, keep_bytes=6, limit=9) == [], "6 bytes are not favorites"
        assert await ledger.outputs.expire(now=9, before=0, keep_bytes=3, limit=9) == [second]
        assert await ledger.outputs.expire(now=9, before=2**50, keep_bytes=0, limit=9) == [third]
        assert await ledger.outputs.get("sid_a", first.name) == first
        await ledger.jobs.set_favorite("sid_a", "a1", False, now=10)
        assert await ledger.outputs.expire(now=11, before=2**50, keep_bytes=0, limit=9) == [first]

    async def test_a_job_that_is_a_favorite_before_its_end_keeps_its_images(self, observed: ObservedLedger) -> None:
        await observed.submit("a1", now=1)
        await observed.ledger.jobs.set_favorite("sid_a", "a1", True, now=1)
        job = await observed.claim(now=1)
        assert job.favorite
        assert job.edited_at is None, "its last change is the claim"
        done = {"outputs": (make_output(),), "step": 4}
        await observed.ledger.jobs.change(job.id, Change.COMPLETE, now=2, token=job.token, **done)
        assert await observed.ledger.outputs.expire(now=9, before=2**50, keep_bytes=0, limit=9) == []

    async def test_the_record_of_a_favorite_is_kept(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        await finished(observed, 1)
        await ledger.outputs.expire(now=9, before=2**50, keep_bytes=0, limit=9)
        await observed.submit("a2")
        await ledger.jobs.change("a2", Change.CANCEL, now=9)
        for name in ("a1", "a2"):
            await ledger.jobs.set_favorite("sid_a", name, True, now=10)
        assert await ledger.jobs.prune(before=2**50, limit=9) == 0
        for name in ("a1", "a2"):
            await ledger.jobs.set_favorite("sid_a", name, False, now=11)
        assert await ledger.jobs.prune(before=2**50, limit=9) == 2


class TestDeletion:
    """A deleted job leaves its id, times and file names, and nothing of its request."""

    async def test_a_deleted_job_is_in_no_list_and_its_files_are_obsolete(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        first, second = [await finished(observed, number) for number in (1, 2)]
        result = await ledger.jobs.delete("sid_a", ["a1", "a9"], now=50)
        assert (result.deleted, result.unknown) == (["a1"], ["a9"])
        assert result.files == [("sid_a", first.name), ("sid_a", thumbnail_name(first.name))]
        assert set(result.files) <= set(await ledger.outputs.obsolete_files(now=50, limit=999))
        assert ("sid_a", second.name) not in await ledger.outputs.obsolete_files(now=2**50, limit=999)
        with pytest.raises(OutputExpired):
            await ledger.outputs.get("sid_a", first.name)
        assert await ledger.outputs.kept_bytes() == 3
        assert await found(observed, JobFilter()) == await found(observed, JobFilter(words=("light",))) == ["a2"]
        assert await found(observed, JobFilter(State.COMPLETED)) == ["a2"]
        assert set(await ledger.jobs.changes(["a1", "a2"])) == {"a2"}
        deleted = await ledger.jobs.get("a1")
        assert deleted is not None
        assert deleted.deleted_at == 50
        assert observed.reported[-1] == deleted
        with pytest.raises(KeyError):
            await ledger.jobs.set_favorite("sid_a", "a1", True, now=51)

    async def test_the_name_of_its_model_is_deleted(self, observed: ObservedLedger) -> None:
        await submit_for(observed, "a1", "painter", "a name", "sid_a")
        await observed.ledger.jobs.change("a1", Change.CANCEL, now=40)
        await observed.ledger.jobs.delete("sid_a", ["a1"], now=50)
        (deleted,) = await observed.ledger.jobs.get_many(["a1"])
        assert (deleted.model, deleted.request.model) == ("", None)

    async def test_deleting_again_is_the_same_as_once(self, observed: ObservedLedger) -> None:
        await finished(observed, 1)
        await observed.ledger.jobs.delete("sid_a", ["a1"], now=50)
        deleted = await observed.ledger.jobs.get("a1")
        again = await observed.ledger.jobs.delete("sid_a", ["a1"], now=60)
        assert (again.deleted, again.unknown, again.files) == (["a1"], [], [])
        assert await observed.ledger.jobs.get("a1") == deleted
        assert await observed.ledger.outputs.kept_bytes() == 0

    async def test_only_jobs_of_the_session_are_deleted(self, observed: ObservedLedger) -> None:
        output = await finished(observed, 1)
        result = await observed.ledger.jobs.delete("sid_b", ["a1"], now=50)
        assert (result.deleted, result.unknown) == ([], ["a1"])
        assert await observed.ledger.outputs.get("sid_a", output.name) == output
        assert await found(observed, JobFilter()) == ["a1"]

    async def test_a_job_that_is_not_over_is_cancelled_first(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        for name in ("a1", "a2", "a3"):
            await observed.submit(name)
        running = await observed.claim()
        await ledger.jobs.delete("sid_a", ["a1", "a2"], now=50)
        assert [job.id for job in observed.reported[-4:]] == ["a1", "a1", "a2", "a2"]
        assert [job.error_code for job in observed.reported[-4:]] == ["cancelled"] * 4
        assert await ledger.jobs.count() == JobCounts(1, 0)
        with pytest.raises(Conflict):
            await ledger.jobs.change(
                "a1", Change.COMPLETE, now=51, token=running.token, outputs=(make_output(),), step=4
            )
        assert (await observed.claim()).id == "a3"
        files = await ledger.outputs.obsolete_files(now=2**50, limit=999)
        assert ("sid_a", output_name(running, 0, "image/png")) in files, "its attempt may still store a file"

    async def test_nothing_that_the_request_said_is_left(self, observed: ObservedLedger) -> None:
        ledger, once = observed.ledger, Idempotency("once", b"body", kept_for=2**40)
        call = Call("call_1", b"body", "worker", 2**40)
        request = msgspec.structs.replace(SPEC, webhook_url="https://example.org/hook")
        await ledger.jobs.submit("ext_1", "sid_a", request, "procedural", now=1, idempotency=once, call=call)
        running = await observed.claim()
        await ledger.jobs.change(
            "ext_1", Change.FAIL, now=3, token=running.token, error="no lighthouse", error_code="engine_failed"
        )
        await ledger.jobs.set_favorite("sid_a", "ext_1", True, now=4)
        await ledger.jobs.delete("sid_a", ["ext_1"], now=5)
        (job,) = await ledger.jobs.get_many(["ext_1"])  # from the database, not from a cache
        assert job == job._replace(request=GenerationRequest("(deleted)", seed=0), error=None, favorite=False)
        assert (job.state, job.created_at, job.completed_at) == (State.FAILED, 1, 2000)
        assert await found(observed, JobFilter(words=("lighthouse",))) == []
        assert await ledger.webhooks.of_jobs(["ext_1"]) == {}
        assert await ledger.jobs.earlier("sid_a", once, now=6) is None
        assert await ledger.calls.take("sid_a", replace(call, call_id="call_2"), now=2**40 + 1) is None
        assert await ledger.jobs.prune(before=2**50, limit=10) == 1, "the rest is deleted as of any other job"

    async def test_a_note_about_a_file_that_may_come_later_is_kept(self, observed: ObservedLedger) -> None:
        outputs = observed.ledger.outputs
        await observed.submit("a1")
        running = await observed.claim()
        await observed.ledger.jobs.delete("sid_a", ["a1"], now=50)
        name = output_name(running, 0, "image/png")
        await outputs.forget_files([("sid_a", name)], now=50)
        assert ("sid_a", name) in await outputs.obsolete_files(now=2**50, limit=999)
        await outputs.forget_files([("sid_a", name)])
        assert ("sid_a", name) not in await outputs.obsolete_files(now=2**50, limit=999)


class TestSearch:
    """Every ledger finds the same jobs."""

    PROMPTS: ClassVar = {
        "a1": "A Lighthouse at DUSK",
        "a2": "stra\u00dfe im Regen",
        "a3": "\u706f\u53f0\u3068\u5915\u66ae\u308c",
        "a4": "100% wool_coat \\ 'red' \"blue\"",
        "a5": "cafe\u0301 \uff2c\uff29\uff27\uff28\uff34\x00end",
        "a6": "\u0130stanbul light",
    }

    @pytest.mark.parametrize(
        ("query", "ids"),
        [
            ("lighthouse", ["a1"]),
            ("dusk LIGHT", ["a1"]),
            ("light", ["a6", "a5", "a1"]),
            ("light dawn", []),
            ("STRASSE", ["a2"]),
            ("Stra\u00dfe", ["a2"]),
            ("\u5915\u66ae", ["a3"]),
            ("%", ["a4"]),
            ("l_c", ["a4"]),
            ("\\", ["a4"]),
            ("'red' \"blue\"", ["a4"]),
            ("caf\u00e9", ["a5"]),
            ("CAFE\u0301 end", ["a5"]),
            ("\u0130STANBUL", ["a6"]),
            ("\ud800", ["a6", "a5", "a4", "a3", "a2", "a1"]),
        ],
    )
    async def test_all_words_are_found_in_any_order_and_case(
        self, observed: ObservedLedger, query: str, ids: list[str]
    ) -> None:
        for name, prompt in self.PROMPTS.items():
            await observed.ledger.jobs.submit(name, "sid_a", GenerationRequest(prompt, seed=1), "procedural", now=1)
        await observed.ledger.jobs.submit("b1", "sid_b", GenerationRequest("lighthouse", seed=1), "procedural", now=1)
        assert await found(observed, JobFilter(words=tuple(searchable(query).split()))) == ids

    async def test_filters_are_combined(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        for number in range(8):
            engine = "comfyui" if number % 2 else "procedural"
            request = GenerationRequest("a red boat" if number < 4 else "a blue boat", seed=1)
            await ledger.jobs.submit(f"a{number}", "sid_a", request, engine, now=1000 + number)
        for number in (1, 3, 5):
            await ledger.jobs.set_favorite("sid_a", f"a{number}", True, now=2000)
            await ledger.jobs.change(f"a{number}", Change.CANCEL, now=2001)
        for where, ids in (
            (JobFilter(engine="comfyui"), [7, 5, 3, 1]),
            (JobFilter(after=1002, until=1005), [4, 3]),
            (JobFilter(State.FAILED, words=("red",)), [3, 1]),
            (JobFilter(State.FAILED, favorite=True, after=1001), [5, 3]),
            (JobFilter(State.QUEUED, favorite=True), []),
            (JobFilter(favorite=True, words=("boat", "blue")), [5]),
            (JobFilter(State.QUEUED, engine="procedural", until=1003, words=("red",)), [2, 0]),
        ):
            assert await found(observed, where) == [f"a{number}" for number in ids], where

    async def test_a_search_goes_on_part_by_part_and_ends_early_with_a_cursor(
        self, observed: ObservedLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(observed.ledger), "rows_at_a_time", 3)
        monkeypatch.setattr(pages, "MOST_SEARCHED", 6)
        for number in range(20):
            await observed.submit(f"a{number}", now=number)
        old = JobFilter(until=2)
        assert await found(observed, old) == ["a1", "a0"]
        jobs, cursor = await observed.ledger.jobs.page("sid_a", where=old, limit=9, before=None)
        assert jobs == []
        assert cursor is not None
        assert await found(observed, JobFilter(engine="procedural")) == [f"a{number}" for number in range(19, -1, -1)]


async def test_a_key_is_replaced_by_its_successor(observed: ObservedLedger) -> None:
    keys = observed.ledger.keys
    old = Key("key_1", b"1" * 32, "sid_a", "mine", 1, rate=5)
    await keys.add(old)
    new = replace(old, id="key_2", hash=b"2" * 32, created_at=10)
    assert await keys.replace("key_1", new, now=10, until=500)
    assert await keys.get("key_1") == replace(old, expires_at=500)
    assert await keys.find(b"2" * 32) == new
    third = replace(new, id="key_3", hash=b"3" * 32)
    assert await keys.replace("key_1", third, now=20, until=900)
    assert await keys.get("key_1") == replace(old, expires_at=500), "it ends no later than before"
    fourth = replace(new, id="key_4", hash=b"4" * 32)
    assert await keys.replace("key_2", fourth, now=30, until=30)
    assert await keys.get("key_2") == replace(new, revoked_at=30)
    fifth = replace(new, id="key_5", hash=b"5" * 32)
    assert not await keys.replace("key_2", fifth, now=40, until=900), "it is revoked"
    assert not await keys.replace("key_none", fifth, now=40, until=900)
    assert [key.id for key in await keys.all()] == ["key_1", "key_2", "key_3", "key_4"]


async def test_the_limits_of_a_key_are_changed(observed: ObservedLedger) -> None:
    keys = observed.ledger.keys
    key = Key("key_1", b"1" * 32, "sid_a", "mine", 1, rate=5, daily=7)
    await keys.add(key)
    assert await keys.limit("key_1", rate=None, concurrent=0, daily=9)
    assert await keys.get("key_1") == replace(key, rate=None, concurrent=0, daily=9)
    assert not await keys.limit("key_2", rate=1, concurrent=1, daily=1)


async def test_the_oldest_queued_job_is_found(observed: ObservedLedger) -> None:
    jobs = observed.ledger.jobs
    assert await jobs.oldest_queued() is None
    await observed.submit("ext_1", now=1000)
    await observed.submit("ext_2", "sid_b", now=1500, priority=5)
    await observed.submit("ext_3", now=2000)
    assert await jobs.oldest_queued() == 1000
    claimed = [(await observed.claim()).id for _ in range(2)]
    assert sorted(claimed) == ["ext_1", "ext_2"]
    assert await jobs.oldest_queued() == 2000
    await observed.claim()
    assert await jobs.oldest_queued() is None


async def test_pending_webhooks_are_counted(observed: ObservedLedger) -> None:
    webhooks = observed.ledger.webhooks
    spec = GenerationRequest("a boat", seed=1, webhook_url="https://a.example/")
    for job_id in ("ext_1", "ext_2"):
        await observed.ledger.jobs.submit(job_id, "sid_a", spec, "procedural", now=1)
        await observed.ledger.jobs.change(job_id, Change.CANCEL, now=2)
    assert await webhooks.count_pending() == 2
    webhook = (await webhooks.of_jobs(["ext_1"]))["ext_1"]
    await webhooks.record_attempt(webhook.id, state=WebhookState.DELIVERED, attempts=1, delivered_at=3)
    assert await webhooks.count_pending() == 1


class NotedReads:
    """A connection for reading that notes the ids of the jobs that are read."""

    def __init__(self, connection: SqlConnection, noted: list[Any]) -> None:
        self._connection = connection
        self._noted = noted

    def all(self, statement: str, values: Mapping[str, Any]) -> Sequence[Row]:
        if statement == "get_jobs":
            self._noted.append(values["ids"])
        return self._connection.all(statement, values)


class TestPruning:
    """Old jobs are deleted with all that belongs to them."""

    async def test_a_job_is_deleted_after_its_images_are_gone(self, observed: ObservedLedger) -> None:
        ledger = observed.ledger
        for number in (1, 2):
            await finished(observed, number)
        assert await ledger.jobs.prune(before=2**50, limit=10) == 0, "they have images"
        await ledger.outputs.expire(now=5000, before=2**50, keep_bytes=0, limit=1)
        assert await ledger.jobs.prune(before=5000, limit=10) == 0
        assert await ledger.jobs.prune(before=5001, limit=10) == 1
        assert await ledger.jobs.get("a1") is None
        assert await ledger.outputs.get("sid_a", "umrgen_1.png") is None
        assert [job.id for job in (await ledger.jobs.page("sid_a", limit=9, before=None))[0]] == ["a2"]
        assert await ledger.jobs.prune(before=2**50, limit=10) == 0

    async def test_a_job_is_kept_while_one_of_its_images_is(self, observed: ObservedLedger) -> None:
        await observed.submit("a1", now=1)
        job, ledger = await observed.claim(now=1), observed.ledger
        outputs = (make_output("umrgen_1.png"), make_output("umrgen_2.png"))
        await ledger.jobs.change(job.id, Change.COMPLETE, now=2, token=job.token, outputs=outputs, step=4)
        for kept in (1, 0):
            assert await ledger.jobs.prune(before=2**50, limit=10) == 0
            assert len(await ledger.outputs.expire(now=9, before=2**50, keep_bytes=0, limit=1)) == 1, kept
        assert await ledger.jobs.prune(before=2**50, limit=10) == 1

    async def test_failed_jobs_are_deleted_by_their_end_and_unfinished_ones_never(
        self, observed: ObservedLedger
    ) -> None:
        ledger = observed.ledger
        for number in range(4):
            await observed.submit(f"ext_{number}")
        for number, end in ((0, 3000), (1, 4000), (2, 5000)):
            await ledger.jobs.change(f"ext_{number}", Change.CANCEL, now=end)
        assert await ledger.jobs.prune(before=4500, limit=1) == 1
        assert await ledger.jobs.get("ext_0") is None, "the oldest is deleted first"
        assert await ledger.jobs.prune(before=2**50, limit=10) == 2
        assert [job.id for job in await ledger.jobs.get_many([f"ext_{n}" for n in range(4)])] == ["ext_3"]
        assert await ledger.jobs.count() == JobCounts(1, 0)
        assert (await observed.claim()).id == "ext_3"

    async def test_no_more_jobs_are_deleted_in_a_transaction_after_its_time(self, observed: ObservedLedger) -> None:
        """A few at a time, and at least once: so that it ends on the slowest disk."""
        jobs, times = observed.ledger.jobs, count(step=0.6)
        for number in range(45):
            await observed.submit(f"ext_{number}")
            await jobs.change(f"ext_{number}", Change.CANCEL, now=1000 + number)
        rules: dict[str, Any] = {"before": 2**50, "limit": 50, "seconds": 1.0, "monotonic": lambda: next(times)}
        assert [await jobs.prune(**rules) for _ in range(3)] == [20, 20, 5]
        assert await jobs.get("ext_44") is None
        assert await jobs.prune(**rules | {"seconds": 0.0}) == 0

    async def test_the_records_are_read_before_the_transaction_that_deletes_them(
        self, observed: ObservedLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other writes wait for the transaction, and a disk for old records."""
        ledger, steps = observed.ledger, list[Any]()
        await finished(observed, 1)
        await ledger.outputs.expire(now=5000, before=2**50, keep_bytes=0, limit=1)
        database: Any = ledger
        search, write = database.search, database.write

        async def noted_search(query: Callable[[SqlConnection], Any]) -> Any:
            return await search(lambda connection: query(NotedReads(connection, steps)))

        async def noted_write(operation: Any, **rules: Any) -> Any:
            steps.append("transaction")
            return await write(operation, **rules)

        monkeypatch.setattr(database, "search", noted_search)
        monkeypatch.setattr(database, "write", noted_write)
        assert await ledger.jobs.prune(before=2**50, limit=10) == 1
        assert steps.index(["a1"]) < steps.index("transaction")

    async def test_each_transaction_reads_on_where_the_last_one_ended(self, observed: ObservedLedger) -> None:
        """Records that may be deleted only later are found by the first one after the end."""
        jobs = observed.ledger.jobs
        hooked = msgspec.structs.replace(SPEC, webhook_url="https://example.org/hook")
        await jobs.submit("ext_0", "sid_a", hooked, "procedural", now=1)
        for number in (1, 2):
            await observed.submit(f"ext_{number}")
        for number in range(3):
            await jobs.change(f"ext_{number}", Change.CANCEL, now=1000 + number)
        assert await jobs.prune(before=2**50, limit=1) == 1
        (webhook,) = await observed.ledger.webhooks.due(now=2000, limit=9)
        await observed.ledger.webhooks.record_attempt(webhook.id, state=WebhookState.FAILED, attempts=9)
        assert [await jobs.prune(before=2**50, limit=1) for _ in range(4)] == [1, 0, 1, 0]

    async def test_the_keys_calls_and_webhooks_of_a_deleted_job_are_deleted(self, observed: ObservedLedger) -> None:
        ledger, once = observed.ledger, Idempotency("once", b"body", kept_for=2**40)
        call = Call("call_1", b"body", "worker", 2**40)
        request = msgspec.structs.replace(SPEC, webhook_url="https://example.org/hook")
        job, _ = await ledger.jobs.submit("ext_1", "sid_a", request, "procedural", now=1, idempotency=once, call=call)
        await ledger.jobs.change(job.id, Change.CANCEL, now=2)
        assert await ledger.jobs.prune(before=2**50, limit=10) == 0, "its webhook is not delivered yet"
        (webhook,) = await ledger.webhooks.due(now=2, limit=9)
        await ledger.webhooks.record_attempt(webhook.id, state=WebhookState.FAILED, attempts=9)
        assert await ledger.jobs.prune(before=2**50, limit=10) == 1
        assert await ledger.webhooks.of_jobs(["ext_1"]) == {}
        assert await ledger.jobs.earlier("sid_a", once, now=3) is None
        assert await ledger.calls.take("sid_a", replace(call, call_id="call_2"), now=2**40 + 1) is None
        again, new = await ledger.jobs.submit("ext_1", "sid_a", request, "procedural", now=9, idempotency=once)
        assert new
        assert again.id == "ext_1"


async def test_claims_of_one_batch_have_the_order_of_single_claims(observed: ObservedLedger) -> None:
    """Concurrent calls, which are committed together: claims, and changes of the queue between them."""
    jobs = observed.ledger.jobs
    for name in ("a0", "b0", "c0", "a1", "b1"):
        await observed.submit(name, f"sid_{name[0]}")
    lease = {"now": 2000, "lease_until": 9000}

    results = await asyncio.gather(
        jobs.claim("worker", **lease),
        jobs.change("b0", Change.CANCEL, now=2000),
        jobs.claim("worker", **lease),
        observed.submit("d0", "sid_d", now=2000),
        jobs.claim("worker", **lease),
        jobs.claim("worker", limit=2, **lease, batch_key=lambda request: 1 // 0),
        jobs.claim("worker", **lease),
        jobs.claim("worker", **lease, running_cap=1),
        jobs.claim("worker", **lease),
        return_exceptions=True,
    )
    claimed = [[job.id for job in result] for result in results if isinstance(result, list)]
    assert claimed == [["a0"], ["b1"], ["c0"], ["d0"], [], ["a1"]]
    assert isinstance(results[5], ZeroDivisionError)


async def test_many_sessions_take_turns(observed: ObservedLedger) -> None:
    """More sessions than a claim reads at a time."""
    sessions = [f"sid_{number:02d}" for number in range(READ_AHEAD + 4)]
    for turn in range(2):
        for session in sessions:
            await observed.submit(f"{session}_{turn}", session)
    claimed = [(await observed.claim()).id for _ in range(2 * len(sessions))]
    assert claimed == [f"{session}_{turn}" for turn in range(2) for session in sessions]


# --- fingerprints ----------------------------------------------------------------------------------------

BANDS = 16


def digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def perceptual_hash(number: int) -> bytes:
    return hashlib.sha256(b"pixels %d" % number).digest()


def differing(pdq: bytes, bits: Sequence[int]) -> bytes:
    return (int.from_bytes(pdq) ^ sum(1 << bit for bit in bits)).to_bytes(32)


class Registry:
    """A ledger in which images are made."""

    def __init__(self, observed: ObservedLedger) -> None:
        self.observed = observed
        self.store = observed.ledger.fingerprints

    async def make(self, number: int, *, pdq: bytes | None = None, session: str = "sid_a", hashed: bool = True) -> Job:
        """Complete a job with one image."""
        job = await self.observed.submit(f"ext_{number}", session)
        claimed = await self.observed.claim()
        output = replace(make_output(f"umrgen_{number}.png", session), sha256=digest(number))
        hashes = [perceptual_hash(number) if pdq is None else pdq] if hashed else []
        now, token = 3000 + 1000 * number, claimed.token
        return await self.observed.ledger.jobs.change(
            job.id, Change.COMPLETE, now=now, token=token, outputs=(output,), step=4, hashes=hashes
        )

    async def find(
        self, number: int, pdq: bytes = b"", session: str = "", known: bytes = ALL_BITS
    ) -> KnownImage | None:
        return await self.store.find(bytes.fromhex(digest(number)), pdq, known, session_id=session)


@pytest.fixture
def registry(observed: ObservedLedger) -> Registry:
    return Registry(observed)


@pytest.mark.parametrize("indexed", [False, True])
async def test_an_image_is_known_by_its_digest_and_by_a_hash_within_31_bits(registry: Registry, indexed: bool) -> None:
    for number in range(17):
        await registry.make(number)
    if indexed:
        assert [await registry.store.index(groups=4) for _ in range(2)] == [1, 0]
    for number in (0, 15, 16):
        made = KnownImage(True, 0, 3000 + 1000 * number, "procedural", None)
        assert await registry.find(number) == made
        hash, others = perceptual_hash(number), 1000
        assert await registry.find(others, hash) == replace(made, exact=False)
        near = differing(hash, range(31))
        assert await registry.find(others, near) == replace(made, exact=False, distance=31)
        assert await registry.find(number, near) == made, "the same file, decoded by another program"
        assert await registry.find(others, differing(hash, range(32))) is None
    assert await registry.find(1000) is None


async def test_the_bands_find_every_hash_within_31_bits(registry: Registry) -> None:
    """Also one that differs in two bits of every band but one: no band but this leads to it."""
    for number in range(16):
        await registry.make(number)
    await registry.store.index(groups=1)
    pairs = [[band + BANDS * at for band in range(BANDS) for at in (0, 7)]]
    hard = [[bit for bit in pairs[0] if bit != spared] for spared in pairs[0]]
    spread = [[(number * 17 + step * 8) % 256 for step in range(31)] for number in range(16)]
    for number, bits in enumerate([*hard, *spread]):
        pdq = perceptual_hash(number % 16)
        found = await registry.find(1000, differing(pdq, bits))
        assert found is not None, bits
        assert (found.distance, found.created_at) == (31, 3000 + 1000 * (number % 16))


@pytest.mark.parametrize("indexed", [False, True])
async def test_bits_that_are_not_known_are_not_compared_and_the_others_in_proportion(
    registry: Registry, indexed: bool
) -> None:
    for number in range(16):
        await registry.make(number)
    await registry.store.index(groups=int(indexed))
    made, half = KnownImage(False, 0, 8000, "procedural", None), differing(bytes(32), range(0, 256, 2))
    for differ, distance in ((0, 0), (1, 2), (15, 30)):
        bits = [*range(0, 2 * differ, 2), *range(65, 193, 2)]  # known ones; and 64 that are not
        found = await registry.find(99, differing(perceptual_hash(5), bits), known=half)
        assert found == replace(made, distance=distance)
        assert await registry.find(99, differing(perceptual_hash(5), bits)) is None
    assert await registry.find(99, differing(perceptual_hash(5), range(0, 32, 2)), known=half) == replace(
        made, distance=16
    ), "all bits are within 31, those that are not known too"
    assert await registry.find(99, differing(perceptual_hash(5), range(0, 64, 2)), known=half) is None


@pytest.mark.parametrize("indexed", [False, True])
async def test_an_image_is_known_after_its_job_was_pruned_and_its_job_to_its_session_only(
    registry: Registry, indexed: bool
) -> None:
    jobs = [await registry.make(number) for number in range(16)]
    await registry.store.index(groups=int(indexed))
    own = await registry.find(3, session="sid_a")
    assert own is not None
    assert own.job_id == jobs[3].id
    assert await registry.find(3, session="sid_b") == replace(own, job_id=None)
    ledger = registry.observed.ledger
    await ledger.outputs.expire(now=30_000, before=30_000, keep_bytes=0, limit=20)
    assert await ledger.jobs.prune(before=40_000, limit=20) == 16
    assert await registry.find(3, session="sid_a") == replace(own, job_id=None)
    assert await registry.find(99, perceptual_hash(3)) == replace(own, exact=False, job_id=None)


async def test_an_image_without_a_hash_of_its_own_gets_one_later(registry: Registry) -> None:
    """Such as one that was adopted. It is found by it whether later images are indexed or not."""
    jobs = [await registry.make(number, hashed=number > 0) for number in range(17)]
    assert await registry.store.index(groups=1) == 1
    (image,) = await registry.store.unhashed(limit=9)
    name = jobs[0].outputs[0].name
    assert image == UnhashedImage(name, "sid_a", bytes.fromhex(digest(0)), 3000, "procedural", jobs[0].id)
    assert await registry.find(99, perceptual_hash(0)) is None
    await registry.store.enter_hash(image, perceptual_hash(0))
    assert await registry.store.unhashed(limit=9) == []
    expected = KnownImage(False, 0, 3000, "procedural", jobs[0].id)
    assert await registry.find(99, perceptual_hash(0), "sid_a") == expected
    for number in range(17, 31):
        await registry.make(number)
    assert await registry.store.index(groups=1) == 1
    for number in (0, 1, 16, 30):
        found = await registry.find(99, perceptual_hash(number))
        assert found == KnownImage(False, 0, 3000 + 1000 * number, "procedural", None)


async def test_an_image_that_is_pruned_before_it_is_hashed_is_left_out(registry: Registry) -> None:
    await registry.make(1, hashed=False)
    ledger = registry.observed.ledger
    await ledger.outputs.expire(now=30_000, before=30_000, keep_bytes=0, limit=20)
    assert [image.session_id for image in await registry.store.unhashed(limit=9)] == ["sid_a"]
    assert await ledger.jobs.prune(before=40_000, limit=20) == 1
    (image,) = await registry.store.unhashed(limit=9)
    assert image == UnhashedImage("umrgen_1.png")
    await registry.store.enter_hash(image, None)
    assert await registry.store.unhashed(limit=9) == []


@pytest.mark.parametrize("indexed", [False, True])
async def test_a_deleted_job_is_not_named_and_its_image_is_known(registry: Registry, indexed: bool) -> None:
    jobs = [await registry.make(number) for number in range(16)]
    await registry.store.index(groups=int(indexed))
    before = await registry.find(3, session="sid_a")
    await registry.observed.ledger.jobs.delete("sid_a", [jobs[3].id], now=30_000)
    assert before is not None
    assert before.job_id == jobs[3].id
    assert await registry.find(3, session="sid_a") == replace(before, job_id=None)


async def test_equal_images_are_found_by_the_earliest_and_each_by_its_digest(registry: Registry) -> None:
    pdq = perceptual_hash(1)
    for number in range(48):
        await registry.make(number, pdq=pdq, session="sid_b" if number else "sid_a")
        if number % 16 == 15:
            await registry.store.index(groups=1)
    assert await registry.find(99, pdq) == KnownImage(False, 0, 3000, "procedural", None)
    for number in (0, 20, 47):
        assert await registry.find(number, pdq) == KnownImage(True, 0, 3000 + 1000 * number, "procedural", None)


@pytest.mark.parametrize("indexed", [False, True])
async def test_an_image_without_a_hash_is_known_by_its_digest_only(registry: Registry, indexed: bool) -> None:
    for number in range(16):
        await registry.make(number, pdq=b"")
    await registry.store.index(groups=int(indexed))
    assert (await registry.find(5)) == KnownImage(True, 0, 8000, "procedural", None)
    assert await registry.find(99, perceptual_hash(5)) is None
    assert await registry.find(99, bytes(32)) is None, "zeros mean no hash"
    assert await registry.find(99) is None
