"""What every engine must do."""

import numpy as np
import pytest

from support import draw_task
from umrgen.server.engines import ENGINES, Cancelled, Engine, EngineFailure, load_engine

TASK = draw_task("a lighthouse at dusk", width=576, height=512, steps=3, seed=11)


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    made = load_engine(request.param, {})
    made.load()
    return made


def quietly(step: int, total: int, preview: object = None) -> None:
    pass


def test_it_draws_the_size_that_was_asked_for(engine: Engine) -> None:
    (pixels,) = engine.draw(TASK, quietly)
    assert (pixels.shape, pixels.dtype) == ((512, 576, 3), np.uint8)


def test_it_reports_every_step_once_and_in_order(engine: Engine) -> None:
    steps = []
    engine.draw(TASK, lambda step, total, preview=None: steps.append((step, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_it_stops_when_the_job_is_no_longer_wanted(engine: Engine) -> None:
    def report(step: int, total: int, preview: object = None) -> None:
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.draw(TASK, report)


def test_it_says_what_it_is(engine: Engine) -> None:
    info = engine.info
    assert info.kind in ("procedural", "model")
    assert info.name in ENGINES
    assert info.max_steps >= 1
    assert info.size_multiple >= 1


def test_an_unknown_engine_is_named_in_the_error() -> None:
    with pytest.raises(EngineFailure, match="no engine 'nope'"):
        load_engine("nope", {})


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(EngineFailure, match="'procedural' has no option 'stepdelay'; its options: step_delay"):
        load_engine("procedural", {"stepdelay": 1})
    with pytest.raises(EngineFailure, match="'fake_engines:FakeEngine' has no option 'x'; it has no options"):
        load_engine("fake_engines:FakeEngine", {"x": 1})
