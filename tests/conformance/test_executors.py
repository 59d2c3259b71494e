"""The conformance suite of executors: an engine in a subprocess, and a remote engine."""

import asyncio
import errno
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import uvloop
from PIL import Image

from fake_comfyui import FakeComfyUI
from support import draw_task
from umrgen.image_files import verify
from umrgen.model import LIMITS
from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure, EngineStalled, OutOfMemory
from umrgen.server.executors import Executor, JobBatch, VerifiedImage, WatchdogLimits, pool
from umrgen.server.executors.frames import pack
from umrgen.server.executors.link import Listener
from umrgen.server.executors.remote import RemoteExecutor
from umrgen.server.executors.subprocess.executor import SubprocessExecutor
from umrgen.server.executors.subprocess.process import EngineProcess
from umrgen.server.reencode import MAX_SIDE

TASK = draw_task("one")

TESTS = Path(__file__).parents[1]

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


def drawing(prompt: str, job_id: str = "ext_1", **changes: Any) -> DrawTask:
    return replace(draw_task(prompt, **changes), job_id=job_id)


def ignore(step: int, total: int) -> None:
    pass


Make = Callable[[WatchdogLimits], Executor]
COMFYUI = "comfyui"
"""The remote executor with the ComfyUI engine."""
every_kind = pytest.mark.parametrize("make", ["subprocess", "remote", COMFYUI], indirect=True)
"""The tests with prompts whose effect the fake of ComfyUI has as well."""
KINDS: dict[str, Make] = {
    "subprocess": lambda limits: SubprocessExecutor("fake_engines:FakeEngine", {}, watchdog=limits),
    "remote": lambda limits: RemoteExecutor("fake_engines:FakeRemoteEngine", {}, watchdog=limits),
}


@pytest.fixture(params=sorted(KINDS))
async def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    made: list[Executor] = []
    with FakeComfyUI() if request.param == COMFYUI else nullcontext() as fake:

        def make(limits: WatchdogLimits) -> Executor:
            if fake is not None:
                made.append(RemoteExecutor(COMFYUI, {"url": fake.url}, watchdog=limits))
            else:
                made.append(KINDS[request.param](limits))
            return made[-1]

        yield make
        for executor in made:
            await executor.stop()


@pytest.fixture
async def executor(make: Make) -> Executor:
    executor = make(WatchdogLimits())
    async with asyncio.timeout(30):
        await executor.ready()
    return executor


@every_kind
async def test_a_task_is_drawn_and_its_steps_are_reported(executor: Executor) -> None:
    steps: list[tuple[int, int]] = []
    (image,) = await executor.run(TASK, lambda step, total: steps.append((step, total)))
    facts = verify(image.data)
    assert (facts.width, facts.height, image.width, image.height) == (512, 512, 512, 512)
    assert steps == [(1, 2), (2, 2)]
    assert executor.info is not None
    assert executor.info.name in ("fake", COMFYUI)
    assert (executor.capacity, executor.trouble) == (1, None)


async def test_pixels_are_encoded_as_png_with_their_provenance(executor: Executor) -> None:
    (image,) = await executor.run(TASK, ignore)
    assert image.media_type == "image/png"
    assert b'"job_id": "ext_1"' in image.data


async def test_one_task_may_return_images_of_different_sizes_and_types(executor: Executor) -> None:
    images = await executor.run(drawing("several"), ignore)
    assert [(image.width, image.height, image.media_type) for image in images] == [
        (512, 512, "image/png"),
        (640, 400, "image/jpeg"),
        (512, 512, "image/png"),
    ]


@every_kind
async def test_a_refusal_fails_the_job_and_the_engine_continues(executor: Executor) -> None:
    with pytest.raises(EngineFailure, match="this prompt is refused"):
        await executor.run(drawing("refuse"), ignore)
    assert await executor.run(TASK, ignore)


async def test_an_unexpected_exception_is_a_crash_without_paths(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(EngineCrashed) as crash:
        await executor.run(drawing("raise"), ignore)
    assert str(crash.value) == "it raised RuntimeError"
    async with asyncio.timeout(30):
        await executor.ready()
        assert await executor.run(TASK, ignore)


@every_kind
async def test_one_engine_draws_one_task_at_a_time(executor: Executor) -> None:
    running, most = 0, 0

    async def run(number: int) -> None:
        nonlocal running, most
        await executor.ready()

        def on_step(step: int, total: int) -> None:
            nonlocal running, most
            running += 1 if step == 1 else 0
            most = max(most, running)

        await executor.run(drawing("one", f"ext_{number}"), on_step)
        running -= 1

    for number in range(3):
        await run(number)
    assert most == 1


@every_kind
async def test_a_cancelled_task_stops_and_the_next_one_is_drawn(executor: Executor) -> None:
    started = asyncio.Event()
    running = asyncio.create_task(executor.run(drawing("wait"), lambda step, total: started.set()))
    async with asyncio.timeout(30):
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await executor.ready()
        assert await executor.run(drawing("one", "ext_2"), ignore)


@every_kind
async def test_phases_are_signs_of_life(make: Make) -> None:
    """Each phase takes 0.3 s; together they take longer than `stall_after`."""
    executor = make(WatchdogLimits(stall_after=0.9, cancel_grace=0.2))
    async with asyncio.timeout(30):
        await executor.ready()
        assert await executor.run(drawing("phases"), ignore)


async def test_a_repeated_phase_is_no_sign_of_life(make: Make) -> None:
    executor = make(WatchdogLimits(stall_after=0.9, cancel_grace=0.2))
    async with asyncio.timeout(30):
        await executor.ready()
        with pytest.raises(EngineStalled):
            await executor.run(drawing("same"), ignore)


async def test_compiling_may_take_longer_than_a_step(make: Make) -> None:
    executor = make(WatchdogLimits(stall_after=1.0, cancel_grace=0.2, load_timeout=30))
    async with asyncio.timeout(30):
        await executor.ready()
        assert await executor.run(drawing("compile"), ignore)


async def test_more_images_than_a_job_may_have_are_a_crash(executor: Executor) -> None:
    with pytest.raises(EngineCrashed, match=r"returned (9|more than 8) images"):
        await executor.run(drawing("many"), ignore)


@every_kind
async def test_previews_are_drawn_while_a_client_follows_the_job(executor: Executor) -> None:
    previews: list[bytes] = []
    executor.show("ext_1", True)

    def on_step(step: int, total: int) -> None:
        executor.show("ext_1", True)  # again, after the process has started the job

    await executor.run(drawing("slow", steps=50), on_step, previews.append)
    assert previews
    assert all(verify(preview).media_type == "image/jpeg" for preview in previews)
    previews.clear()
    await executor.run(drawing("one", "ext_2"), ignore, previews.append)
    assert previews == []


@pytest.mark.parametrize("prompt", ["junk", "truncated", "huge"])
async def test_a_preview_that_cannot_be_decoded_costs_nothing(executor: Executor, prompt: str) -> None:
    previews: list[bytes] = []
    assert await executor.run(
        drawing(prompt, steps=20), lambda step, total: executor.show("ext_1", True), previews.append
    )
    assert previews == []
    assert executor.trouble is None


@every_kind
async def test_a_message_of_an_engine_is_one_printable_line(executor: Executor) -> None:
    with pytest.raises(EngineFailure) as failure:
        await executor.run(drawing("unprintable"), ignore)
    message = str(failure.value)
    assert "bad" in message
    assert message.isprintable()
    assert len(message) <= 1000
    assert await executor.run(TASK, ignore)


class TestRemote:
    async def test_a_defect_in_a_preview_costs_nothing(self) -> None:
        executor = RemoteExecutor("fake_engines:FakeRemoteEngine", {})
        await executor.ready()
        executor.show("ext_1", True)
        assert await executor.run(drawing("defect", steps=3), ignore, lambda jpeg: None)
        assert executor.trouble is None
        await executor.stop()

    """Tests of engines that are reached over a network."""

    async def test_the_engine_reports_its_capacity(self) -> None:
        executor = RemoteExecutor("fake_engines:FakeRemoteEngine", {"capacity": 2})
        grown: list[int] = []
        executor.watch(lambda: grown.append(executor.capacity))
        assert executor.capacity == 0
        await executor.ready()
        assert grown == [2]
        inside = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(executor.run(drawing("wait", f"ext_{n}"), lambda step, total: inside.release()))
            for n in range(2)
        ]
        async with asyncio.timeout(30):
            for _ in tasks:
                await inside.acquire()
            waiting = asyncio.create_task(executor.ready())
            await asyncio.sleep(0)
            assert not waiting.done()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await waiting
        await executor.stop()

    async def test_a_capacity_that_the_engine_increases_is_reported(self) -> None:
        executor = RemoteExecutor("fake_engines:FakeRemoteEngine", {"capacity": 0})
        grown = asyncio.Event()
        executor.watch(grown.set)
        ready = asyncio.create_task(executor.ready())
        async with asyncio.timeout(30):
            await grown.wait()  # the engine is loaded, and its servers do not respond
            grown.clear()
            assert (executor.capacity, executor.trouble is not None, ready.done()) == (0, True, False)
            engine: Any = executor._engine
            engine.capacity = 2
            engine.on_capacity()
            await ready
        assert grown.is_set()
        assert (executor.capacity, executor.trouble) == (2, None)
        await executor.stop()

    async def test_a_cancelled_task_uses_capacity_until_its_engine_stops(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        limits = WatchdogLimits(cancel_grace=0.05)
        executor = RemoteExecutor("fake_engines:FakeRemoteEngine", {"capacity": 2}, watchdog=limits)
        begun, grown = asyncio.Event(), asyncio.Event()
        async with asyncio.timeout(30):
            await executor.ready()
            running = asyncio.create_task(executor.run(drawing("stubborn"), lambda step, total: begun.set()))
            await begun.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert executor.capacity == 1
            executor.watch(grown.set)
            engine: Any = executor._engine
            engine.released.set()
            await grown.wait()
        assert executor.capacity == 2
        await executor.stop()

    async def test_loading_an_unreachable_engine_is_retried(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        monkeypatch.setattr("umrgen.server.executors.remote.FIRST_DELAY", 0.01)
        executor = RemoteExecutor("fake_engines:FakeRemoteEngine", {"failures": 2})
        async with asyncio.timeout(30):
            await executor.ready()
        assert executor.trouble is None
        assert executor._engine.loads == 3  # type: ignore[attr-defined]
        await executor.stop()
        assert executor._engine.closed  # type: ignore[attr-defined]


def block_until_it_ends(process: EngineProcess) -> None:
    """Wait for the process's end without running the event loop."""
    stat = Path(f"/proc/{process.pid}/stat")
    with suppress(FileNotFoundError, ProcessLookupError):  # the event loop's watcher has already reaped it
        while stat.read_text().split()[2] != "Z":
            pass


class TestLocal:
    """Tests of engines in a subprocess."""

    async def test_a_cancelled_job_stops_at_the_next_step_and_its_process_is_kept(self) -> None:
        executor = SubprocessExecutor("procedural", {"step_delay": 0.05}, watchdog=WatchdogLimits(cancel_grace=30))
        await executor.ready()
        (before,) = executor._engines
        started = asyncio.Event()
        running = asyncio.create_task(
            executor.run(draw_task("a lighthouse", steps=50), lambda step, total: started.set())
        )
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await executor.run(draw_task("a lighthouse", job_id="ext_2"), ignore)
        assert executor._engines == {before}
        await executor.stop()

    async def test_a_process_that_does_not_stop_its_job_is_killed(self) -> None:
        executor = SubprocessExecutor("procedural", {"step_delay": 600}, watchdog=WatchdogLimits(cancel_grace=0.05))
        await executor.ready()
        (before,) = executor._engines
        started = asyncio.Event()
        running = asyncio.create_task(executor.run(draw_task("a lighthouse"), lambda step, total: started.set()))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not before.alive
        await executor.stop()

    async def test_a_crash_is_reported_and_the_next_job_gets_a_new_process(self) -> None:
        executor = SubprocessExecutor("procedural", {"step_delay": 0.2})
        await executor.ready()

        def crash(step: int, total: int) -> None:
            for process in executor._engines:
                os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(EngineCrashed, match="SIGKILL"):
            await executor.run(draw_task("a lighthouse", steps=20), crash)
        assert await executor.run(draw_task("a lighthouse", job_id="ext_2"), ignore)
        await executor.stop()

    async def test_a_process_that_does_not_read_its_pipe_is_replaced(self) -> None:
        executor = SubprocessExecutor("procedural", {}, watchdog=WatchdogLimits(stall_after=0.3, cancel_grace=0.05))
        await executor.ready()
        (process,) = executor._engines
        os.kill(process.pid, signal.SIGSTOP)
        more_than_a_pipe_holds = draw_task("a lighthouse", references=(bytes(1 << 20),))
        try:
            async with asyncio.timeout(20):
                with pytest.raises(EngineStalled):
                    await executor.run(more_than_a_pipe_holds, ignore)
                assert not process.alive
                await executor.ready()
                (successor,) = executor._engines
                assert successor.pid != process.pid
        finally:
            await executor.stop()

    async def test_a_stalled_process_whose_job_is_cancelled_is_replaced(self) -> None:
        executor = SubprocessExecutor(
            "procedural", {"step_delay": 600}, watchdog=WatchdogLimits(stall_after=0.5, cancel_grace=600)
        )
        await executor.ready()
        (process,) = executor._engines
        running = asyncio.create_task(executor.run(draw_task("a lighthouse"), lambda step, total: None))
        cancelling = asyncio.Event()
        cancel = process.cancel

        async def observed(job_id: str, grace: float) -> None:
            cancelling.set()
            await cancel(job_id, grace)

        process.cancel = observed  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            await cancelling.wait()  # the watchdog has detected the stall
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not process.alive
            await executor.ready()
            assert process not in executor._engines
        await executor.stop()

    @pytest.mark.parametrize("loop", LOOPS)
    @pytest.mark.parametrize("busy", [False, True])
    def test_a_process_that_ends_without_frames_has_crashed(self, loop: Loop, busy: bool) -> None:
        """The order in which its end and its output are reported does not matter; it differs by event loop."""

        async def draw() -> None:
            process = await EngineProcess.start_command("printf", "z" * 32)
            if busy:
                block_until_it_ends(process)
            with pytest.raises(EngineCrashed) as crash:
                process.start([TASK])
                await process.follow(TASK.job_id, Listener(ignore, None, lambda: None), WatchdogLimits(stall_after=600))
            assert crash.value.code == "engine_crashed"
            await process.kill()

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(draw(), 20))

    @pytest.mark.parametrize("loop", LOOPS)
    def test_a_process_is_killed_while_its_messages_are_unread(self, loop: Loop, tmp_path: Path) -> None:
        """asyncio's `wait` for a process with pipes waits until all is read."""
        messages = tmp_path / "messages"
        messages.write_bytes(pack({"is": "step", "job_id": TASK.job_id, "step": 1, "total": 2}) * 10_000)

        async def kill() -> None:
            process = await EngineProcess.start_command("sh", "-c", 'cat "$0"; sleep 600', str(messages))
            process.start([TASK])
            while not process._jobs[TASK.job_id].full():  # noqa: ASYNC110 - a state, not an event
                await asyncio.sleep(0)
            await process.kill()
            assert not process.alive

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(kill(), 20))

    @pytest.mark.parametrize("loop", LOOPS)
    def test_a_process_that_another_outlives_has_ended(self, loop: Loop) -> None:
        """A process that the engine has forked may hold its standard input and output."""

        async def draw() -> None:
            process = await EngineProcess.start_command("sh", "-c", "exec 3<&0; cat <&3 >/dev/null & kill -9 $$")
            process.start([TASK])
            with pytest.raises(EngineCrashed, match="SIGKILL"):
                await process.follow(TASK.job_id, Listener(ignore, None, lambda: None), WatchdogLimits(stall_after=600))
            await process.ended()

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(draw(), 20))

    async def test_the_error_of_an_engine_that_cannot_start_is_reported(self) -> None:
        executor = SubprocessExecutor("nope", {})
        starting = asyncio.create_task(executor.ready())
        while executor.trouble is None:  # noqa: ASYNC110 - a value, not an event
            await asyncio.sleep(0.01)
        assert "no engine 'nope'" in executor.trouble
        assert not starting.done()
        starting.cancel()

    async def test_an_engine_is_started_again_when_the_system_has_refused_its_process(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.ERROR)
        monkeypatch.setattr(pool, "FIRST_DELAY", 0.01)
        spawn, failures = EngineProcess.spawn, [KeyError(), BlockingIOError(errno.EAGAIN, "Too many processes")]

        async def refused(*arguments: Any, **named: Any) -> EngineProcess:
            if failures:
                raise failures.pop()
            return await spawn(*arguments, **named)

        monkeypatch.setattr(EngineProcess, "spawn", refused)
        executor = SubprocessExecutor("procedural", {})
        async with asyncio.timeout(30):
            await executor.ready()
        assert (executor.capacity, executor.trouble, failures) == (1, None, [])
        for reason in ("Too many processes", "KeyError"):
            assert f"the engine could not be started: {reason}; trying again" in caplog.text
        await executor.stop()

    async def test_a_task_may_have_as_many_references_as_a_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        executor = SubprocessExecutor("fake_engines:FakeEngine", {}, watchdog=WatchdogLimits(stall_after=20))
        largest = 3 * MAX_SIDE**2 + (1 << 20)  # of an upload: pixels that cannot be compressed
        task = drawing("one", references=tuple(bytes(largest) for _ in range(LIMITS.references)))
        async with asyncio.timeout(60):
            assert await executor.run(task, ignore)
        await executor.stop()

    @pytest.mark.parametrize("loop", LOOPS)
    def test_a_process_that_cannot_read_its_messages_ends(self, loop: Loop) -> None:
        async def end() -> None:
            process = await EngineProcess.spawn("procedural", {}, load_timeout=60)
            process._channel._writer.write(b"\xff" * 8)
            await process.ended()
            assert process._channel.returncode == 1

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(end(), 60))

    async def test_the_environment_of_the_engine_has_no_api_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("UMRGEN_API_KEY", "UMRGEN_SERVER_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "for-no-engine")
        monkeypatch.setenv("UMRGEN_LEDGER", "postgresql://umrgen:for-no-engine@db.example.org/umrgen")
        executor = SubprocessExecutor("procedural", {})
        await executor.ready()
        (process,) = executor._engines
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"for-no-engine" not in environment
        await executor.stop()

    async def test_a_task_that_does_not_fit_into_memory_fails_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        executor = SubprocessExecutor("engines_that_fail:FailingEngine", {}, watchdog=WatchdogLimits(memory=600))
        async with asyncio.timeout(60):
            await executor.ready()
            (process,) = executor._engines
            with pytest.raises(OutOfMemory, match="lower width and height"):
                await executor.run(draw_task("memory"), ignore)
            assert await executor.run(draw_task("one", job_id="ext_2"), ignore)
            assert executor._engines == {process}
        await executor.stop()

    async def test_a_repeated_step_is_no_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The engine reports the same step every 0.3 s; as progress, each report would reset the stall timer."""
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        executor = SubprocessExecutor(
            "engines_that_fail:FailingEngine", {}, watchdog=WatchdogLimits(stall_after=1.0, cancel_grace=0.2)
        )
        await executor.ready()
        try:
            async with asyncio.timeout(30):
                with pytest.raises(EngineStalled):
                    await executor.run(draw_task("repeat"), ignore)
        finally:
            await executor.stop()


@pytest.fixture
async def batches(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SubprocessExecutor]:
    """An executor with one process, which draws up to four tasks together."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    executor = SubprocessExecutor("fake_engines:FakeBatchEngine", {}, watchdog=WatchdogLimits(cancel_grace=30))
    async with asyncio.timeout(60):
        await executor.ready()
        yield executor
        await executor.stop()


class TestBatches:
    """Tests of jobs that one process draws together. The fake engine colours an image by the size of its batch."""

    @staticmethod
    def run(executor: Executor, *prompts: str) -> list[asyncio.Task[tuple[VerifiedImage, ...]]]:
        tasks = [drawing(prompt, f"ext_{number}") for number, prompt in enumerate(prompts)]
        batch = JobBatch(task.job_id for task in tasks)
        return [asyncio.create_task(executor.run(task, ignore, batch=batch)) for task in tasks]

    @staticmethod
    def shade(images: tuple[VerifiedImage, ...]) -> int:
        with Image.open(BytesIO(images[0].data)) as image:
            return image.getpixel((0, 0))[0]  # type: ignore[index]

    async def test_the_jobs_of_a_batch_are_drawn_together(self, batches: SubprocessExecutor) -> None:
        results = await asyncio.gather(*self.run(batches, "one", "two", "three"))
        assert [self.shade(images) for images in results] == [3, 3, 3]
        assert self.shade(await batches.run(drawing("one"), ignore)) == 1

    async def test_a_failure_is_the_result_of_its_job_only(self, batches: SubprocessExecutor) -> None:
        (process,) = batches._engines
        refused, drawn = await asyncio.gather(*self.run(batches, "refuse", "one"), return_exceptions=True)
        assert isinstance(refused, EngineFailure)
        assert isinstance(drawn, tuple)
        assert batches._engines == {process}

    async def test_a_job_that_is_cancelled_before_the_batch_is_complete_is_not_awaited(
        self, batches: SubprocessExecutor
    ) -> None:
        batch = JobBatch(["ext_1", "ext_2"])
        first = asyncio.create_task(batches.run(drawing("one"), ignore, batch=batch))
        await asyncio.sleep(0)
        batch.withdraw("ext_2")
        assert self.shade(await first) == 1

    async def test_a_cancelled_job_leaves_the_others_of_its_batch(self, batches: SubprocessExecutor) -> None:
        (process,) = batches._engines
        begun, tasks = asyncio.Event(), [drawing("slow", f"ext_{number}", steps=50) for number in range(3)]
        batch = JobBatch(task.job_id for task in tasks)
        first, *others = [
            asyncio.create_task(batches.run(task, lambda step, total: begun.set(), batch=batch)) for task in tasks
        ]
        await begun.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not any(other.done() for other in others)
        assert [self.shade(images) for images in await asyncio.gather(*others)] == [3, 3]
        assert batches._engines == {process}

    async def test_a_job_that_does_not_stop_is_dropped_without_the_others(
        self, batches: SubprocessExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine does not report to the cancelled job for longer than `cancel_grace`."""
        monkeypatch.setattr(batches, "_watchdog", WatchdogLimits(cancel_grace=0.05))
        (process,) = batches._engines
        begun, tasks = asyncio.Event(), [drawing("deaf", f"ext_{number}", steps=2) for number in range(2)]
        batch = JobBatch(task.job_id for task in tasks)
        first, second = [
            asyncio.create_task(batches.run(task, lambda step, total: begun.set(), batch=batch)) for task in tasks
        ]
        await begun.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert self.shade(await second) == 2
        assert batches._engines == {process}
        assert self.shade(await batches.run(drawing("one", "ext_9"), ignore)) == 1

    async def test_a_job_that_is_cancelled_when_it_was_just_sent_stops_the_engine(
        self, batches: SubprocessExecutor
    ) -> None:
        (process,) = batches._engines
        running = asyncio.create_task(batches.run(drawing("wait"), ignore))
        while not process.jobs:  # noqa: ASYNC110 - each turn of the event loop counts
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not process.jobs
        assert self.shade(await batches.run(drawing("one", "ext_9"), ignore)) == 1

    async def test_a_batch_whose_jobs_were_all_cancelled_waits_for_no_process(
        self, batches: SubprocessExecutor
    ) -> None:
        begun = asyncio.Event()
        running = asyncio.create_task(batches.run(drawing("wait"), lambda step, total: begun.set()))
        await begun.wait()
        waiting = self.run(batches, "one", "two")
        await asyncio.sleep(0)
        for task in (*waiting, running):
            task.cancel()
        assert all(
            isinstance(result, asyncio.CancelledError)
            for result in await asyncio.gather(*waiting, running, return_exceptions=True)
        )
        assert not batches._starting
        assert self.shade(await batches.run(drawing("one", "ext_9"), ignore)) == 1

    async def test_images_are_encoded_while_the_next_batch_is_drawn(self, batches: SubprocessExecutor) -> None:
        """The images of the first batch cannot be encoded until the second one is drawn."""
        first = JobBatch(["ext_1"])
        released = asyncio.Event()
        first.on_release(released.set)
        running = asyncio.create_task(batches.run(drawing("encode later"), ignore, batch=first))
        await released.wait()
        assert not running.done()
        assert await batches.run(drawing("allow encoding", "ext_2"), ignore)
        assert await running
