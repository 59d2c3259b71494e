"""Engines in actors of real Ray clusters, of several nodes, which are added, killed, refused, or do not stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conformance import test_executors as suite
from PIL import Image
from worker_process import worker

from ray_cluster import RayCluster, ray_cluster, ray_is_here
from support import UNLIMITED, ServerProcess, draw_task, finish, server, submit, until
from umrgen.server.engines import DrawTask, EngineCrashed, EngineStalled
from umrgen.server.executors import JobBatch, WatchdogLimits
from umrgen.server.executors.ray.executor import RayExecutor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not ray_is_here(), reason="Ray is not installed: make ray"),
]

Make = Callable[..., RayExecutor]
SECONDS = 100.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(1) as cluster:
        yield cluster


@pytest.fixture
async def make(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    made: list[RayExecutor] = []

    def make(engine: str = "fake_engines:FakeEngine", **changes: Any) -> RayExecutor:
        options = {"address": cluster.address, "resources": {"CPU": 1.0}} | changes
        made.append(RayExecutor(engine, options.pop("options", {}), **options))
        return made[-1]

    yield make
    for executor in made:
        await executor.stop()


def drawing(prompt: str, job_id: str = "ext_1", **changes: Any) -> DrawTask:
    return replace(draw_task(prompt, **changes), job_id=job_id)


def ignore(step: int, total: int) -> None:
    pass


async def begun(executor: RayExecutor, task: DrawTask) -> "asyncio.Task[Any]":
    """Return the drawing of a task, after its first step."""
    started = asyncio.Event()
    drawing = asyncio.create_task(executor.run(task, lambda step, total: started.set()))
    await started.wait()
    return drawing


def status(http: httpx2.Client, job: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/api/v1/status/{job}").json()
    return found


async def trouble(executor: RayExecutor) -> str:
    waiting = asyncio.create_task(executor.ready())
    while executor.trouble is None:  # noqa: ASYNC110 - a value, not an event
        await asyncio.sleep(0.05)
    waiting.cancel()
    return executor.trouble


class TestActors:
    """One engine on a node with one processor: the next actor has a place only after the first was killed."""

    async def test_the_suite_of_the_other_executors_passes(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        executor = make()
        async with asyncio.timeout(SECONDS):
            await executor.ready()
            await suite.test_a_task_is_drawn_and_its_steps_are_reported(executor)
            await suite.test_pixels_are_encoded_as_png_with_their_provenance(executor)
            await suite.test_one_task_may_return_images_of_different_sizes_and_types(executor)
            await suite.test_a_refusal_fails_the_job_and_the_engine_continues(executor)
            await suite.test_one_engine_draws_one_task_at_a_time(executor)
            await suite.test_a_cancelled_task_stops_and_the_next_one_is_drawn(executor)
            await suite.test_previews_are_drawn_while_a_client_follows_the_job(executor)
            await suite.test_a_message_of_an_engine_is_one_printable_line(executor)
            await suite.test_more_images_than_a_job_may_have_are_a_crash(executor)

    async def test_a_dead_or_hanging_actor_is_replaced(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL)
        limits = WatchdogLimits(stall_after=2.0, cancel_grace=0.1)
        executor = make("engines_that_fail:FailingEngine", watchdog=limits)
        async with asyncio.timeout(SECONDS):
            await executor.ready()
            with pytest.raises(EngineCrashed, match="its actor"):
                await executor.run(drawing("abort"), ignore)
            await executor.ready()
            with pytest.raises(EngineStalled):
                await executor.run(drawing("hang"), ignore)
            await executor.ready()
            assert await executor.run(drawing("one", "ext_2"), ignore)

    async def test_a_job_that_does_not_stop_when_it_is_cancelled_is_killed(self, make: Make) -> None:
        executor = make("procedural", options={"step_delay": 600}, watchdog=WatchdogLimits(cancel_grace=0.1))
        async with asyncio.timeout(SECONDS):
            await executor.ready()
            running = await begun(executor, draw_task("a lighthouse"))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await executor.ready()  # on the only processor

    async def test_an_engine_that_cannot_be_loaded_says_why(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL)
        async with asyncio.timeout(SECONDS):
            said = await trouble(make("fake_engines:UnloadableEngine"))
        assert said == "it has no weights: run the command that fetches them"

    async def test_batches_are_drawn_together_and_previews_while_they_are_followed(self, make: Make) -> None:
        executor, shown = make("fake_engines:FakeBatchEngine"), asyncio.Event()
        tasks = [drawing("slow", f"ext_{number}", steps=50) for number in range(2)]
        batch = JobBatch(task.job_id for task in tasks)

        async def draw(task: DrawTask) -> Any:
            def follow(step: int, total: int) -> None:
                executor.show(task.job_id, True)

            return await executor.run(task, follow, lambda image: shown.set(), batch)

        async with asyncio.timeout(SECONDS):
            await executor.ready()
            first, second = (asyncio.create_task(draw(task)) for task in tasks)
            await shown.wait()
            first.cancel()
            (image,) = await second
            with pytest.raises(asyncio.CancelledError):
                await first
        with Image.open(BytesIO(image.data)) as opened:
            assert opened.getpixel((0, 0))[0] == len(tasks)  # type: ignore[index]


class TestClusters:
    """What the executor connects to."""

    async def test_a_wrong_address_and_a_wrong_token_are_named(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        async with asyncio.timeout(SECONDS):
            nothing = await trouble(make(address="127.0.0.1:1"))
            assert nothing == "no head of a Ray cluster responds at 127.0.0.1:1 (unavailable)"
            monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
            refused = await trouble(make())
            assert "the same token" in refused
            assert "0000" not in refused

    async def test_the_log_names_the_ports_and_not_the_token(
        self, make: Make, cluster: RayCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setenv("UMRGEN_LEDGER", "postgresql://umrgen:hidden@db.example.org/umrgen")
        executor = make()
        async with asyncio.timeout(SECONDS):
            await executor.ready()
        assert executor._connection is not None
        assert b"hidden" not in Path(f"/proc/{executor._connection._channel.pid}/environ").read_bytes()
        (line,) = [record.getMessage() for record in caplog.records if "ports" in record.getMessage()]
        assert f"head {cluster.address}" in line
        assert line.count("NodeManagerPort") == line.count("ObjectManagerPort") == 2
        assert "this server's connection 127.0.0.1:" in line
        assert cluster.environment["RAY_AUTH_TOKEN"] not in caplog.text

    async def test_a_cluster_without_a_token_is_used_on_loopback(
        self, monkeypatch: pytest.MonkeyPatch, cluster: RayCluster
    ) -> None:
        from umrgen.server.executors.ray.cluster import requires_token

        with ray_cluster(1, token=False) as other:
            assert requires_token(cluster.address)
            assert not requires_token(other.address)
            monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
            executor = RayExecutor("fake_engines:FakeEngine", {}, address=other.address, resources={"CPU": 1.0})
            async with asyncio.timeout(SECONDS):
                await executor.ready()
            await executor.stop()

    def test_a_worker_draws_the_jobs_of_a_server_on_a_cluster(self, cluster: RayCluster, tmp_path: Path) -> None:
        shared = ("--ledger", f"sqlite:{tmp_path / 'ledger.sqlite3'}", "--blobs", f"local:{tmp_path / 'images'}")
        where = ("--executor", "ray", "--ray-address", cluster.address, "--ray-resources", "CPU=1")
        with (
            server(tmp_path / "server", *shared, "--no-engines") as serving,
            serving.http() as http,
            worker(tmp_path / "worker", *shared, *where, **cluster.environment) as working,
        ):
            job = submit(http)
            until(lambda: status(http, job)["state"] == "completed", SECONDS)
            assert http.get(status(http, job)["image_url"]).status_code == 200
            until(lambda: f"job {job}: completed" in working.log())
            assert f"head {cluster.address}" in working.log()
            assert serving.engine_pids() == []
        assert cluster.environment["RAY_AUTH_TOKEN"] not in working.log()


class TestNodes:
    """The last tests of this file: they change the cluster."""

    def test_jobs_of_a_killed_node_are_drawn_again_by_the_server(self, cluster: RayCluster, state: Path) -> None:
        """A server with four jobs, one of them drawn by the only node when that is killed."""
        where = ("--executor", "ray", "--ray-address", cluster.address, "--ray-resources", "CPU=1", "--devices", "4")
        slow = ("--step-delay", "1.5", *UNLIMITED)
        running = ServerProcess(state, *where, *slow, **cluster.environment)
        running.launch()
        try:
            self.kill_a_node(running, cluster)
        finally:
            assert running.stop() == 0
        assert cluster.environment["RAY_AUTH_TOKEN"] not in running.log()
        assert "Traceback" not in running.log()

    @staticmethod
    def kill_a_node(running: ServerProcess, cluster: RayCluster) -> None:
        with running.http() as http:
            until(lambda: http.get("/readyz").status_code == 200, SECONDS)
            jobs = [submit(http, steps=2) for _ in range(4)]
            drawn = until(lambda: [job for job in jobs if status(http, job)["state"] == "running"], SECONDS)
            cluster.kill(0)
            until(lambda: status(http, drawn[0])["attempt"] == 1 and status(http, drawn[0])["state"] == "queued", 60)
            cluster.add(2)
            ends = {job: finish(http, job) for job in jobs}
            assert {job: (end["state"], end["attempt"]) for job, end in ends.items()} == {
                job: ("completed", 2 if job in drawn else 1) for job in jobs
            }
            assert len(list((running.state / "outputs").rglob("*.png"))) == len(jobs)

    async def test_a_node_that_is_added_under_load_adds_capacity(self, make: Make, cluster: RayCluster) -> None:
        executor, grown = make(devices=4), asyncio.Event()
        executor.watch(grown.set)
        async with asyncio.timeout(SECONDS):
            await executor.ready()
            running = [await begun(executor, drawing("wait", f"ext_{number}")) for number in range(2)]
            assert executor.capacity == 2
            grown.clear()
            node = await asyncio.to_thread(cluster.add, 1)
            await grown.wait()
            assert executor.capacity == 3
            running.append(await begun(executor, drawing("wait", "ext_3")))
            await asyncio.to_thread(cluster.kill, node)
            with pytest.raises(EngineCrashed):
                await running[2]
            assert executor.capacity == 2
            for task in running[:2]:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def test_the_head_is_restarted(
        self, make: Make, cluster: RayCluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        executor = make()
        async with asyncio.timeout(2 * SECONDS):
            await executor.ready()
            running = await begun(executor, drawing("wait"))
            await asyncio.to_thread(cluster.kill_head)
            while "does not respond; its engines draw on" not in caplog.text:  # noqa: ASYNC110 - a text
                await asyncio.sleep(0.05)
            assert not running.done()
            await asyncio.to_thread(cluster.start_head)
            with pytest.raises(EngineCrashed, match="Ray"):
                await running
            assert executor.capacity == 0
            await asyncio.to_thread(cluster.add, 1)
            await executor.ready()
            assert executor.trouble is None
            assert await executor.run(drawing("one", "ext_2"), ignore)
