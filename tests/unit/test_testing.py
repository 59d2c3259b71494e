"""The parts of `umrgen.testing` other than FaultServer: images, clocks, the fake engine, and flows without HTTP."""

import asyncio
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from support import draw_task
from umrgen import ConnectionFailed, JobNotFound, OutputMissing
from umrgen.client.flow import CallContext, Options, Reply, Step, TransportFailure
from umrgen.client.flows.wait import StatusPoller
from umrgen.image_files import verify
from umrgen.server.engines import EngineFailure, load_engine
from umrgen.server.executors.remote import RemoteExecutor
from umrgen.testing import FakeClock, FakeEngine, RecordedRequest, png_bytes, reply, run_flow
from umrgen.testing.clock import ServerClock


@pytest.mark.parametrize("size", [0, 100, 1000, 100_000, 1_000_000])
def test_png_bytes_is_a_valid_file_of_about_this_size(size: int) -> None:
    data = png_bytes(size, seed=7)
    facts = verify(data)
    assert facts.width
    assert facts.height
    assert abs(len(data) - size) < max(100, 0.1 * size)
    assert data == png_bytes(size, seed=7) != png_bytes(size, seed=8)
    if size >= 1000:
        assert len(zlib.compress(data)) > 0.9 * len(data)


async def test_the_sleep_of_a_fake_clock_advances_it() -> None:
    clock = FakeClock(start=5, wall=1000)
    await clock.sleep(3600)
    assert (clock.monotonic(), clock.now(), clock.sleeps) == (3605, 4_600_000, [3600])
    clock.jump_wall(-100)
    assert (clock.monotonic(), clock.now()) == (3605, 4_500_000)


async def test_a_server_clock_follows_its_source() -> None:
    source = FakeClock(start=5)
    clock = ServerClock(source.monotonic)
    before = clock.now()
    sleeping = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    source.advance(3599)
    clock.wake()
    await asyncio.sleep(0)
    assert not sleeping.done()
    source.advance(1)
    clock.wake()
    await asyncio.wait_for(sleeping, 10)
    assert clock.now() - before == 3_600_000


async def test_a_fake_engine_in_an_executor() -> None:
    engine = FakeEngine(fail={1: "no memory"}, images=2, capacity=4)
    executor = RemoteExecutor(engine, {})
    await executor.ready()
    assert executor.capacity == 4
    steps: list[tuple[int, int]] = []
    images = await executor.run(draw_task("a boat", steps=2), lambda step, total: steps.append((step, total)))
    assert len({image.sha256 for image in images}) == 2
    assert steps == [(1, 2), (2, 2)]
    other = RemoteExecutor("umrgen.testing:FakeEngine", {"fail": "no memory"})
    await other.ready()
    with pytest.raises(EngineFailure, match="no memory"):
        await other.run(draw_task("a boat"), lambda step, total: None)


def test_a_fake_engine_can_be_named_as_the_engine_of_a_server() -> None:
    assert isinstance(load_engine("umrgen.testing:FakeEngine", {"seconds": 2}), FakeEngine)


def poller(start: float = 0.0, **options: Any) -> StatusPoller:
    return StatusPoller(CallContext(Options(**options), start, random=lambda: 0.5), "ext_1")


def test_run_flow_returns_the_result_and_the_steps() -> None:
    outcome, sent = run_flow(
        poller(10).result(),
        [
            reply({"state": "queued"}, elapsed=1),
            TransportFailure("gone", at=2, sent=True),
            lambda step: reply({"state": "completed", "image_url": f"/{step.method}"}),
        ],
        start=10,
    )
    assert not isinstance(outcome, Exception)
    assert outcome.image_url == "/GET"
    assert [moment for moment, _ in sent] == [10, 14, pytest.approx(16.525)]
    assert all(step.path == "/api/v1/status/ext_1" for _, step in sent)


def test_run_flow_returns_the_error() -> None:
    outcome, sent = run_flow(poller().result(), [reply({"error": "Job not found"}, 404)])
    assert isinstance(outcome, JobNotFound)
    assert len(sent) == 1
    outcome, sent = run_flow(poller().result(), [reply({"state": "completed"})] * 2)
    assert isinstance(outcome, OutputMissing)


def test_run_flow_applies_the_timeouts_of_steps() -> None:
    def endless() -> Iterator[Reply]:
        while True:
            yield reply({"state": "running"}, elapsed=1000)

    outcome, sent = run_flow(poller(timeout=100, wait=0).result(), endless())
    assert isinstance(outcome, ConnectionFailed)
    assert [step.timeout for _, step in sent][:2] == [30, 30]


def test_run_flow_fails_without_a_reply_for_a_step() -> None:
    with pytest.raises(AssertionError, match="no reply for step 2: GET /api"):
        run_flow(poller().result(), [reply({"state": "running"})])


def test_replies() -> None:
    assert reply({"a": 1}, 201, {"X-Y": "z"}).json() == {"a": 1}
    assert reply("text").body == b"text"
    assert reply(b"\0", headers={"Retry-After": "1"}).headers == {"retry-after": "1"}
    assert json.loads(reply({"ä": 1}).body) == {"ä": 1}


def test_a_request_for_another_prefix() -> None:
    step = Step("GET", "/x", {}, None, 0, 1)
    assert RecordedRequest(step.method, step.path, {}, b"", 0.0, 1).without("/y") is None
