"""What every ledger must do. Each implementation runs the same suite."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from support import open_descriptors
from umrgen.model import State
from umrgen.server.domain.job import Change, Conflict, Job, Output
from umrgen.server.domain.request import GenerationRequest, Lora
from umrgen.server.ledger import (
    DAY,
    Caps,
    DailyLimit,
    Idempotency,
    IdempotencyConflict,
    Key,
    Ledger,
    LedgerTooNew,
    LedgerUnavailable,
    OutputExpired,
    QueueFull,
    TooManyJobs,
    Upload,
    UploadsFull,
    Webhook,
    WebhookState,
)
from umrgen.server.ledger.sql import statements
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sql.statements import Dialect, load_migrations, load_statements
from umrgen.server.ledger.sqlite import connection as sqlite_connection
from umrgen.server.ledger.sqlite import file as sqlite_file
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.memory import MemoryLedger

SPEC = GenerationRequest("a lighthouse", seed=7, negative="fog", loras=(Lora("ink", 0.5),), reference_images=("a.png",))


class Bench:
    """A ledger and what it told of its changes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.told: list[Job] = []

    def hear(self, jobs: Sequence[Job]) -> None:
        self.told += jobs

    async def submit(self, job_id: str, session: str = "sid_a", now: int = 1000, **options: int) -> Job:
        job, new = await self.ledger.jobs.submit(job_id, session, SPEC, "procedural", now=now, **options)
        assert new
        return job

    async def claim(self, now: int = 2000) -> Job:
        (job,) = await self.ledger.jobs.claim("worker", now=now, lease_until=now + 30_000)
        return job


@pytest.fixture(params=["sqlite", "memory"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = {"sqlite": lambda: SqliteLedger(tmp_path / "ledger.sqlite3"), "memory": MemoryLedger}
    ledger = made[request.param]()
    bench = Bench(ledger)
    await ledger.open(bench.hear)
    yield bench
    await ledger.close()


def picture(name: str = "umrgen_7_aa.png", session: str = "sid_a") -> Output:
    return Output(name, session, 3, "00" * 32, 512, 512)


async def test_a_job_comes_back_as_it_was_submitted(bench: Bench) -> None:
    job = await bench.submit("ext_1")
    assert await bench.ledger.jobs.get("ext_1") == job
    assert job.request == SPEC
    assert job.state is State.QUEUED
    assert await bench.ledger.jobs.get("ext_2") is None
    assert bench.told == [job]


async def test_jobs_are_claimed_in_the_order_of_their_age(bench: Bench) -> None:
    for number in range(3):
        await bench.submit(f"ext_{number}")
    assert [(await bench.claim()).id for _ in range(3)] == ["ext_0", "ext_1", "ext_2"]
    assert await bench.ledger.jobs.claim("worker", now=2000, lease_until=3000) == []


async def test_sessions_take_turns_and_a_newcomer_does_not_wait_behind_a_backlog(bench: Bench) -> None:
    for number in range(3):
        await bench.submit(f"a{number}", "sid_a")
    assert (await bench.claim()).id == "a0"
    for number in range(2):
        await bench.submit(f"b{number}", "sid_b")
    await bench.submit("c0", "sid_c")
    waiting = [job for name in ("b0", "c0", "a1", "b1", "a2") if (job := await bench.ledger.jobs.get(name))]
    assert [await bench.ledger.jobs.queue_position(job) for job in waiting] == [1, 2, 3, 4, 5]
    assert [(await bench.claim()).id for _ in range(5)] == ["b0", "c0", "a1", "b1", "a2"]


async def test_a_priority_orders_its_own_session_alone(bench: Bench) -> None:
    await bench.submit("a0", "sid_a")
    await bench.submit("a1", "sid_a", priority=5)
    await bench.submit("b0", "sid_b", priority=-5)
    assert [(await bench.claim()).id for _ in range(3)] == ["a1", "b0", "a0"]


async def test_a_session_at_its_cap_lets_others_go_first(bench: Bench) -> None:
    for name in ("a0", "a1"):
        await bench.submit(name, "sid_a")
    await bench.submit("b0", "sid_b")
    capped = {"now": 2000, "lease_until": 9000, "running_cap": 1}
    claimed = [await bench.ledger.jobs.claim("worker", **capped) for _ in range(3)]
    assert [[job.id for job in jobs] for jobs in claimed] == [["a0"], ["b0"], []]
    await bench.ledger.jobs.change("a0", Change.CANCEL, now=2500)
    (again,) = await bench.ledger.jobs.claim("worker", **capped)
    assert again.id == "a1"


async def test_a_claim_ends_before_the_first_job_of_another_batch_key(bench: Bench) -> None:
    for name, steps in (("ext_1", 4), ("ext_2", 4), ("ext_3", 8), ("ext_4", 4)):
        request = msgspec.structs.replace(SPEC, steps=steps)
        await bench.ledger.jobs.submit(name, "sid_a", request, "procedural", now=1000)

    async def claim() -> list[str]:
        claimed = await bench.ledger.jobs.claim(
            "worker", now=2000, lease_until=3000, limit=9, batch_key=lambda request: request.steps
        )
        return [job.id for job in claimed]

    assert [await claim() for _ in range(4)] == [["ext_1", "ext_2"], ["ext_3"], ["ext_4"], []]


async def test_a_claim_of_several_takes_them_in_the_same_order(bench: Bench) -> None:
    for name in ("a0", "a1", "a2"):
        await bench.submit(name, "sid_a")
    for name in ("b0", "b1"):
        await bench.submit(name, "sid_b")
    first = await bench.ledger.jobs.claim("worker", now=2000, lease_until=9000, limit=3)
    assert [job.id for job in first] == ["a0", "b0", "a1"]
    assert len({job.changed for job in first}) == 3
    rest = await bench.ledger.jobs.claim("worker", now=2000, lease_until=9000, limit=99)
    assert [job.id for job in rest] == ["b1", "a2"]
    assert [job.id for job in bench.told[-5:]] == ["a0", "b0", "a1", "b1", "a2"]


async def test_a_full_queue_takes_no_more_of_one_session(bench: Bench) -> None:
    used = Idempotency("key", b"digest")
    posted, _ = await bench.ledger.jobs.submit(
        "a0", "sid_a", SPEC, "procedural", now=1, idempotency=used, caps=Caps(queued=1)
    )
    with pytest.raises(QueueFull):
        await bench.submit("a1", "sid_a", caps=Caps(queued=1))
    await bench.submit("b0", "sid_b", caps=Caps(queued=1))
    again = await bench.ledger.jobs.submit(
        "a2", "sid_a", SPEC, "procedural", now=2, idempotency=used, caps=Caps(queued=1)
    )
    assert again == (posted, False), "a repeated submit asks for nothing new"
    await bench.claim()
    await bench.submit("a3", "sid_a", caps=Caps(queued=1))


async def test_a_look_that_is_old_changes_nothing(bench: Bench) -> None:
    await bench.submit("ext_1")
    seen = await bench.claim()
    await bench.ledger.jobs.change("ext_1", Change.PROGRESS, now=2100, token=seen.token, lease_until=90_000)
    with pytest.raises(Conflict):
        await bench.ledger.jobs.change("ext_1", Change.RELEASE, now=2200, token=seen.token, version=seen.version)


async def test_the_runs_of_late_are_given_in_order(bench: Bench) -> None:
    for number in range(3):
        await bench.submit(f"ext_{number}")
    claimed = [await bench.claim(now=2000) for _ in range(3)]
    for job, now in ((claimed[1], 3000), (claimed[0], 4000)):
        await bench.ledger.jobs.change(
            job.id, Change.COMPLETE, now=now, token=job.token, outputs=(picture(f"{job.id}.png"),)
        )
    assert [job.id for job in await bench.ledger.jobs.recent_runs(among=10)] == ["ext_1", "ext_0"]
    assert await bench.ledger.jobs.recent_runs(among=1) == []


async def test_a_place_in_the_queue_moves_up(bench: Bench) -> None:
    jobs = [await bench.submit(f"ext_{number}") for number in range(3)]
    assert [await bench.ledger.jobs.queue_position(job) for job in jobs] == [1, 2, 3]
    running = await bench.claim()
    assert await bench.ledger.jobs.queue_position(running) is None
    assert await bench.ledger.jobs.queue_position(jobs[2]) == 2
    assert await bench.ledger.jobs.count() == {State.QUEUED: 2, State.RUNNING: 1}


async def test_a_job_is_completed_with_its_output(bench: Bench) -> None:
    await bench.submit("ext_1")
    running = await bench.claim()
    done = await bench.ledger.jobs.change(
        "ext_1", Change.COMPLETE, now=3000, token=running.token, outputs=(picture(),), step=4
    )
    assert (done.state, done.completed_at, done.lease_until) == (State.COMPLETED, 3000, None)
    assert await bench.ledger.jobs.get("ext_1") == done
    assert await bench.ledger.outputs.get("sid_a", "umrgen_7_aa.png") == picture()
    assert await bench.ledger.outputs.get("sid_b", "umrgen_7_aa.png") is None
    with pytest.raises(Conflict):
        await bench.ledger.jobs.change("ext_1", Change.CANCEL, now=4000)


async def test_a_worker_that_lost_its_lease_can_change_nothing(bench: Bench) -> None:
    await bench.submit("ext_1")
    first = await bench.claim()
    await bench.ledger.jobs.change("ext_1", Change.RELEASE, now=3000, token=first.token)
    second = await bench.claim(now=4000)
    assert (second.attempt, second.token) == (2, first.token + 1)
    for change in (Change.PROGRESS, Change.COMPLETE, Change.FAIL, Change.RELEASE):
        with pytest.raises(Conflict):
            await bench.ledger.jobs.change("ext_1", change, now=5000, token=first.token)
    assert await bench.ledger.jobs.get("ext_1") == second


async def test_lapsed_leases_are_found(bench: Bench) -> None:
    await bench.submit("ext_1")
    running = await bench.claim(now=2000)
    assert await bench.ledger.jobs.expired_leases(now=32_000) == []
    assert await bench.ledger.jobs.expired_leases(now=32_001) == [running]
    await bench.ledger.jobs.change("ext_1", Change.PROGRESS, now=20_000, token=running.token, lease_until=50_000)
    assert await bench.ledger.jobs.expired_leases(now=32_001) == []


async def test_one_key_and_body_make_one_job(bench: Bench) -> None:
    async def post(number: int) -> tuple[Job, bool]:
        again = Idempotency("key", b"digest")
        return await bench.ledger.jobs.submit(f"ext_{number}", "sid_a", SPEC, "procedural", now=1000, idempotency=again)

    answers = await asyncio.gather(*(post(number) for number in range(64)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert await bench.ledger.jobs.count() == {State.QUEUED: 1, State.RUNNING: 0}


async def test_a_key_with_another_body_is_a_conflict_for_a_day(bench: Bench) -> None:
    async def post(job_id: str, session: str, digest: bytes, now: int) -> tuple[Job, bool]:
        used = Idempotency("key", digest)
        return await bench.ledger.jobs.submit(job_id, session, SPEC, "procedural", now=now, idempotency=used)

    await post("ext_1", "sid_a", b"one", 0)
    with pytest.raises(IdempotencyConflict):
        await post("ext_2", "sid_a", b"two", 1000)
    assert (await post("ext_3", "sid_b", b"two", 1000))[1], "another session's key is another key"
    assert (await post("ext_4", "sid_a", b"two", 24 * 3600 * 1000 + 1))[1], "after 24 h the key is free again"


async def test_pages_are_newest_first_and_of_one_session(bench: Bench) -> None:
    for number in range(5):
        await bench.submit(f"ext_{number}")
    await bench.submit("ext_other", session="sid_b")
    first, cursor = await bench.ledger.jobs.page("sid_a", state=None, limit=2, before=None)
    second, cursor = await bench.ledger.jobs.page("sid_a", state=None, limit=2, before=cursor)
    third, end = await bench.ledger.jobs.page("sid_a", state=None, limit=2, before=cursor)
    assert [job.id for job in first + second + third] == [f"ext_{number}" for number in (4, 3, 2, 1, 0)]
    assert end is None
    running = await bench.claim()
    assert (await bench.ledger.jobs.page("sid_a", state=State.RUNNING, limit=9, before=None))[0] == [running]


async def test_many_are_read_at_once(bench: Bench) -> None:
    jobs = [await bench.submit(f"ext_{number}") for number in range(3)]
    found = await bench.ledger.jobs.get_many(["ext_2", "ext_0", "ext_9"])
    assert {job.id: job for job in found} == {"ext_0": jobs[0], "ext_2": jobs[2]}
    changes = await bench.ledger.jobs.changes(["ext_2", "ext_0", "ext_9"])
    assert changes == {job.id: ("sid_a", job.changed) for job in (jobs[0], jobs[2])}


async def test_changes_of_state_are_counted_and_progress_is_not(bench: Bench) -> None:
    queued = await bench.submit("ext_1")
    running = await bench.claim()
    told = await bench.ledger.jobs.change(
        "ext_1", Change.PROGRESS, now=2500, token=running.token, step=1, lease_until=9999
    )
    assert queued.changed < running.changed == told.changed
    assert told.version > running.version


async def test_a_failing_change_leaves_its_neighbours_alone(bench: Bench) -> None:
    await bench.submit("ext_1")
    results = await asyncio.gather(
        bench.submit("ext_2"),
        bench.ledger.jobs.change("ext_1", Change.COMPLETE, now=1, outputs=(picture(),)),
        bench.ledger.jobs.change("ext_0", Change.CANCEL, now=1),
        bench.submit("ext_3"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Job, Conflict, KeyError, Job]
    assert [job.id for job in bench.told] == ["ext_1", "ext_2", "ext_3"]


async def test_a_change_that_fails_halfway_changes_nothing(bench: Bench) -> None:
    """The second job's row is written before its output's, which is refused: no two outputs have one name."""
    for job_id in ("ext_1", "ext_2"):
        await bench.submit(job_id)
    first, second = await bench.claim(), await bench.claim()
    complete = {"now": 3000, "outputs": (picture(),), "step": 4}
    await bench.ledger.jobs.change(first.id, Change.COMPLETE, token=first.token, **complete)
    with pytest.raises(Exception, match="UNIQUE"):
        await bench.ledger.jobs.change(second.id, Change.COMPLETE, token=second.token, **complete)
    (now,) = await bench.ledger.jobs.get_many([second.id])
    assert (now.state, now.version) == (State.RUNNING, second.version)
    failed = await bench.ledger.jobs.change(second.id, Change.FAIL, now=4000, token=second.token, error_code="x")
    assert failed.state is State.FAILED


async def test_keys_are_found_by_hash_and_revoked_once(bench: Bench) -> None:
    key = Key("key_1", b"h" * 32, "sid_a", "mine", 1000)
    await bench.ledger.keys.add(key)
    assert await bench.ledger.keys.find(b"h" * 32) == key
    assert await bench.ledger.keys.find(b"x" * 32) is None
    assert await bench.ledger.keys.get("key_1") == key
    assert await bench.ledger.keys.get("key_2") is None
    assert await bench.ledger.keys.revoke("key_1", now=2000)
    assert await bench.ledger.keys.revoke("key_1", now=3000)
    assert not await bench.ledger.keys.revoke("key_2", now=3000)
    assert [found.revoked_at for found in await bench.ledger.keys.all()] == [2000]


class TestWebhooks:
    """The message that a job is over is in the ledger from the moment the job is."""

    URL = "https://hooks.example:8443/umrgen?a=1"

    async def over(self, bench: Bench, job_id: str, session: str = "sid_a", url: str = URL, now: int = 3000) -> None:
        spec = msgspec.structs.replace(SPEC, webhook_url=url)
        await bench.ledger.jobs.submit(job_id, session, spec, "procedural", now=1000, key_id="key_1")
        await bench.ledger.jobs.change(job_id, Change.CANCEL, now=now, error="cancelled", error_code="cancelled")

    async def due(self, bench: Bench, now: int = 5000, **but: Sequence[str]) -> list[str]:
        return [webhook.job_id for webhook in await bench.ledger.webhooks.due(now=now, limit=10, **but)]

    async def test_one_is_due_when_its_job_is_over_however_it_ends(self, bench: Bench) -> None:
        spec = msgspec.structs.replace(SPEC, webhook_url=self.URL)
        for name in ("ext_1", "ext_2", "ext_3"):
            await bench.ledger.jobs.submit(name, "sid_a", spec, "procedural", now=1000, key_id="key_1")
        await bench.submit("ext_4")
        first, second = await bench.claim(), await bench.claim()
        assert await self.due(bench) == []
        await bench.ledger.jobs.change(
            "ext_1", Change.COMPLETE, now=3000, token=first.token, outputs=(picture("ext_1.png"),)
        )
        await bench.ledger.jobs.change("ext_2", Change.FAIL, now=3001, token=second.token, error="no", error_code="no")
        for name in ("ext_3", "ext_4"):
            await bench.ledger.jobs.change(name, Change.CANCEL, now=3002)
        assert await self.due(bench) == ["ext_1", "ext_2", "ext_3"], "a job without a webhook_url has none"
        found = (await bench.ledger.webhooks.of_jobs(["ext_1", "ext_4", "ext_9"]))["ext_1"]
        assert found.id.startswith("msg_")
        assert found == Webhook(
            found.id, "ext_1", "sid_a", "key_1", self.URL, "hooks.example", WebhookState.PENDING, 0, 3000, 3000
        )

    async def test_an_end_that_is_refused_tells_nobody(self, bench: Bench) -> None:
        await self.over(bench, "ext_1")
        with pytest.raises(Conflict):
            await bench.ledger.jobs.change("ext_1", Change.CANCEL, now=4000)
        assert await self.due(bench) == ["ext_1"]

    async def test_an_odd_address_does_not_keep_a_job_from_ending(self, bench: Bench) -> None:
        for number, url in enumerate(("http://[", "nonsense", "http://[::1]:x/", "//")):
            await self.over(bench, f"ext_{number}", url=url)
        assert len(await self.due(bench)) == 4

    async def test_some_can_be_left_out(self, bench: Bench) -> None:
        await self.over(bench, "ext_1", now=3003)
        await self.over(bench, "ext_2", "sid_b", now=3002)
        await self.over(bench, "ext_3", "sid_c", "http://other.example/", now=3001)
        await self.over(bench, "ext_4", "sid_c", "http://third.example/", now=6000)
        assert await self.due(bench) == ["ext_3", "ext_2", "ext_1"], "the longest due first"
        assert await self.due(bench, hosts=["hooks.example"]) == ["ext_3"]
        assert await self.due(bench, sessions=["sid_b", "sid_c"]) == ["ext_1"]
        second = (await bench.ledger.webhooks.of_jobs(["ext_2"]))["ext_2"]
        assert await self.due(bench, ids=[second.id]) == ["ext_3", "ext_1"]
        assert len(await bench.ledger.webhooks.due(now=5000, limit=1)) == 1
        assert await bench.ledger.webhooks.next_at(after=5000) == 6000
        assert await bench.ledger.webhooks.next_at(after=6000) is None

    async def test_a_delivery_is_noted_and_its_end_is_final(self, bench: Bench) -> None:
        await self.over(bench, "ext_1")
        (webhook,) = await bench.ledger.webhooks.due(now=5000, limit=1)
        retried = {"state": WebhookState.PENDING, "attempts": 1, "next_at": 9000, "last_error": "it answered 500"}
        assert await bench.ledger.webhooks.record_attempt(webhook.id, **retried)
        assert await self.due(bench) == []
        assert await self.due(bench, now=9000) == ["ext_1"]
        delivered = {"state": WebhookState.DELIVERED, "attempts": 2, "delivered_at": 9100}
        assert await bench.ledger.webhooks.record_attempt(webhook.id, **delivered)
        assert not await bench.ledger.webhooks.record_attempt(webhook.id, **retried)
        stands = replace(webhook, next_at=None, **delivered)
        assert await bench.ledger.webhooks.of_jobs(["ext_1"]) == {"ext_1": stands}
        assert await bench.ledger.webhooks.next_at(after=0) is None

    async def test_the_key_that_made_a_job_is_known(self, bench: Bench) -> None:
        await self.over(bench, "ext_1")
        job = await bench.ledger.jobs.get("ext_1")
        assert job is not None
        assert job.key_id == "key_1"
        assert (await bench.submit("ext_2")).key_id == ""


class TestSqliteFile:
    """What is true of the file itself."""

    async def test_it_is_synced_and_survives_reopening(self, tmp_path: Path) -> None:
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

    async def test_a_file_that_is_no_ledger_is_let_go_of(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite3"
        path.write_bytes(b"This is no database. " * 400)
        with pytest.raises(sqlite3.DatabaseError):
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

    async def test_an_older_file_opens_and_is_brought_up_to_date(self, tmp_path: Path) -> None:
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
        assert await ledger.jobs.count() == {State.QUEUED: 1, State.RUNNING: 1}
        (job,) = await ledger.jobs.claim("worker", now=2000, lease_until=3000)
        await ledger.close()
        assert (job.id, job.request, job.priority) == ("ext_1", GenerationRequest("a lighthouse", seed=7), 0)

    async def test_a_file_that_another_program_holds_is_said_to_be_unavailable(
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
            assert await ledger.jobs.get("ext_1") is None, "reading goes on"
        await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
        await ledger.close()


def test_every_statement_is_used() -> None:
    named, _ = load_statements(Dialect(contains=str))
    used = "".join(path.read_text() for path in Path(statements.__file__).parent.glob("*.py"))
    assert [name for name in named if f'"{name}"' not in used] == []


# --- limits, images that go, uploads, keys ---------------------------------------------------------------


async def test_a_session_may_have_so_many_alive_and_so_many_a_day(bench: Bench) -> None:
    caps = Caps(active=2, daily=3)
    first = await bench.submit("a1", now=DAY, caps=caps)
    await bench.submit("a2", now=DAY, caps=caps)
    await bench.claim(now=DAY + 1)
    with pytest.raises(TooManyJobs) as full:
        await bench.submit("a3", now=DAY + 2, caps=caps)
    assert full.value.job_id == first.id, "the one that runs"
    await bench.submit("b1", "sid_b", now=DAY, caps=caps)
    await bench.ledger.jobs.change("a1", Change.CANCEL, now=DAY + 3)
    await bench.submit("a3", now=DAY + 4, caps=caps)
    await bench.ledger.jobs.change("a3", Change.CANCEL, now=DAY + 5)
    with pytest.raises(DailyLimit) as used_up:
        await bench.submit("a4", now=2 * DAY - 1, caps=caps)
    assert used_up.value.until == 2 * DAY
    await bench.submit("a4", now=2 * DAY, caps=caps)


async def test_a_refused_submit_leaves_nothing(bench: Bench) -> None:
    await bench.submit("a1", caps=Caps(active=1))
    with pytest.raises(TooManyJobs):
        used = Idempotency("k", b"1" * 32)
        await bench.ledger.jobs.submit("a2", "sid_a", SPEC, "procedural", now=1, idempotency=used, caps=Caps(active=1))
    assert await bench.ledger.jobs.get("a2") is None
    assert await bench.ledger.jobs.earlier("sid_a", Idempotency("k", b"2" * 32), now=2) is None


async def test_an_earlier_job_is_found_by_its_idempotency(bench: Bench) -> None:
    used = Idempotency("k", b"1" * 32)
    made, _ = await bench.ledger.jobs.submit("a1", "sid_a", SPEC, "procedural", now=1, idempotency=used)
    assert await bench.ledger.jobs.earlier("sid_a", used, now=2) == made
    assert await bench.ledger.jobs.earlier("sid_b", used, now=2) is None
    assert await bench.ledger.jobs.earlier("sid_a", used, now=1 + DAY) is None
    with pytest.raises(IdempotencyConflict):
        await bench.ledger.jobs.earlier("sid_a", Idempotency("k", b"2" * 32), now=2)


async def finished(bench: Bench, number: int) -> Output:
    """A job that was completed at the time `number`, with an image of 3 bytes."""
    await bench.submit(f"a{number}", now=number)
    job = await bench.claim(now=number)
    output = picture(f"umrgen_{number}.png")
    await bench.ledger.jobs.change(job.id, Change.COMPLETE, now=number, token=job.token, outputs=(output,), step=4)
    return output


async def test_images_expire_by_age_and_their_record_stays(bench: Bench) -> None:
    first, second, third = [await finished(bench, number) for number in (1, 2, 3)]
    assert await bench.ledger.outputs.kept_bytes() == 9
    assert await bench.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=1) == [first]
    assert await bench.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=10) == [second]
    assert await bench.ledger.outputs.expire(now=9, before=3, keep_bytes=0, limit=10) == []
    assert await bench.ledger.outputs.kept_bytes() == 3
    with pytest.raises(OutputExpired):
        await bench.ledger.outputs.get("sid_a", first.name)
    assert await bench.ledger.outputs.get("sid_b", first.name) is None
    assert await bench.ledger.outputs.get("sid_a", third.name) == third
    obsolete = await bench.ledger.outputs.obsolete_files(now=2**50, limit=99)
    assert ("sid_a", first.name) in obsolete
    assert ("sid_a", third.name) not in obsolete
    job = await bench.ledger.jobs.get("a1")
    assert job is not None
    assert (job.state, job.outputs) == (State.COMPLETED, (first,))


async def test_images_expire_by_their_size_the_oldest_first(bench: Bench) -> None:
    first, second, _ = [await finished(bench, number) for number in (1, 2, 3)]
    assert await bench.ledger.outputs.expire(now=9, before=0, keep_bytes=9, limit=10) == []
    assert await bench.ledger.outputs.expire(now=9, before=0, keep_bytes=4, limit=10) == [first, second]
    assert await bench.ledger.outputs.kept_bytes() == 3


def upload(name: str, session: str = "sid_a", created_at: int = 5) -> Upload:
    return Upload(name, session, 3, "00" * 32, 64, 64, created_at)


async def add_upload(bench: Bench, upload: Upload, cap: int = 10) -> None:
    await bench.ledger.uploads.add(upload, cap=cap)
    assert await bench.ledger.uploads.mark_stored(upload.session_id, upload.name)


async def test_uploads_are_a_sessions_own_and_so_many(bench: Bench) -> None:
    ledger = bench.ledger
    for number in range(3):
        await add_upload(bench, upload(f"ref_{number}.png", created_at=number), cap=3)
    with pytest.raises(UploadsFull):
        await ledger.uploads.add(upload("ref_3.png"), cap=3)
    await add_upload(bench, upload("ref_b.png", "sid_b"), cap=3)
    assert [each.name for each in await ledger.uploads.of_session("sid_a")] == ["ref_0.png", "ref_1.png", "ref_2.png"]
    assert await ledger.uploads.get("sid_b", "ref_0.png") is None
    assert not await ledger.uploads.remove("sid_b", "ref_0.png")
    assert await ledger.uploads.remove("sid_a", "ref_0.png")
    assert not await ledger.uploads.remove("sid_a", "ref_0.png")
    assert await ledger.outputs.obsolete_files(now=0, limit=9) == [("sid_a", "ref_0.png")]
    await ledger.outputs.forget_files([("sid_a", "ref_0.png")])
    assert await ledger.outputs.obsolete_files(now=0, limit=9) == []


async def test_an_upload_is_visible_once_its_file_is_stored(bench: Bench) -> None:
    uploads, hour = bench.ledger.uploads, 3_600_000
    await uploads.add(upload("a.png"), cap=1)
    assert await uploads.get("sid_a", "a.png") is None
    assert await uploads.of_session("sid_a") == []
    with pytest.raises(UploadsFull):
        await uploads.add(upload("b.png", created_at=hour), cap=1)
    await uploads.add(upload("b.png", created_at=hour + 9), cap=1)  # the first was broken off
    assert await uploads.mark_stored("sid_a", "b.png")
    assert not await uploads.mark_stored("sid_b", "b.png")
    assert [each.name for each in await uploads.of_session("sid_a")] == ["b.png"]
    assert [each.name for each in await uploads.expire(before=10, limit=10)] == ["a.png"]


async def test_uploads_go_when_no_job_needs_them_any_more(bench: Bench) -> None:
    ledger = bench.ledger
    await add_upload(bench, upload("a.png"))  # SPEC names it
    await add_upload(bench, upload("b.png"))
    await add_upload(bench, upload("c.png", created_at=50))
    await bench.submit("ext_1")
    assert [each.name for each in await ledger.uploads.expire(before=10, limit=10)] == ["b.png"]
    await ledger.jobs.change("ext_1", Change.CANCEL, now=9)
    assert [each.name for each in await ledger.uploads.expire(before=10, limit=10)] == ["a.png"]
    assert [each.name for each in await ledger.uploads.of_session("sid_a")] == ["c.png"]


async def test_the_last_use_of_a_key_never_goes_back(bench: Bench) -> None:
    limited = Key("key_1", b"1" * 32, "sid_a", "mine", 1, expires_at=99, rate=5, concurrent=0, daily=7)
    await bench.ledger.keys.add(limited)
    assert await bench.ledger.keys.find(limited.hash) == limited
    await bench.ledger.keys.record_uses({"key_1": 50, "key_none": 1})
    await bench.ledger.keys.record_uses({"key_1": 40})
    assert await bench.ledger.keys.get("key_1") == replace(limited, last_used_at=50)
