"""What every executor must do, with a real engine process behind it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from umrgen.image_files import verify
from umrgen.server.engines import DrawRequest, EngineFailure
from umrgen.server.executors import EngineCrashed, EngineStalled, Executor, WatchdogLimits
from umrgen.server.executors.subprocess.executor import LocalExecutor
from umrgen.server.executors.subprocess.process import EngineProcess

REQUEST = DrawRequest("a lighthouse", width=512, height=512, steps=2, seed=3)

TESTS = Path(__file__).parents[1]

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


@pytest.fixture(params=["local"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    executor = {"local": lambda: LocalExecutor("procedural", {"step_delay": 0.0})}[request.param]()
    await executor.ready()
    yield executor
    await executor.stop()


async def test_it_draws_and_reports(executor: Executor) -> None:
    steps: list[tuple[int, int]] = []
    picture = await executor.run("ext_1", REQUEST, lambda step, total: steps.append((step, total)))
    facts = verify(picture.data)
    assert (facts.width, facts.height, picture.width, picture.height) == (512, 512, 512, 512)
    assert steps == [(1, 2), (2, 2)]
    assert executor.info is not None
    assert executor.info.name == "procedural"


async def test_what_the_engine_refuses_is_told_and_it_goes_on(executor: Executor) -> None:
    with pytest.raises(EngineFailure):
        await executor.run("ext_1", replace(REQUEST, references=(b"not an image",)), lambda step, total: None)
    assert (await executor.run("ext_2", REQUEST, lambda step, total: None)).data


async def test_one_slot_draws_one_at_a_time(executor: Executor) -> None:
    pictures = await asyncio.gather(
        *(executor.run(f"ext_{seed}", replace(REQUEST, seed=seed), lambda step, total: None) for seed in range(3))
    )
    assert len({picture.data for picture in pictures}) == 3


def wait_deafly(process: EngineProcess) -> None:
    """Let it come to its end while the event loop hears nothing."""
    stat = Path(f"/proc/{process.pid}/stat")
    with suppress(FileNotFoundError, ProcessLookupError):  # it was reaped already, before or while we read
        while stat.read_text().split()[2] != "Z":
            pass


class TestLocal:
    """What holds for processes of this machine."""

    async def test_cancelling_stops_at_the_next_step_and_keeps_the_process(self) -> None:
        executor = LocalExecutor("procedural", {"step_delay": 0.05}, watchdog=WatchdogLimits(cancel_grace=30))
        await executor.ready()
        (before,) = executor._processes
        started = asyncio.Event()
        running = asyncio.create_task(
            executor.run("ext_1", replace(REQUEST, steps=50), lambda step, total: started.set())
        )
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await executor.run("ext_2", REQUEST, lambda step, total: None)).data
        assert executor._processes == {before}
        await executor.stop()

    async def test_one_that_does_not_stop_is_killed_and_replaced(self) -> None:
        executor = LocalExecutor("procedural", {"step_delay": 600}, watchdog=WatchdogLimits(cancel_grace=0.05))
        await executor.ready()
        (before,) = executor._processes
        started = asyncio.Event()
        running = asyncio.create_task(executor.run("ext_1", REQUEST, lambda step, total: started.set()))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not before.alive
        await executor.stop()

    async def test_a_crash_is_told_and_the_next_job_gets_a_new_process(self) -> None:
        executor = LocalExecutor("procedural", {"step_delay": 0.2})
        await executor.ready()

        def crash(step: int, total: int) -> None:
            for process in executor._processes:
                os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(EngineCrashed, match="SIGKILL"):
            await executor.run("ext_1", replace(REQUEST, steps=20), crash)
        assert (await executor.run("ext_2", REQUEST, lambda step, total: None)).data
        await executor.stop()

    async def test_one_that_does_not_even_listen_is_not_waited_for(self) -> None:
        executor = LocalExecutor("procedural", {}, watchdog=WatchdogLimits(stall_after=0.3, cancel_grace=0.05))
        await executor.ready()
        (process,) = executor._processes
        os.kill(process.pid, signal.SIGSTOP)
        more_than_a_pipe_holds = replace(REQUEST, references=(bytes(1 << 20),))
        async with asyncio.timeout(20):
            with pytest.raises(EngineStalled):
                await executor.run("ext_1", more_than_a_pipe_holds, lambda step, total: None)
            assert not process.alive
            assert (await executor.run("ext_2", REQUEST, lambda step, total: None)).data
        await executor.stop()

    async def test_one_that_hangs_is_given_to_nobody_when_its_job_is_cancelled_meanwhile(self) -> None:
        executor = LocalExecutor(
            "procedural", {"step_delay": 600}, watchdog=WatchdogLimits(stall_after=0.5, cancel_grace=600)
        )
        await executor.ready()
        (process,) = executor._processes
        running = asyncio.create_task(executor.run("ext_1", REQUEST, lambda step, total: None))
        asked = asyncio.Event()
        cancel = process.cancel

        async def told(job_id: str, grace: float) -> None:
            asked.set()
            await cancel(job_id, grace)

        process.cancel = told  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            await asked.wait()  # it hangs, and is being asked to stop
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not process.alive
            await executor.ready()
            assert process not in executor._processes
        await executor.stop()

    @pytest.mark.parametrize("loop", LOOPS)
    @pytest.mark.parametrize("busy", [False, True])
    def test_one_that_babbles_and_is_gone_has_crashed(self, loop: Loop, busy: bool) -> None:
        """Whether its end or its words are seen first; the two loops say it in different ways."""

        async def draw() -> None:
            pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
            process = EngineProcess(await asyncio.create_subprocess_exec("printf", "z" * 32, **pipes))
            if busy:
                wait_deafly(process)
            with pytest.raises(EngineCrashed) as crash:
                await process.draw("ext_1", REQUEST, lambda step, total: None, None, stall_after=600)
            assert crash.value.code == "engine_crashed"
            await process.kill()

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(draw(), 20))

    async def test_an_engine_that_cannot_start_says_why(self) -> None:
        executor = LocalExecutor("nope", {})
        starting = asyncio.create_task(executor.ready())
        while executor.trouble is None:  # noqa: ASYNC110 - the executor's own word, not an event
            await asyncio.sleep(0.01)
        assert "no engine 'nope'" in executor.trouble
        assert not starting.done()
        starting.cancel()

    async def test_the_engine_gets_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UMRGEN_API_KEY", "secret")
        executor = LocalExecutor("procedural", {})
        await executor.ready()
        (process,) = executor._processes
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"secret" not in environment
        await executor.stop()

    async def test_one_that_says_the_same_step_again_makes_no_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its steps come every 0.3 s, for ever; each would give it another second if it counted as progress."""
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        executor = LocalExecutor(
            "engines_that_fail:Obedient", {}, watchdog=WatchdogLimits(stall_after=1.0, cancel_grace=0.2)
        )
        await executor.ready()
        try:
            async with asyncio.timeout(30):
                with pytest.raises(EngineStalled):
                    await executor.run("ext_1", replace(REQUEST, prompt="repeat"), lambda step, total: None)
        finally:
            await executor.stop()
