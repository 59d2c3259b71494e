"""Attempts and the dispatcher, with controlled orders of events."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.leaping import LeapingLoop

from umrgen.model import State
from umrgen.server.blobs import BlobStoreOutage, BlobStoreUnavailable
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.domain.job import Change, Conflict, Job, output_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineCrashed, EngineInfo, EngineStalled
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage
from umrgen.server.ledger import JobCounts
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.attempt import Attempt, AttemptContext, DispatchPolicy
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.scheduler.previews import Previews

SPEC = GenerationRequest("a boat", seed=1, width=512, height=512, steps=9)


class StalledExecutor:
    """An executor whose engine reports one step and never ends, and a clock that does not advance."""

    capacity = 1
    info: EngineInfo | None = None
    loaded = True

    def watch(self, on_capacity: object) -> None:
        """The capacity never grows."""

    def __init__(self) -> None:
        self.time = 1000
        self.sleeping, self.stopped = asyncio.Event(), asyncio.Event()

    def now(self) -> int:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeping.set()
        await asyncio.get_running_loop().create_future()

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview, batch: object = None
    ) -> tuple[VerifiedImage, ...]:
        on_step(1, 9)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stopped.set()
        raise AssertionError


@pytest.fixture
async def ledger() -> Any:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


def attempt_context(executor: StalledExecutor, ledger: MemoryLedger, **policy: Any) -> AttemptContext:
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    return AttemptContext(ledger.jobs, executor, SimpleNamespace(), executor, DispatchPolicy(**policy), previews)  # type: ignore[arg-type]


async def claimed(ledger: MemoryLedger, lease_until: int) -> Job:
    await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
    (job,) = await ledger.jobs.claim("worker", now=1000, lease_until=lease_until)
    return job


async def test_a_cancellation_stops_the_engine_between_two_writes_of_progress(ledger: MemoryLedger) -> None:
    executor = StalledExecutor()
    attempt = Attempt(await claimed(ledger, 9000), attempt_context(executor, ledger))
    running = asyncio.create_task(attempt.run())
    async with asyncio.timeout(10):
        await executor.sleeping.wait()  # the first step is written, and the attempt waits before the next write
        attempt.end()
        await running
    assert executor.stopped.is_set()


@pytest.mark.parametrize("where", ["run", "beat"])
async def test_a_job_is_queued_again_after_an_unexpected_exception(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def fail(*_: object) -> None:
        raise OverflowError

    executor = StalledExecutor()
    if where == "run":
        monkeypatch.setattr(executor, "run", fail)
    else:
        monkeypatch.setattr(Attempt, "_heartbeat", fail)
    async with asyncio.timeout(10):
        await Attempt(await claimed(ledger, 9000), attempt_context(executor, ledger)).run()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.tries) == (State.QUEUED, 1)


@pytest.mark.parametrize("clock", [0, 1000, 2**41])
async def test_a_start_requeues_the_jobs_of_its_worker_at_any_time_of_the_clock(
    ledger: MemoryLedger, clock: int
) -> None:
    await claimed(ledger, lease_until=2**50)
    executor = StalledExecutor()
    executor.time = clock
    await Dispatcher(attempt_context(executor, ledger), "another").recover()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert job.state is State.RUNNING, "another worker runs it"
    await Dispatcher(attempt_context(executor, ledger), "worker").recover()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.interruptions, job.tries) == (State.QUEUED, 1, 0)


async def test_an_expired_lease_counts_as_a_crash_and_the_third_fails_the_job(ledger: MemoryLedger) -> None:
    executor = StalledExecutor()
    dispatcher = Dispatcher(attempt_context(executor, ledger), "worker")
    job = await claimed(ledger, lease_until=2000)
    for attempt in (1, 2, 3):
        executor.time += 5000
        (expired_leases,) = await ledger.jobs.expired_leases(now=executor.time)
        await dispatcher._check_lease(expired_leases)
        late = ledger.jobs.change("ext_1", Change.COMPLETE, now=executor.time, token=job.token)
        with pytest.raises(Exception, match=r"holds this job|cannot complete"):
            await late
        if attempt < 3:
            (job,) = await ledger.jobs.claim("worker", now=executor.time, lease_until=executor.time + 1000)
    end = await ledger.jobs.get("ext_1")
    assert end is not None
    assert (end.state, end.error_code, end.attempt) == (State.FAILED, "engine_crashed", 3)
    assert end.error == "its worker did not renew the lease (in attempt 3, the last)"


async def test_a_worker_that_renews_its_lease_in_time_keeps_its_job(ledger: MemoryLedger) -> None:
    executor = StalledExecutor()
    job = await claimed(ledger, lease_until=2000)
    (expired_leases,) = await ledger.jobs.expired_leases(now=5000)
    await ledger.jobs.change("ext_1", Change.PROGRESS, now=5000, token=job.token, lease_until=9000)
    await Dispatcher(attempt_context(executor, ledger), "worker")._check_lease(expired_leases)
    now = await ledger.jobs.get("ext_1")
    assert now is not None
    assert (now.state, now.token) == (State.RUNNING, job.token)


class ImmediateExecutor(StalledExecutor):
    """An executor that returns its images without delay."""

    images = 1

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview, batch: object = None
    ) -> tuple[VerifiedImage, ...]:
        return tuple(VerifiedImage(b"png", "ab" * 32, 512, 512) for _ in range(self.images))


class RecordingBlobs:
    """A blob store that records the state of the job at each put."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.states: list[State] = []
        self.files: set[str] = set()

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        job = await self.ledger.jobs.get("ext_1")
        assert job is not None
        self.states.append(job.state)
        self.files.add(name)

    async def delete(self, session_id: str, name: str) -> None:
        self.files.discard(name)


def recording(ledger: MemoryLedger, images: int = 1) -> tuple[RecordingBlobs, AttemptContext]:
    executor, blobs = ImmediateExecutor(), RecordingBlobs(ledger)
    executor.images = images
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    context = AttemptContext(ledger.jobs, executor, blobs, executor, DispatchPolicy(), previews)  # type: ignore[arg-type]
    return blobs, context


@pytest.mark.parametrize("images", [1, 3])
async def test_images_are_stored_before_their_job_is_completed(ledger: MemoryLedger, images: int) -> None:
    blobs, context = recording(ledger, images)
    async with asyncio.timeout(10):
        await Attempt(await claimed(ledger, 9000), context).run()
    assert blobs.states == [State.RUNNING] * images
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert job.state is State.COMPLETED
    assert {output.name for output in job.outputs} == blobs.files
    assert len(blobs.files) == images
    assert await ledger.outputs.obsolete_files(now=2**50, limit=99) == []


async def test_the_images_of_a_job_that_was_cancelled_before_its_end_are_deleted(ledger: MemoryLedger) -> None:
    blobs, context = recording(ledger, 2)
    attempt = Attempt(await claimed(ledger, 9000), context)
    await ledger.jobs.change("ext_1", Change.CANCEL, now=1000, error_code="cancelled")
    async with asyncio.timeout(10):
        await attempt.run()
    assert blobs.files == set()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.error_code) == (State.FAILED, "cancelled")


@pytest.mark.parametrize("change", [Change.RELEASE, Change.FAIL, Change.CANCEL])
async def test_the_possible_files_of_an_attempt_are_obsolete_an_hour_after_its_end(
    ledger: MemoryLedger, change: Change
) -> None:
    """Its server may have been killed between the file and the record, or executor be writing the file."""
    job = await claimed(ledger, 9000)
    stored = output_name(job, 1, "image/png")
    await ledger.jobs.change("ext_1", change, now=2000)
    assert await ledger.outputs.obsolete_files(now=2000 + 3_599_999, limit=99) == []
    assert ("sid_a", stored) in await ledger.outputs.obsolete_files(now=2000 + 3_600_000, limit=99)


@pytest.mark.parametrize("failure", [EngineCrashed("killed by SIGKILL"), EngineStalled("no progress")])
async def test_a_job_is_queued_again_after_a_failure_of_its_engine(ledger: MemoryLedger, failure: Exception) -> None:
    class Failing(StalledExecutor):
        async def run(self, *_: object) -> tuple[VerifiedImage, ...]:
            raise failure

    async with asyncio.timeout(10):
        await Attempt(await claimed(ledger, 9000), attempt_context(Failing(), ledger)).run()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.tries) == (State.QUEUED, 1)


async def test_an_image_is_kept_in_memory_until_it_can_be_stored(ledger: MemoryLedger) -> None:
    stored, context = recording(ledger)
    put, drawn = stored.put, 0

    class Once(ImmediateExecutor):
        async def run(self, *arguments: Any) -> tuple[VerifiedImage, ...]:
            nonlocal drawn
            drawn += 1
            return await super().run(*arguments)

        async def sleep(self, seconds: float) -> None:
            stored.put = put  # type: ignore[method-assign]  # the disk has space again

    async def full(*_: object) -> None:
        raise BlobStoreUnavailable("the image could not be stored: No space left on device")

    stored.put = full  # type: ignore[method-assign]
    once = Once()
    context = replace(context, executor=once, clock=once)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await Attempt(await claimed(ledger, 9000), context).run()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.attempt, drawn) == (State.COMPLETED, 1, 1)


class Waiting(ImmediateExecutor):
    """An executor with a clock: `sleep` calls `back` when as many seconds were waited."""

    def __init__(self, seconds: float, back: Callable[[], None]) -> None:
        super().__init__()
        self._left = seconds
        self._back = back

    async def sleep(self, seconds: float) -> None:
        self._left -= seconds
        if self._left <= 0:
            self._back()


async def away(*_: object) -> None:
    raise BlobStoreOutage("the images in s3://images could not be stored: S3 does not answer")


async def test_a_job_waits_without_a_limit_for_a_blob_store_that_is_away(ledger: MemoryLedger) -> None:
    stored, context = recording(ledger)
    put = stored.put
    stored.put = away  # type: ignore[method-assign]
    waiting = Waiting(3600, lambda: setattr(stored, "put", put))
    context = replace(context, executor=waiting, clock=waiting)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await Attempt(await claimed(ledger, 9000), context).run()
    job = await ledger.jobs.get("ext_1")
    assert job is not None
    assert (job.state, job.attempt) == (State.COMPLETED, 1)


async def test_a_job_waits_for_its_reference_image(ledger: MemoryLedger) -> None:
    """Without the wait, its three attempts would be used within a second."""
    blobs = MemoryBlobStore()
    await blobs.put("sid_a", "reference.png", b"png")
    open_range = blobs.open_range
    blobs.open_range = away  # type: ignore[assignment, method-assign]
    waiting = Waiting(600, lambda: setattr(blobs, "open_range", open_range))
    _, context = recording(ledger)
    context = replace(context, executor=waiting, clock=waiting, blobs=blobs)  # type: ignore[arg-type]
    spec = msgspec.structs.replace(SPEC, reference_images=("reference.png",))
    await ledger.jobs.submit("ext_1", "sid_a", spec, "procedural", now=1000)
    (job,) = await ledger.jobs.claim("worker", now=1000, lease_until=9000)
    async with asyncio.timeout(60):
        await Attempt(job, context).run()
    over = await ledger.jobs.get("ext_1")
    assert over is not None
    assert (over.state, over.attempt) == (State.COMPLETED, 1)


class GatedExecutor(StalledExecutor):
    """An executor whose drawings end when the test sets their event."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.gates: dict[str, asyncio.Event] = {}
        self._batches: dict[JobBatch, list[str]] = {}
        self.changed = asyncio.Condition()
        self.on_capacity: Callable[[], None]

    def watch(self, on_capacity: Callable[[], None]) -> None:  # type: ignore[override]
        self.on_capacity = on_capacity

    def grow(self, capacity: int) -> None:
        self.capacity = capacity
        self.on_capacity()

    async def ready(self) -> None:
        """Return: an engine is always idle."""

    async def run(self, task: DrawTask, *arguments: Any) -> tuple[VerifiedImage, ...]:
        self._batches.setdefault(arguments[-1], []).append(task.job_id)
        gate = self.gates[task.job_id] = asyncio.Event()
        await self._notify()
        try:
            await gate.wait()
        finally:
            del self.gates[task.job_id]
            await self._notify()
        return (VerifiedImage(b"png", "ab" * 32, 512, 512),)

    @property
    def batches(self) -> list[list[str]]:
        """The ids of the jobs that were drawn together."""
        return list(self._batches.values())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def running(self, *job_ids: str) -> None:
        """Wait until exactly these jobs run."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: sorted(self.gates) == sorted(job_ids))


async def test_the_dispatcher_claims_as_many_jobs_as_there_is_capacity() -> None:
    ledger, executor = MemoryLedger(), GatedExecutor(capacity=0)
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    context = AttemptContext(ledger.jobs, executor, RecordingBlobs(ledger), executor, DispatchPolicy(), previews)  # type: ignore[arg-type]
    dispatcher = Dispatcher(context, "worker")
    await ledger.open(dispatcher.notify)
    for number in (1, 2, 3, 4):
        await ledger.jobs.submit(f"ext_{number}", "sid_a", SPEC, "procedural", now=1000)
    dispatcher.start()
    executor.grow(2)
    await executor.running("ext_1", "ext_2")
    assert await ledger.jobs.count() == JobCounts(2, 2)
    executor.gates["ext_1"].set()
    await executor.running("ext_2", "ext_3")
    executor.grow(3)
    await executor.running("ext_2", "ext_3", "ext_4")
    async with asyncio.timeout(10):
        await dispatcher.drain(0)
    assert await ledger.jobs.count() == JobCounts(3, 0)
    await ledger.close()


async def test_the_engine_of_a_job_that_another_server_cancelled_gets_the_next_job() -> None:
    """The clock stands still, so no write of progress and no renewal of the lease shows the cancellation."""
    ledger, executor = MemoryLedger(), GatedExecutor(capacity=1)
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    context = AttemptContext(ledger.jobs, executor, RecordingBlobs(ledger), executor, DispatchPolicy(), previews)  # type: ignore[arg-type]
    dispatcher = Dispatcher(context, "worker")
    await ledger.open(dispatcher.notify)
    for name in ("ext_1", "ext_2"):
        await ledger.jobs.submit(name, "sid_a", SPEC, "fake", now=1000)
    dispatcher.start()
    await executor.running("ext_1")
    await ledger.jobs.change("ext_1", Change.CANCEL, now=1000, error="cancelled", error_code="cancelled")
    await executor.running("ext_2")
    async with asyncio.timeout(10):
        await dispatcher.drain(0)
    await ledger.close()


async def test_jobs_that_are_drawn_together_are_claimed_together() -> None:
    ledger, executor = MemoryLedger(), GatedExecutor(capacity=0)
    executor.info = EngineInfo("fake", "model", "1", max_batch=3)
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    context = AttemptContext(ledger.jobs, executor, RecordingBlobs(ledger), executor, DispatchPolicy(), previews)  # type: ignore[arg-type]
    dispatcher = Dispatcher(context, "worker")
    await ledger.open(dispatcher.notify)
    for number, width in enumerate((512, 512, 512, 512, 640, 512)):
        await ledger.jobs.submit(f"ext_{number}", "sid_a", request_of(width), "fake", now=1000)
    dispatcher.start()
    executor.grow(2)
    await executor.running("ext_0", "ext_1", "ext_2", "ext_3")
    assert {frozenset(batch) for batch in executor.batches} == {
        frozenset(("ext_0", "ext_2")),
        frozenset(("ext_1", "ext_3")),
    }
    executor.gates["ext_0"].set()
    await executor.running("ext_1", "ext_2", "ext_3")  # its batch is not released while another job of it is drawn
    executor.gates["ext_2"].set()
    await executor.running("ext_1", "ext_3", "ext_4")
    async with asyncio.timeout(10):
        await dispatcher.drain(0)
    await ledger.close()


def request_of(width: int) -> GenerationRequest:
    return GenerationRequest("a boat", seed=1, width=width, height=512, steps=9)


class LeapingClock:
    """The time of a leaping loop, and a wall clock that can be set."""

    set_by = 0

    def now(self) -> int:
        return 1_800_000_000_000 + self.set_by + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TestLeasesAfterAStandstill:
    """Two servers share a ledger on one machine; one of them runs a job, the other one checks the leases."""

    LEASE = 30.0

    @classmethod
    def play(cls, at: float, happens: Callable[[LeapingLoop, LeapingClock], None], *, renews: bool) -> Job:
        """Return the job 200 s after an event at `at`; the worker ends then unless it `renews` its lease."""

        async def run() -> Job:
            ledger, clock = MemoryLedger(), LeapingClock()
            await ledger.open()
            executor = StalledExecutor()
            context = attempt_context(executor, ledger, lease=cls.LEASE)
            checking = asyncio.create_task(Dispatcher(replace(context, clock=clock), "checker")._check_leases())
            until = lambda: clock.now() + int(cls.LEASE * 1000)  # noqa: E731
            await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=clock.now())
            (job,) = await ledger.jobs.claim("worker", now=clock.now(), lease_until=until())
            loop = asyncio.get_running_loop()
            assert isinstance(loop, LeapingLoop)
            loop.call_later(at, happens, loop, clock)
            while loop.time() <= at or renews:
                await asyncio.sleep(cls.LEASE / 3)
                with suppress(Conflict):
                    await ledger.jobs.change(
                        "ext_1", Change.PROGRESS, now=clock.now(), token=job.token, lease_until=until()
                    )
                if loop.time() > at + 200:
                    break
            if not renews:
                await asyncio.sleep(200)  # all of it is after the event
            checking.cancel()
            job_now = await ledger.jobs.get("ext_1")
            await ledger.close()
            assert job_now is not None
            return job_now

        loop = LeapingLoop()
        try:
            return loop.run_until_complete(run())
        finally:
            loop.close()

    EVENTS: ClassVar[dict[str, Callable[[LeapingLoop, LeapingClock], None]]] = {
        "stopped": lambda loop, clock: loop.leap(3600),
        "suspended": lambda loop, clock: setattr(clock, "set_by", clock.set_by + 3_600_000),
        "set back": lambda loop, clock: setattr(clock, "set_by", clock.set_by - 3_600_000),
    }

    @settings(max_examples=40)
    @given(at=st.floats(0, 100), event=st.sampled_from(sorted(EVENTS)))
    def test_a_job_is_not_taken_from_a_worker_that_continues_too(self, at: float, event: str) -> None:
        job = self.play(at, self.EVENTS[event], renews=True)
        assert (job.state, job.tries) == (State.RUNNING, 1)

    @settings(max_examples=20)
    @given(at=st.floats(0, 100), event=st.sampled_from(["stopped", "suspended"]))
    def test_a_job_is_taken_from_a_worker_that_does_not(self, at: float, event: str) -> None:
        job = self.play(at, self.EVENTS[event], renews=False)
        assert job.state is State.QUEUED
