"""The choice of an engine for a request, from the workers that live."""

import logging

import pytest

from support import Clock
from umrgen.server.domain.engine_info import EngineInfo
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.executors.absent import AbsentExecutor
from umrgen.server.executors.routing import LiveEngines
from umrgen.server.ledger import LiveWorker
from umrgen.server.ledger.sqlite.memory import MemoryLedger

FIRST = EngineInfo("painter", "model", "1", models=("first",), max_side=1024)
SECOND = EngineInfo("painter", "model", "1", models=("second",), features=("negative",), default_steps=9)
PLAIN = EngineInfo("plain", "procedural", "1")


def worker(name: str, engine: str, info: EngineInfo | None, capacity: int = 1) -> LiveWorker:
    return LiveWorker(name, engine, "ready", capacity, info, until=2**50)


async def live(*workers: LiveWorker, engine: str = "painter") -> LiveEngines:
    ledger = MemoryLedger()
    await ledger.open()
    for each in workers:
        await ledger.workers.report(each, now=0)
    engines = LiveEngines(ledger.workers, Clock(), engine)
    await engines.refresh()
    await ledger.close()
    return engines


async def test_a_server_without_engines_describes_those_of_its_workers() -> None:
    engines = await live(worker("a", "plain", PLAIN, 3), worker("b", "painter", FIRST), worker("c", "painter", SECOND))
    executor = AbsentExecutor(engines)
    assert executor.info is not None
    assert (executor.info.name, executor.info.models, executor.info.max_side) == ("painter", ("first", "second"), 1024)
    assert [executor.info.steps_of(model) for model in (None, "first", "second")] == [4, 4, 9]
    assert (executor.capacity, executor.loaded) == (5, True)


async def test_without_workers_nothing_is_known_and_every_request_is_accepted() -> None:
    engines = await live()
    executor, request = AbsentExecutor(engines), GenerationRequest("x", model="unknown")
    assert (executor.info, executor.capacity, executor.loaded) == (None, 0, False)
    assert engines.route(request).errors == ()
    assert engines.route(request).engine == "painter"


async def test_a_worker_that_is_not_loaded_yet_lives_and_limits_nothing() -> None:
    engines = await live(worker("a", "painter", None, 0))
    assert (engines.info, engines.alive) == (None, True)
    assert engines.route(GenerationRequest("x", model="unknown")).errors == ()


async def test_a_request_for_a_model_is_drawn_by_the_engine_that_has_it() -> None:
    engines = await live(worker("a", "plain", PLAIN), worker("b", "painter", FIRST), engine="plain")
    assert engines.route(GenerationRequest("x")).engine == "plain"
    assert engines.route(GenerationRequest("x", model="first")).engine == "painter"


async def test_a_request_is_checked_by_the_engine_that_draws_it() -> None:
    engines = await live(worker("b", "painter", FIRST), worker("c", "painter", SECOND))
    wide = GenerationRequest("x", width=2048, model="first")
    assert [field for field, _ in engines.route(wide).errors] == ["width"]
    assert not engines.route(GenerationRequest("x", width=2048, model="second", negative="fog")).errors
    ((field, error),) = engines.route(GenerationRequest("x", model="third")).errors
    assert field == "model"
    assert "it has first, second" in error


async def test_a_request_without_a_model_gets_the_first_one_where_the_workers_differ() -> None:
    """Otherwise the worker that happens to be idle would decide which image is drawn."""
    both = await live(worker("b", "painter", FIRST), worker("c", "painter", SECOND))
    assert both.route(GenerationRequest("x")).request.model == "first"
    same = await live(worker("b", "painter", FIRST), worker("c", "painter", FIRST))
    assert same.route(GenerationRequest("x")).request.model is None


async def test_the_first_engine_draws_requests_when_no_worker_has_that_of_the_settings() -> None:
    engines = await live(worker("b", "painter", FIRST), engine="procedural")
    assert engines.route(GenerationRequest("x")).engine == "painter"


async def test_jobs_that_no_worker_can_draw_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ledger = MemoryLedger()
    await ledger.open()
    await ledger.workers.report(worker("a", "painter", FIRST), now=0)
    engines = LiveEngines(ledger.workers, Clock(), "painter")
    for number, (engine, model) in enumerate([("painter", "first"), ("painter", "third"), ("lost", None)]):
        request = GenerationRequest("x", model=model)
        await ledger.jobs.submit(f"ext_{number}", "sid_a", request, engine, now=1)
    await engines.refresh()
    with caplog.at_level(logging.WARNING):
        await engines.check_demand()
        await engines.check_demand()
    await ledger.close()
    assert caplog.messages == [
        "1 queued jobs wait for a worker with the engine lost; those that live have painter",
        "1 queued jobs wait for a worker with the engine painter and the model third; those that live have painter",
    ]
