"""Time for which the process did not run: timeouts of the server, in virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.leaping import LeapingLoop

from umrgen.server.engines import EngineStalled, Phase
from umrgen.server.executors import WatchdogLimits
from umrgen.server.executors.watchdog import Watchdog
from umrgen.server.running_time import RENEWALS, TICKS, Allowance, RunningTimeout, slept_on_time
from umrgen.testing import FakeClock

SECONDS = st.floats(0.05, 600)
GAPS = st.lists(st.floats(0.0, 100), max_size=30)


def play(work: Coroutine[Any, Any, Any]) -> float:
    """Run `work` in virtual time; return the time of its end."""
    loop = LeapingLoop()
    try:
        with pytest.raises((TimeoutError, EngineStalled)):
            loop.run_until_complete(work)
        return loop.time()
    finally:
        loop.close()


def stand_still(seconds: float) -> None:
    """Let time pass, as for a process that was stopped."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    loop.leap(seconds)


async def stalled(seconds: float, stops: list[tuple[float, float]]) -> None:
    """Wait without end with a timeout of `seconds`; at each time of `stops` the process is stopped for so long."""
    loop = asyncio.get_running_loop()
    for at, duration in stops:
        loop.call_later(at, stand_still, duration)
    async with RunningTimeout(seconds):
        await asyncio.Event().wait()


class TestTimeout:
    @given(seconds=SECONDS)
    def test_it_ends_on_time_when_the_process_runs(self, seconds: float) -> None:
        assert play(stalled(seconds, [])) == pytest.approx(seconds, rel=0.01)

    @given(seconds=SECONDS, at=st.floats(0, 0.99), duration=st.floats(1, 1000))
    def test_after_a_standstill_the_time_starts_again(self, seconds: float, at: float, duration: float) -> None:
        """For each time of the standstill, even just before the end."""
        stop = seconds * (4 + duration)
        ended = play(stalled(seconds, [(seconds * at, stop)]))
        running = ended - stop
        assert seconds * 0.99 <= running - seconds * at <= seconds * 1.3

    @given(seconds=SECONDS, gaps=GAPS)
    def test_it_ends_in_any_case(self, seconds: float, gaps: list[float]) -> None:
        """A loop that is blocked again and again has a bounded number of checks."""
        allowance, now, checks = Allowance(seconds, 0.0), 0.0, 0
        while checks < 100_000:
            checks += 1
            now += allowance.next_check + (gaps[checks % len(gaps)] if gaps else 0.0)
            if allowance.check(now):
                break
        assert checks <= (RENEWALS + 1) * (max(TICKS, seconds) + 2)

    @given(seconds=SECONDS, gaps=GAPS)
    def test_it_does_not_end_early(self, seconds: float, gaps: list[float]) -> None:
        allowance, now = Allowance(seconds, 0.0), 0.0
        for gap in gaps:
            now += allowance.next_check + gap
            assert not allowance.check(now) or now >= seconds * 0.999

    @given(seconds=st.floats(1, 60), more=st.floats(0, 60))
    def test_it_can_be_extended_and_restarted(self, seconds: float, more: float) -> None:
        async def extended() -> None:
            async with RunningTimeout(seconds) as timeout:
                timeout.extend(more)
                await asyncio.Event().wait()

        async def restarted() -> None:
            async with RunningTimeout(seconds) as timeout:
                await asyncio.sleep(seconds / 2)
                timeout.restart(more + 1)
                await asyncio.Event().wait()

        assert play(extended()) == pytest.approx(seconds + more, rel=0.01)
        assert play(restarted()) == pytest.approx(seconds / 2 + more + 1, rel=0.01)

    def test_data_that_arrived_during_a_standstill_is_read(self) -> None:
        """The response is there when the process continues; asyncio's own timeout would discard it."""

        async def wait() -> str:
            loop = asyncio.get_running_loop()
            response = loop.create_future()

            def stop() -> None:
                stand_still(3600)
                loop.call_later(0.5, response.set_result, "the response")

            loop.call_later(1, stop)
            async with RunningTimeout(10):
                return str(await response)

        loop = LeapingLoop()
        assert loop.run_until_complete(wait()) == "the response"
        loop.close()


class TestWatchdog:
    LIMITS = WatchdogLimits(stall_after=60)

    @given(stops=st.lists(st.floats(300, 1e5), min_size=1, max_size=RENEWALS))
    def test_an_engine_that_was_stopped_with_the_server_has_its_whole_time_again(self, stops: list[float]) -> None:
        """The engine reports its step 50 s of running time after the last one, in spite of the standstills."""

        async def draw() -> None:
            loop = asyncio.get_running_loop()
            for index, duration in enumerate(stops):
                loop.call_later(5 + sum(stops[:index]) + index, stand_still, duration)
            async with Watchdog(self.LIMITS) as watchdog:
                await asyncio.sleep(sum(stops) + 50)
                watchdog.step(1)
            raise TimeoutError  # it was not stopped

        assert play(draw()) >= sum(stops)

    @pytest.mark.timeout(20)  # without the line that it guards, it waits without end
    def test_a_stalled_engine_is_stopped_in_spite_of_repeated_standstills(self) -> None:
        async def draw() -> None:
            loop = asyncio.get_running_loop()

            def stop() -> None:
                stand_still(100)
                loop.call_later(5, stop)

            loop.call_later(5, stop)
            async with Watchdog(self.LIMITS):
                await asyncio.Event().wait()

        assert play(draw()) < 10_000

    def test_a_step_after_the_end_has_no_effect(self) -> None:
        async def draw() -> None:
            async with Watchdog(self.LIMITS) as watchdog:
                watchdog.phase(Phase.LOADING)
            watchdog.step(1)
            await asyncio.sleep(10_000)
            raise TimeoutError

        assert play(draw()) == 10_000


class Stopping(FakeClock):
    """A clock whose next sleeps take longer: `late` seconds by both clocks, and `set_by` by the system's time alone."""

    late = set_by = 0.0

    async def sleep(self, seconds: float) -> None:
        self.jump_wall(self.set_by)
        await super().sleep(seconds + self.late)


@given(seconds=st.floats(0.1, 100), late=st.floats(0, 1e6), set_by=st.floats(-1e6, 1e6))
def test_a_sleep_reports_a_standstill_a_suspended_machine_and_a_jump_of_the_clock(
    seconds: float, late: float, set_by: float
) -> None:
    clock = Stopping()
    clock.late, clock.set_by = late, set_by
    passed = max(late, late + set_by)
    if abs(passed - seconds) > 0.01:
        assert asyncio.run(slept_on_time(clock, seconds)) == (passed <= seconds)
