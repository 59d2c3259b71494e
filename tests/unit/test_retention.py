"""Retention deletes nothing while the system's time, or the ledger, cannot be trusted."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from umrgen.clock import seconds_since_boot
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.clock_check import ClockCheck
from umrgen.server.services.retention import Retention, RetentionPolicy
from umrgen.server.tasks import cancelled
from umrgen.testing import FakeClock

HOUR, DAY = 3600.0, 86_400.0
KEPT_HOURS = 30 * 24.0
FILES = 2
"""The image and its thumbnail."""


class Images:
    """A retention of 30 days over a ledger and a blob store in memory."""

    def __init__(self, ledger: MemoryLedger, clock: FakeClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.blobs = MemoryBlobStore()
        self.retention = self.restart()

    def restart(self, kept_hours: float = KEPT_HOURS) -> Retention:
        lease = TaskLease(self.ledger.coordination, "retention", "worker", self.clock)
        keep = RetentionPolicy(kept_hours, 0, kept_hours, record_days=365)
        nothing: Any = lambda session_id, name: None  # noqa: E731
        ledger = self.ledger
        self.retention = Retention(
            ledger.jobs, ledger.outputs, ledger.uploads, self.blobs, self.clock, keep, nothing, lease
        )
        return self.retention

    async def draw(self, name: str) -> None:
        jobs, now = self.ledger.jobs, self.clock.now()
        await jobs.submit(name, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=now)
        (job,) = await jobs.claim("worker", now=now, lease_until=now + 1)
        output = Output(f"{name}.png", "sid_a", 3, "00" * 32, 512, 512)
        await self.blobs.put("sid_a", output.name, b"png")
        await jobs.change(job.id, Change.COMPLETE, now=now, token=job.token, outputs=(output,))

    async def minutes(self, count: int) -> int:
        """Run retention once a minute; return how many files were deleted."""
        deleted = 0
        for _ in range(count):
            self.clock.advance(60)
            deleted += await self.retention.once()
        return deleted


@pytest.fixture
async def images() -> AsyncIterator[Images]:
    ledger = MemoryLedger()
    await ledger.open(lambda jobs: None)
    yield Images(ledger, FakeClock())
    await ledger.close()


async def test_old_images_are_deleted_on_time(images: Images) -> None:
    images.restart(kept_hours=3 * 24)
    await images.draw("ext_1")
    assert await images.minutes(3 * 24 * 60 - 1) == 0
    assert await images.minutes(2) == FILES


@pytest.mark.parametrize("hours", [31 * 24.0, 20 * 365 * 24.0])
async def test_a_clock_that_is_ahead_for_a_minute_deletes_nothing(images: Images, hours: float) -> None:
    await images.draw("ext_1")
    await images.minutes(1)
    images.clock.jump_wall(hours * HOUR)
    assert await images.minutes(1) == 0
    images.clock.jump_wall(-hours * HOUR)
    assert await images.minutes(24 * 60 + 10) == 0
    assert not await images.blobs.is_empty()


async def test_a_clock_that_stays_ahead_is_believed_after_a_day(images: Images) -> None:
    await images.draw("ext_1")
    await images.minutes(1)
    images.clock.jump_wall(31 * DAY)
    assert await images.minutes(24 * 60) == 0
    assert await images.minutes(2) == FILES


async def test_a_start_with_a_wrong_date_deletes_nothing_for_a_day(images: Images) -> None:
    await images.draw("ext_1")
    images.clock.jump_wall(40 * DAY)
    images.restart()
    assert await images.minutes(24 * 60) == 0
    assert await images.minutes(2) == FILES


async def test_small_corrections_of_the_clock_change_nothing(images: Images) -> None:
    check = ClockCheck(images.clock)
    for seconds in (0, 5, -5, 3000, -3000):
        images.clock.jump_wall(seconds)
        assert check.is_trusted(None)


async def test_a_suspended_machine_is_no_jump_of_the_clock(images: Images) -> None:
    """The monotonic time of Linux stops then; the time since the start of the system does not."""
    asleep = 0.0
    check = ClockCheck(images.clock, lambda: images.clock.monotonic() + asleep)
    assert check.is_trusted(None)
    images.clock.jump_wall(DAY)
    asleep = DAY
    assert check.is_trusted(None)
    images.clock.jump_wall(DAY)
    assert not check.is_trusted(None)


def test_the_time_since_the_start_of_the_system_counts_suspensions() -> None:
    assert seconds_since_boot() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=60)


async def test_a_paused_retention_deletes_nothing(images: Images) -> None:
    await images.draw("ext_1")
    images.clock.advance(31 * DAY)
    images.retention.paused = True
    assert await images.minutes(5) == 0


async def days(images: Images, count: int) -> None:
    """Let days pass in which the server ran, and run retention at the end."""
    await images.retention.once()
    images.clock.advance(count * DAY)
    await images.retention.once()


async def test_the_record_of_a_job_is_deleted_a_year_after_its_image(images: Images) -> None:
    await images.draw("ext_old")
    await days(images, 31)
    assert await images.blobs.is_empty()
    await images.draw("ext_new")
    await days(images, 364)
    assert await images.ledger.jobs.get("ext_old") is not None
    await days(images, 2)
    assert await images.ledger.jobs.get("ext_old") is None
    assert await images.ledger.outputs.get("sid_a", "ext_old.png") is None
    assert await images.ledger.jobs.get("ext_new") is not None


async def test_old_records_are_deleted_in_small_transactions(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, now, slices = images.ledger.jobs, images.clock.now(), []
    for number in range(250):
        await jobs.submit(f"ext_{number}", "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=now)
        await jobs.change(f"ext_{number}", Change.CANCEL, now=now)
    prune = jobs.prune

    async def counted(**options: Any) -> int:
        slices.append(await prune(**options))
        return slices[-1]

    monkeypatch.setattr(jobs, "prune", counted)
    await days(images, 366)
    assert [count for count in slices if count] == [50] * 5


async def test_others_have_the_ledger_for_half_of_the_time_while_it_is_slow(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter([0.01, 0.4, 0.02])
    spans: list[tuple[float, float]] = []
    clock = images.clock

    async def slow(**options: Any) -> int:
        begun = clock.monotonic()
        await clock.sleep(seconds := next(took, 0.0))
        spans.append((begun, clock.monotonic()))
        return 1 if seconds else 0

    monkeypatch.setattr(images.ledger.jobs, "prune", slow)
    await images.retention.once()
    pauses = [begun - ended for (_, ended), (begun, _) in pairwise(spans)]
    assert pauses == pytest.approx([0.05, 0.4, 0.05])


async def test_a_transaction_that_has_taken_20_ms_deletes_no_more(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, slices = images.ledger.jobs, []
    for number in range(45):
        await jobs.submit(f"ext_{number}", "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
        await jobs.change(f"ext_{number}", Change.CANCEL, now=1)
    prune = jobs.prune

    async def counted(*, monotonic: Callable[[], float], **options: Any) -> int:
        times = iter([0.0, 0.019, 0.021, 9.0])
        slices.append(await prune(monotonic=lambda: next(times), **options))
        return slices[-1]

    monkeypatch.setattr(jobs, "prune", counted)
    await images.retention.once()
    assert slices == [20, 20, 5, 0]


async def test_each_server_drops_pruned_jobs_from_its_cache(images: Images) -> None:
    """The lease of the task is another server's, which has pruned the job."""
    await images.draw("ext_old")
    job = await images.ledger.jobs.get("ext_old")
    await images.ledger.coordination.acquire("retention", "other", now=images.clock.now(), until=2**62)
    await images.ledger.outputs.expire(now=images.clock.now(), before=2**62, keep_bytes=0, limit=9)
    await images.ledger.jobs.prune(before=2**62, limit=9)
    images.ledger.jobs.observe([job] if job else [])
    assert images.ledger.jobs.peek("ext_old") is not None
    await days(images, 366)
    assert images.ledger.jobs.peek("ext_old") is None


@pytest.mark.parametrize("failure", [LedgerUnavailable("the disk is full"), KeyError("a defect")])
async def test_it_is_tried_again_after_a_failure(
    images: Images, failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done, failures = asyncio.Event(), [failure]

    async def expire(**limits: int) -> list[Output]:
        if failures:
            raise failures.pop()
        done.set()
        return []

    monkeypatch.setattr(images.ledger.outputs, "expire", expire)
    running = asyncio.create_task(images.retention.run())
    async with asyncio.timeout(10):
        await done.wait()
    await cancelled(running)
    assert "old images are not deleted, which is tried again in 60 s" in caplog.text
