"""`Application.close` at any time, also when all tasks of its event loop were cancelled from outside."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from umrgen.model import State
from umrgen.server.application import Application
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.services.api_keys import NewKey
from umrgen.server.settings import Settings

pytestmark = pytest.mark.slow

REQUEST = GenerationRequest("a boat", width=512, height=512, steps=3)


async def until_running(application: Application) -> str:
    """Submit a job; return its id when the engine draws it."""
    secret, _ = await application.keys.create(NewKey("test"))
    caller = await application.services.authentication.accept(secret, "192.0.2.1")
    job = (await application.services.submissions.submit(caller, REQUEST, None)).job
    while (await application.services.job_waits.find(caller, job.id)).state is not State.RUNNING:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return job.id


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


def children() -> set[str]:
    """Return the ids of the child processes that are not killed already."""
    pids = Path("/proc/thread-self/children").read_text().split()
    states = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}
    return {pid for pid, state in states.items() if state != "Z"}


async def leave(how: str, application: Application) -> None:
    """Cancel the tasks of the loop."""
    if how == "in drain":
        draining = asyncio.create_task(application.drain(30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not draining.done()
    if how != "nothing":
        for task in others() if how == "others" else asyncio.all_tasks():
            task.cancel()
    if how in ("all", "in drain"):
        await asyncio.Event().wait()  # this task is cancelled too, as by asyncio.run


# asyncio does not close a pipe whose connection was cancelled.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ledger", ["memory", "sqlite"])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("how", ["nothing", "others", "all", "in drain"])
def test_close_ends_and_leaves_nothing_behind(state: Path, ledger: str, running: bool, how: str) -> None:
    left: list[asyncio.Task[Any]] = []
    job_ids: list[str] = []

    before = children()

    async def serve() -> None:
        application = Application(Settings(state=state, ledger=ledger, step_delay=600, cancel_grace=0.1))
        await application.open()
        application.start()
        try:
            async with asyncio.timeout(60):
                job_ids.extend([await until_running(application)] if running else [])
                await leave(how, application)
        finally:
            async with asyncio.timeout(60):
                await application.close()
            left.extend(task for task in others() if not task.done())
            assert children() <= before

    try:
        asyncio.run(serve())
    except asyncio.CancelledError:
        assert how in ("all", "in drain")
    assert left == []

    async def look(job_id: str) -> None:
        application = Application(Settings(state=state))
        await application.ledger.open(lambda jobs: None)
        job = await application.ledger.jobs.get(job_id)
        await application.ledger.close()
        assert job is not None
        assert (job.state, job.tries) == (State.QUEUED, 0), "queued again, which does not count as an attempt"

    if ledger == "sqlite" and running:
        asyncio.run(look(*job_ids))
