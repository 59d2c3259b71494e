"""The engine leaves memory while there is nothing to draw, and the operator's commands run around its loading."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import draw_task
from umrgen.model import State
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EngineInfo
from umrgen.server.executors import VerifiedImage
from umrgen.server.executors.unloading import LoadCommands, UnloadingExecutor
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.attempt import AttemptContext, DispatchPolicy
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.scheduler.eta import Estimates
from umrgen.server.scheduler.previews import Previews


class RecordingExecutor:
    """An executor that records when its engine is loaded and unloaded."""

    info = EngineInfo("fake", "procedural", "1")
    trouble = None
    until_loaded = 7.0

    def __init__(self) -> None:
        self.events: list[str] = []
        self.loaded = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()
        self._on_capacity: Callable[[], None] = lambda: None

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, *events: str) -> None:
        async with asyncio.timeout(30):
            while self.events != list(events):
                self.changed.clear()
                await self.changed.wait()

    @property
    def capacity(self) -> int:
        return int(self.loaded)

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    async def ready(self) -> None:
        if not self.loaded:
            self.loaded = True
            self._note("load")

    async def run(self, task: Any, *_: Any) -> tuple[VerifiedImage, ...]:
        await self.ready()
        self._note("draw")
        await self.gate.wait()
        return (VerifiedImage(b"png", "ab" * 32, 512, 512),)

    async def unload(self) -> None:
        self.loaded = False
        self._note("unload")

    def show(self, job_id: str, wanted: bool) -> None:
        """No previews."""

    async def stop(self) -> None:
        self._note("stop")


class StepClock:
    """A clock whose sleeps end when the test lets them."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self._passed = asyncio.Event()
        self.slept = asyncio.Event()

    def now(self) -> int:
        return 1000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.slept.set()
        await self._passed.wait()

    def advance(self) -> None:
        self._passed.set()
        self._passed = asyncio.Event()


async def ignore(*_: Any) -> None:
    pass


@pytest.fixture
async def inner() -> AsyncIterator[RecordingExecutor]:
    yield RecordingExecutor()


async def test_an_idle_engine_is_unloaded_and_the_next_task_loads_it(inner: RecordingExecutor) -> None:
    clock = StepClock()
    executor = UnloadingExecutor(inner, clock, 300, LoadCommands())
    await executor.ready()
    await asyncio.wait_for(clock.slept.wait(), 10)
    assert clock.sleeps == [300]
    clock.advance()
    await inner.until("load", "unload")
    assert (executor.loaded, executor.capacity) == (False, 0)
    assert await executor.run(draw_task("one"), lambda step, total: None)
    assert inner.events == ["load", "unload", "load", "draw"]
    assert executor.loaded


async def test_an_engine_that_draws_is_not_unloaded(inner: RecordingExecutor) -> None:
    clock = StepClock()
    executor = UnloadingExecutor(inner, clock, 300, LoadCommands())
    await executor.ready()
    inner.gate.clear()
    running = asyncio.create_task(executor.run(draw_task("one"), lambda step, total: None))
    await inner.until("load", "draw")
    releasing = asyncio.create_task(executor.unload())
    clock.advance()
    await asyncio.sleep(0)
    assert inner.events == ["load", "draw"]
    inner.gate.set()
    await running
    await releasing
    assert inner.events == ["load", "draw", "unload"]


async def test_an_engine_that_is_being_loaded_is_unloaded_afterwards(inner: RecordingExecutor) -> None:
    executor = UnloadingExecutor(inner, StepClock(), 0, LoadCommands())
    loading, begun = asyncio.Event(), asyncio.Event()
    load = inner.ready

    async def ready() -> None:
        begun.set()
        await loading.wait()
        await load()

    inner.ready = ready  # type: ignore[method-assign]
    waiting = asyncio.create_task(executor.ready())
    await begun.wait()
    releasing = asyncio.create_task(executor.unload())
    await asyncio.sleep(0)
    loading.set()
    await waiting
    await releasing
    assert inner.events == ["load", "unload"]


async def test_an_engine_is_never_unloaded_by_itself_without_a_time(inner: RecordingExecutor) -> None:
    clock = StepClock()
    executor = UnloadingExecutor(inner, clock, 0, LoadCommands())
    await executor.ready()
    await executor.run(draw_task("one"), lambda step, total: None)
    assert clock.sleeps == []
    await executor.unload()
    assert inner.events == ["load", "draw", "unload"]


async def test_the_commands_run_before_loading_and_after_unloading(inner: RecordingExecutor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    append = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    commands = LoadCommands(*(f'{sys.executable} -c "{append}" {log} {word}' for word in ("load.", "unload.")))
    executor = UnloadingExecutor(inner, StepClock(), 0, commands)
    await executor.ready()
    assert log.read_text() == "load."
    await executor.unload()
    assert log.read_text() == "load.unload."
    await executor.ready()
    await executor.stop()
    assert log.read_text() == "load.unload.load.unload."
    await executor.stop()
    assert log.read_text() == "load.unload.load.unload."


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (f"{sys.executable} -c 'raise SystemExit(3)'", "ended with code 3"),
        ("/does/not/exist", "cannot be run: [Errno 2] No such file"),
        ("'", "cannot be run"),
        (f"{sys.executable} -c 'import signal; signal.pause()'", "was killed after 0.05 s"),
    ],
)
async def test_a_command_that_fails_is_logged_and_the_engine_is_loaded(
    inner: RecordingExecutor, command: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    executor = UnloadingExecutor(inner, StepClock(), 0, LoadCommands(on_load=command, timeout=0.05))
    if "code 3" in error:
        executor = UnloadingExecutor(inner, StepClock(), 0, LoadCommands(on_load=command))
    await executor.ready()
    assert inner.events == ["load"]
    assert error in caplog.text


async def test_the_dispatcher_loads_the_engine_for_a_job_only(inner: RecordingExecutor) -> None:
    ledger = MemoryLedger()
    executor = UnloadingExecutor(inner, StepClock(), 0, LoadCommands())
    blobs = SimpleNamespace(put=ignore)
    previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
    clock = StepClock()
    context = AttemptContext(ledger.jobs, executor, blobs, clock, DispatchPolicy(), previews)  # type: ignore[arg-type]
    dispatcher = Dispatcher(context, "worker")
    await ledger.open(dispatcher.notify)
    request = GenerationRequest("a boat", seed=1, width=512, height=512)
    await executor.ready()
    dispatcher.start()
    await executor.unload()
    await ledger.jobs.submit("ext_1", "sid_a", request, "fake", now=1000)
    await inner.until("load", "unload", "load", "draw")
    async with asyncio.timeout(10):
        await dispatcher.drain(10)
    await ledger.close()


async def test_the_estimate_of_a_queued_job_has_the_time_of_loading() -> None:
    ledger = MemoryLedger()
    await ledger.open(lambda jobs: None)
    request = GenerationRequest("a boat", seed=1, width=512, height=512)
    job, _ = await ledger.jobs.submit("ext_1", "sid_a", request, "fake", now=1000)
    await ledger.close()
    run = job._replace(state=State.COMPLETED, claimed_at=1000, completed_at=3000)
    plain, loading = (Estimates(StepClock(), lambda: 1, partial(float, seconds)) for seconds in (0, 40))
    for estimates in (plain, loading):
        estimates.observe([run])
    before, after = plain.seconds_left(job, 1), loading.seconds_left(job, 1)
    assert before is not None
    assert after == before + 40
