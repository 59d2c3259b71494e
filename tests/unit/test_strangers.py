"""Refused requests of callers without a key: counted, and one line a minute."""

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulation.leaping import LeapingLoop

from umrgen.server.http.strangers import StrangerLog
from umrgen.server.metrics import Metrics


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.tuples(st.floats(0, 30), st.sampled_from([400, 401, 403, 404, 405, 421])), max_size=60))
def test_requests_are_counted_and_reported_once_a_minute(
    requests: list[tuple[float, int]], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> float:
        for pause, status in requests:
            await asyncio.sleep(pause)
            strangers.note(status, "203.0.113.7")
        last = loop.time()
        await asyncio.sleep(61)
        return last

    caplog.clear()
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    strangers, loop = StrangerLog(metrics), LeapingLoop()
    seconds = loop.run_until_complete(scenario())
    loop.close()
    reported = [int(line.split()[0]) for line in caplog.messages]
    assert sum(reported) == len(requests)
    assert len(reported) <= seconds / 60 + 1
    text = metrics.text().decode()
    for status in {status for _, status in requests}:
        count = sum(1 for _, other in requests if other == status)
        assert f'umrgen_refused_strangers_total{{status="{status}"}} {count}.0' in text
