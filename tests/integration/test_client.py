"""The synchronous and asynchronous client, against a real server."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from support import ServerProcess, clean_environment, tied
from umrgen import (
    AsyncClient,
    Client,
    Event,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    Options,
    State,
    TargetUnusable,
    UmrgenError,
    Unauthorized,
    WaitTimeout,
    wait_and_download,
)
from umrgen.client.journal import Journal
from umrgen.image_files import verify
from umrgen.testing import FakeClock, FaultServer, Respond

SMALL = {"width": 512, "height": 512, "steps": 1}


@pytest.fixture
def client(shared_server: ServerProcess) -> "Client":
    with Client(shared_server.url, shared_server.key) as client:
        yield client


def test_generate(client: Client, tmp_path: Path) -> None:
    image = client.generate("a boat", to=tmp_path / "boat.png", seed=3, **SMALL)
    assert image.path == tmp_path / "boat.png"
    assert (image.width, image.seed, image.engine) == (512, 3, "procedural")
    assert verify(image.path.read_bytes()).sha256 == image.sha256
    with pytest.raises(TargetUnusable, match="exists"):
        client.generate("a boat", to=tmp_path / "boat.png", **SMALL)


def test_watch_wait_and_download_of_one_job(client: Client, tmp_path: Path) -> None:
    job = client.submit("a boat", **SMALL)
    states = [status.state for status in job.watch()]
    assert states[-1] == State.COMPLETED
    assert job.status().over
    assert job.wait(timeout=20).image_url
    assert client.job(job.id).download(tmp_path).path == tmp_path / f"{job.id}.png"
    assert len(job.download_all(tmp_path / "again.png")) == 1


def test_wait_and_download(
    client: Client, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = client.submit("a boat", **SMALL)
    image = wait_and_download(job.id, shared_server.key, base_url=shared_server.url)
    assert image.path == Path(f"{job.id}.png")
    assert verify(image.path.read_bytes()).width == 512


def test_one_image_takes_three_requests(slow_server: ServerProcess, tmp_path: Path) -> None:
    """The client sends one submit, one long poll and one download."""
    from umrgen.client.transport import Transport

    sent: list[str] = []

    class Counting(Transport):
        async def send(self, step):  # type: ignore[no-untyped-def]
            sent.append(step.path)
            return await super().send(step)

    async def work() -> None:
        async with AsyncClient(slow_server.url, slow_server.key, journal=None) as client:
            client.transport.__class__ = Counting
            await client.generate("a boat", tmp_path / "x.png", steps=3, width=512, height=512)

    asyncio.run(work())
    assert [path.split("/")[3] for path in sent] == ["generate", "status"]


def test_many_jobs(client: Client, tmp_path: Path) -> None:
    jobs = [client.submit(f"boat {n}", **SMALL) for n in range(5)]
    done = list(client.as_completed(jobs))
    assert {job.id for job in done} == {job.id for job in jobs}
    for job in done:
        assert job.download(tmp_path).bytes > 0
    outcomes = client.wait_all([*jobs, client.job("ext_none")])
    assert [type(outcome).__name__ for outcome in outcomes] == ["Status"] * 5 + ["JobNotFound"]


def test_generate_many(client: Client, tmp_path: Path) -> None:
    requests = [{"prompt": f"boat {n}", **SMALL} for n in range(3)] + [{"prompt": "", **SMALL}]
    targets = [tmp_path / f"{n}.png" for n in range(4)]
    with pytest.raises(InvalidRequest):
        list(client.generate_many(requests, targets))
    images = list(client.generate_many(requests[:3], targets[:3]))
    assert sorted(image.path.name for image in images if not isinstance(image, UmrgenError)) == [
        "0.png",
        "1.png",
        "2.png",
    ]


def test_cancel(slow_server: ServerProcess) -> None:
    with Client(slow_server.url, slow_server.key) as client:
        running, queued = (client.submit("a boat", width=512, height=512, steps=10) for _ in range(2))
        for status in running.watch():
            if status.state == State.RUNNING:
                break
        for job in (queued, running, queued):
            cancelled = job.cancel()
            assert (cancelled.state, cancelled.error_code) == ("failed", "cancelled")
        with pytest.raises(JobFailed) as failed:
            running.wait()
        assert failed.value.code == "cancelled"
        # The engine stops at its next step, and draws the next job.
        assert client.submit("a boat", **SMALL).wait().state == State.COMPLETED


def test_events_are_reported(shared_server: ServerProcess, tmp_path: Path) -> None:
    events: list[Event] = []
    with Client(shared_server.url, shared_server.key, on_event=events.append) as client:
        client.generate("a boat", to=tmp_path / "x.png", **SMALL)
    kinds = [event.kind for event in events]
    assert kinds[0] == "submitted"
    assert "download" in kinds
    assert kinds[-1] == "saved"


def test_a_timeout_raises_wait_timeout(slow_server: ServerProcess) -> None:
    with Client(slow_server.url, slow_server.key) as client:
        job = client.submit("a boat", width=512, height=512, steps=20)
        with pytest.raises(WaitTimeout) as timeout:
            job.wait(timeout=0.5)
        assert timeout.value.job_id == job.id
        assert isinstance(timeout.value, TimeoutError)
        assert f"umrgen wait {job.id}" in timeout.value.next
        job.cancel()


async def test_a_call_after_the_deadline_of_the_submit_has_a_new_deadline(tmp_path: Path) -> None:
    with FaultServer("modern", key="umr_the_key_of_this_server", job_seconds=0) as running:
        clock = FakeClock()
        async with AsyncClient(running.url, running.key, clock=clock, journal=False, timeout=60) as client:
            job = await client.submit("a boat", **SMALL)
            clock.advance(3600)  # past the deadline of the submit
            saved = await job.download(tmp_path / "boat.png")
    assert saved.path.is_file()


async def test_a_failed_job_stays_failed_when_an_older_server_has_deleted_it() -> None:
    with FaultServer("legacy", key="umr_the_key_of_this_server", fail="engine_failed", job_seconds=0) as running:
        async with AsyncClient(running.url, running.key, journal=False) as client:
            job = await client.submit("a boat", **SMALL)
            async for _ in job.watch():
                pass
            running.on("GET /api/v1/status/*", Respond(404, {"error": "Job not found"}), times=None)
            with pytest.raises(JobFailed):
                await job.wait()


async def test_a_404_of_a_known_job_has_the_code_job_gone() -> None:
    with FaultServer("modern", key="umr_the_key_of_this_server", job_seconds=60) as running:
        async with AsyncClient(running.url, running.key, journal=False) as client:
            job_id = (await client.submit("a boat", **SMALL)).id
            job = client.job(job_id)
            await job.status()
            running.on("GET /api/v1/status/*", Respond(404, {"error": "Job not found"}), times=None)
            with pytest.raises(JobNotFound) as gone:
                await job.wait()
    assert gone.value.code == "job_gone"


def test_errors_of_invalid_calls(client: Client, shared_server: ServerProcess) -> None:
    with pytest.raises(InvalidRequest, match="width"):
        client.submit("a boat", width=100)
    with pytest.raises(JobNotFound, match="has no job"):
        client.job("ext_none").wait()
    with pytest.raises(UmrgenError, match="not a job id"):
        client.job("../../etc/passwd")
    with Client(shared_server.url, "wrong") as other, pytest.raises(Unauthorized):
        other.submit("a boat")
    with pytest.raises(TypeError, match="unknown option: tiemout"):
        Client(shared_server.url, tiemout=5)
    with pytest.raises(UmrgenError, match="no server is configured"):
        Client()


def test_capabilities_and_the_list_of_jobs(client: Client) -> None:
    job = client.submit("the newest of all", **SMALL)
    capabilities = client.capabilities()
    assert capabilities.engine == "procedural"
    assert {"wait", "batch_status", "cancel"} <= set(capabilities.calls)
    assert [found.job_id for found in client.jobs(limit=1)] == [job.id]


async def test_a_cancelled_task_ends_a_wait(slow_server: ServerProcess) -> None:
    async with AsyncClient(slow_server.url, slow_server.key) as client:
        job = await client.submit("a boat", width=512, height=512, steps=20)
        waiting = asyncio.create_task(job.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 30)
        assert (await job.status()).state in ("queued", "running"), "the cancelled wait must not cancel the job"
        await job.cancel()


def test_threads_share_a_client(client: Client, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def draw(n: int) -> None:
        try:
            client.generate(f"boat {n}", to=tmp_path / f"{n}.png", **SMALL)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=draw, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_batch_calls_over_http(shared_server: ServerProcess, http: httpx2.Client, other_key: str) -> None:
    from support import problem, submit

    ids = [submit(http) for _ in range(3)]
    first = http.post("/api/v1/status", json={"job_ids": [*ids, "ext_none"]}).json()
    assert {job["job_id"] for job in first["jobs"]} == set(ids)
    assert first["unknown"] == ["ext_none"]
    cursor, over = first["cursor"], {job["job_id"] for job in first["jobs"] if job["state"] == "completed"}
    while over != set(ids):
        response = http.post("/api/v1/status", json={"job_ids": ids, "since": cursor}, headers={"Prefer": "wait=20"})
        assert response.headers["preference-applied"] == "wait=20"
        changes = response.json()
        assert changes["jobs"], "a long poll of 20 s without a change"
        over |= {job["job_id"] for job in changes["jobs"] if job["state"] == "completed"}
        cursor = changes["cursor"]
    assert http.post("/api/v1/status", json={"job_ids": ids, "since": cursor}).json()["jobs"] == []
    other = httpx2.post(
        f"{shared_server.url}/api/v1/status", json={"job_ids": ids}, headers={"Authorization": f"Bearer {other_key}"}
    ).json()
    assert (other["jobs"], other["unknown"]) == ([], ids)
    for body in ({}, {"job_ids": "x"}, {"job_ids": []}, {"job_ids": ["x"] * 1001}, {"job_ids": [5]}):
        problem(http.post("/api/v1/status", json=body), 400, "invalid_request")
    for since in ("x", 5, "-1", "9" * 30):
        problem(http.post("/api/v1/status", json={"job_ids": ids, "since": since}), 400, "invalid_request")
    for query in ("limit=0", "limit=201", "limit=x", "state=odd", "cursor=x"):
        problem(http.get(f"/api/v1/jobs?{query}"), 400, "invalid_request")
    problem(http.post("/api/v1/cancel/ext_none"), 404, "job_not_found")


async def test_a_cancelled_task_ends_a_backoff() -> None:
    backing_off = asyncio.Event()

    def on_event(event: Event) -> None:
        if event.kind == "retrying":
            backing_off.set()

    with FaultServer(job_seconds=60) as server:
        server.on("GET /api/v1/status/*", Respond(503, {"error": "busy"}, {"Retry-After": "60"}), times=None)
        async with AsyncClient(server.url, server.key, journal=None, on_event=on_event) as client:
            job = await client.submit("a boat")
            waiting = asyncio.create_task(job.wait())
            await asyncio.wait_for(backing_off.wait(), 30)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(waiting, 30)


def test_ctrl_c_ends_a_backoff() -> None:
    with FaultServer(job_seconds=60) as server:
        server.on("GET /api/v1/status/*", Respond(503, {"error": "busy"}, {"Retry-After": "60"}), times=None)
        environment = clean_environment(UMRGEN_BASE_URL=server.url, UMRGEN_API_KEY=server.key)
        command = [sys.executable, "-m", "umrgen", "wait", "ext_1"]
        with subprocess.Popen(tied(*command), stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            assert "trying again in 60 s" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=30)[1]  # the backoff takes 60 s
    assert process.returncode == 130
    assert "umrgen fetch ext_1" in rest


def test_all_polls_share_one_connection() -> None:
    from umrgen.client.transport import KEEP_ALIVE

    assert Options().longest_delay < KEEP_ALIVE, "an idle connection would be closed before its next use"
    with (
        FaultServer("legacy", job_seconds=0.5, rate_limit=None) as server,
        Client(server.url, server.key, journal=None, running_interval=0.05, queued_interval=0.05) as client,
    ):
        client.submit("a boat").wait()
        assert len(server.requests) > 4
        assert server.connections == 1


def test_a_submitted_job_is_in_the_journal(client: Client) -> None:
    job = client.submit("a boat", **SMALL)
    assert [entry.job_id for entry in Journal().unfinished()] == [job.id]
