"""Servers without engines, and workers without an API, on one ledger and one blob store."""

import asyncio
import random
import signal
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from engines_with_models import ENGINE
from event_streams import events
from PIL import Image
from torture import Tally, check_jobs, files_of
from torture_roles import load
from worker_process import worker

from cut import CuttingProxy, through
from postgres import PostgresDatabases
from s3_server import free_ports, new_prefix, shared_s3
from support import SMALL, UNLIMITED, ServerProcess, cli, server, until

BODY = {"prompt": "a boat"} | SMALL
PNG = b"\x89PNG"


def submit(http: httpx2.Client, **changes: int | str) -> str:
    return str(http.post("/api/v1/generate", json=BODY | changes).json()["job_id"])


def state_of(http: httpx2.Client, job_id: str) -> str:
    return str(http.get(f"/api/v1/status/{job_id}").json()["state"])


def engine_of(http: httpx2.Client) -> dict[str, Any]:
    """Return what the server's capabilities say about engines."""
    engine: dict[str, Any] = http.get("/api/v1/capabilities").json()["engine"]
    return engine


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresDatabases) -> tuple[str, ...]:
    """The options that the servers and the workers have in common."""
    ledger = f"sqlite:{tmp_path / 'ledger.sqlite3'}" if request.param == "sqlite" else postgres.create()
    return ("--ledger", ledger, "--blobs", f"local:{tmp_path / 'images'}")


@pytest.mark.slow
def test_workers_draw_each_job_of_a_server_without_engines_once(shared: tuple[str, ...], tmp_path: Path) -> None:
    with server(tmp_path / "server", *UNLIMITED, *shared, "--no-engines") as serving, serving.http() as http:
        jobs = [submit(http) for _ in range(12)]
        assert {state_of(http, job) for job in jobs} == {"queued"}
        assert engine_of(http)["state"] == "unavailable"
        with worker(tmp_path / "one", *shared) as one, worker(tmp_path / "two", *shared) as two:
            until(lambda: engine_of(http)["state"] == "elsewhere")
            until(lambda: {state_of(http, job) for job in jobs} == {"completed"}, 60)
            logs = one.log() + two.log()
        assert [logs.count(f"job {job}: attempt 1") for job in jobs] == [1] * 12
        assert "attempt 2" not in logs
        assert serving.engine_pids() == []
        url = http.get(f"/api/v1/status/{jobs[0]}").json()["image_url"]
        assert http.get(url).headers["Content-Type"] == "image/png"


def test_sighup_reloads_the_settings_of_a_worker(tmp_path: Path) -> None:
    config, shared = tmp_path / "umrgen.toml", ("--ledger", f"sqlite:{tmp_path / 'ledger.sqlite3'}")
    plain = f'blobs = "local:{tmp_path / "images"}"\n'
    config.write_text(f"{plain}retain_days = 5\n")
    with worker(tmp_path / "worker", "--config", str(config), *shared) as working:
        config.write_text(f"{plain}retain_days = 7\nlease = 40\n")
        working.process.send_signal(signal.SIGHUP)
        until(lambda: "these settings need a restart: lease 30.0 → 40.0\n" in working.log())
        assert "reloaded: retain_days 5.0 → 7.0\n" in working.log()
        config.write_text('blobs = "local"\nretain_days = 9\n')
        working.process.send_signal(signal.SIGHUP)
        until(lambda: "the settings were not reloaded: a worker needs the images of the servers" in working.log())
        assert "→ 9" not in working.log()


@pytest.mark.slow
def test_a_worker_has_metrics_of_the_jobs_that_it_draws(shared: tuple[str, ...], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options = ("--work-port", str(port), "--metrics-token", "for-the-scraper-alone-x")
    url, token = f"http://127.0.0.1:{port}", {"Authorization": "Bearer for-the-scraper-alone-x"}
    with server(tmp_path / "server", *shared, "--no-engines") as serving, serving.http() as http:
        with worker(tmp_path / "worker", *shared, *options):
            until(lambda: httpx2.get(f"{url}/readyz").status_code == 200)
            job_id = submit(http)
            until(lambda: state_of(http, job_id) == "completed")
            text = httpx2.get(f"{url}/metrics", headers=token).text
            assert 'umrgen_jobs_ended_total{error_code="",state="completed"} 1.0' in text
            assert 'umrgen_job_run_seconds_count{engine="procedural"} 1.0' in text
            assert httpx2.get(f"{url}/metrics").status_code == 401
            assert httpx2.get(f"{url}/api/v1/jobs", headers=token).status_code == 404, "it has no API"
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/healthz")
        assert "umrgen_jobs_ended_total{" not in http.get("/metrics").text, "the server counts its own jobs"


@pytest.mark.slow
def test_a_cancellation_at_the_server_stops_the_engine_of_the_worker(shared: tuple[str, ...], tmp_path: Path) -> None:
    """Neither a step nor a renewal of the lease, by which the worker would see it as well, is due within this time."""
    slow = ("--step-delay", "60", "--stall-after", "300", "--lease", "600", "--cancel-grace", "1", "--drain", "0")
    with (
        server(tmp_path / "server", *UNLIMITED, *shared, "--no-engines") as serving,
        serving.http() as http,
        worker(tmp_path / "worker", *shared, *slow) as working,
    ):
        cancelled, following = submit(http, steps=3), submit(http, steps=3)  # the delay is between two steps
        until(lambda: state_of(http, cancelled) == "running")
        assert http.post(f"/api/v1/cancel/{cancelled}").json()["error_code"] == "cancelled"
        until(lambda: f"job {cancelled}: it was ended" in working.log())
        until(lambda: state_of(http, following) == "running")


@pytest.mark.slow
def test_a_preview_of_a_worker_is_seen_at_the_server(shared: tuple[str, ...], tmp_path: Path) -> None:
    """Only while it is watched: the other job's previews are not made."""
    slow = ("--step-delay", "0.4", "--session-running", "2")
    with (
        server(tmp_path / "server", *UNLIMITED, *shared, "--no-engines") as serving,
        serving.http() as http,
        worker(tmp_path / "worker", *shared, *slow),
    ):
        job_id = submit(http, steps=20)
        received = events(http, job_id, "?preview=1")
        while received[-1].data.get("state") != "completed":  # a stream may end early, then a client connects again
            received += events(http, job_id, "?preview=1")
        previews = [event.data for event in received if event.kind == "preview"]
        assert len(previews) > 1
        for preview in previews:
            with Image.open(BytesIO(b64decode(preview["data"])), formats=["JPEG"]) as image:
                assert max(image.size) == 384
        steps = [event.data["step"] for event in received if event.kind == "progress"]
        assert steps == sorted(set(steps)), "with a preview, the step is reported"
        assert steps


@pytest.mark.slow
def test_a_job_is_drawn_by_a_worker_that_has_its_model(shared: tuple[str, ...], tmp_path: Path) -> None:
    """A job for a model that no worker has waits for one, and delays no other job."""
    painter = ("--engine", ENGINE, "--engine-option")
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        server(tmp_path / "server", *UNLIMITED, *shared, "--no-engines", "--engine", ENGINE) as serving,
        serving.http() as http,
    ):
        early = submit(http, model="third")
        with (
            worker(tmp_path / "one", *shared, *painter, "model=first", **environment) as one,
            worker(tmp_path / "two", *shared, *painter, "model=second", **environment) as two,
            worker(tmp_path / "other", *shared) as other,
        ):
            until(lambda: engine_of(http)["models"] == ["first", "second"])
            jobs = [submit(http, model=model) for model in ("second", "first", "second")]
            plain = submit(http)
            until(lambda: {state_of(http, job) for job in (*jobs, plain)} == {"completed"})
            assert state_of(http, early) == "queued"
            assert [f"job {job}: attempt" in one.log() for job in jobs] == [False, True, False]
            assert [f"job {job}: attempt" in two.log() for job in jobs] == [True, False, True]
            assert f"job {plain}: attempt" in one.log()
            assert "attempt" not in other.log()
            refused = http.post("/api/v1/generate", json=BODY | {"model": "third"})
            assert refused.status_code == 400
            assert "it has first, second" in refused.text
        with worker(tmp_path / "three", *shared, *painter, "model=third", **environment):
            until(lambda: state_of(http, early) == "completed")


@pytest.mark.slow
def test_a_network_to_s3_that_passes_nothing_on_delays_jobs_and_requests(tmp_path: Path) -> None:
    """A server and a worker reach S3 by a proxy each, which stalls; no connection is closed."""
    s3 = shared_s3()
    target = int(s3.endpoint.rpartition(":")[2])
    to_server, to_worker = CuttingProxy(target), CuttingProxy(target)
    shared = ("--ledger", f"sqlite:{tmp_path / 'ledger.sqlite3'}", "--blobs", f"s3://images/{new_prefix()}")
    by = lambda proxy: s3.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}  # noqa: E731
    try:
        with (
            server(tmp_path / "server", *UNLIMITED, *shared, "--no-engines", **by(to_server)) as serving,
            serving.http() as http,
            worker(tmp_path / "worker", *shared, **by(to_worker)) as drawing,
        ):
            first = submit(http)
            until(lambda: state_of(http, first) == "completed")
            to_server.stall()
            url = http.get(f"/api/v1/status/{first}").json()["image_url"]
            refused = http.get(url, timeout=60)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_failed")
            to_server.resume()
            assert http.get(url).content.startswith(PNG)

            to_worker.stall()
            second = submit(http)
            until(lambda: f"job {second}: the images in" in drawing.log(), 60)
            assert state_of(http, second) == "running"
            to_worker.resume()
            until(lambda: state_of(http, second) == "completed", 60)
            status = http.get(f"/api/v1/status/{second}").json()
            assert http.get(status["image_url"]).content.startswith(PNG)
            assert f"job {second}: attempt 2" not in drawing.log(), "its image was kept"
    finally:
        for proxy in (to_server, to_worker):
            proxy.close()


@pytest.mark.slow
def test_a_worker_behind_a_network_that_passes_nothing_on_loses_its_job_to_another_one(
    postgres: PostgresDatabases, tmp_path: Path
) -> None:
    """As when it is cut off; nothing that it sent since changes the job of the other."""
    assert postgres.server is not None
    url, proxy = postgres.create(), CuttingProxy(postgres.server.socket)
    blobs = ("--blobs", f"local:{tmp_path / 'images'}")
    options = ("--lease", "2", "--step-delay", "0.5")
    try:
        with (
            server(tmp_path / "server", *UNLIMITED, *blobs, "--ledger", url, "--no-engines") as serving,
            serving.http() as http,
            worker(tmp_path / "cut", *blobs, "--ledger", through(proxy, url), *options) as cut,
        ):
            job = submit(http, steps=10)
            until(lambda: state_of(http, job) == "running")
            until(lambda: f"job {job}: attempt 1" in cut.log())
            proxy.stall()  # perhaps inside a transaction, which PostgreSQL ends after 15 s
            template = {"request": {"prompt": "a boat"}}
            until(lambda: http.put("/api/v1/templates/boat", json=template).status_code == 200, 40)
            with worker(tmp_path / "other", *blobs, "--ledger", url, *options) as other:
                until(lambda: state_of(http, job) == "completed", 40)
                assert f"job {job}: attempt 2" in other.log()
            proxy.resume()
            until(lambda: f"job {job}: it was ended, or another worker has it" in cut.log(), 60)
            status = http.get(f"/api/v1/status/{job}").json()
            stored = {path.name for path in (tmp_path / "images").glob("sid_*/*")}
            assert stored == files_of([status])
            following = submit(http)
            until(lambda: state_of(http, following) == "completed")
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_worker_that_is_cut_off_from_postgresql_loses_its_job_to_another_one(
    postgres: PostgresDatabases, tmp_path: Path
) -> None:
    """Its own image is deleted when the network is back, and it draws again."""
    assert postgres.server is not None
    url, proxy = postgres.create(), CuttingProxy(postgres.server.socket)
    blobs = ("--blobs", f"local:{tmp_path / 'images'}")
    options = ("--lease", "2", "--step-delay", "0.5")
    try:
        with (
            server(tmp_path / "server", *UNLIMITED, *blobs, "--ledger", url, "--no-engines") as serving,
            serving.http() as http,
            worker(tmp_path / "cut", *blobs, "--ledger", through(proxy, url), *options) as cut,
        ):
            job = submit(http, steps=10)
            until(lambda: state_of(http, job) == "running")
            proxy.refusing.set()
            proxy.cut_all()
            until(lambda: "the connection to PostgreSQL was lost" in cut.log())
            with worker(tmp_path / "other", *blobs, "--ledger", url, *options) as other:
                until(lambda: state_of(http, job) == "completed", 40)
                assert f"job {job}: attempt 2" in other.log()
            proxy.refusing.clear()
            until(lambda: f"job {job}: it was ended, or another worker has it" in cut.log())
            stored = {path.name for path in (tmp_path / "images").glob("sid_*/*")}
            assert stored == files_of([http.get(f"/api/v1/status/{job}").json()])
            following = submit(http)
            until(lambda: state_of(http, following) == "completed")
    finally:
        proxy.close()


def ends_two_more(tally: Tally) -> None:
    """Wait until the clients have seen the ends of two more jobs."""
    before = len(tally.ended)
    until(lambda: len(tally.ended) >= before + 2, 60)


@pytest.mark.slow
def test_servers_are_replaced_one_after_the_other_under_load(postgres: PostgresDatabases, tmp_path: Path) -> None:
    """Nothing is lost, every job is drawn once, and each call that fails succeeds when it is repeated."""
    shared = (*UNLIMITED, "--ledger", postgres.create(), "--blobs", f"local:{tmp_path / 'images'}")
    running = []
    try:
        for number, port in enumerate(free_ports(2)):
            started = ServerProcess(tmp_path / str(number), *shared, "--step-delay", "0.2", "--port", str(port))
            started.key = running[0].key if running else ""
            running.append(started.start())
        tally, enough = Tally(), threading.Event()
        urls = [each.url for each in running]
        work = load(urls, running[0].key, tally, random.Random(1), clients=4, enough=enough, jobs=10_000)
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(asyncio.run, work)
            for each in running:
                ends_two_more(tally)
                assert each.stop() == 0
                ends_two_more(tally)
                each.start()
            enough.set()
            loading.result()
        wrong, recorded = check_jobs(running[0], tally, set())
        assert wrong == []
        assert {job["attempt"] for job in tally.ended.values()} == {1}
        assert {path.name for path in (tmp_path / "images").glob("sid_*/*")} == recorded
        assert set(tally.receipts.values()) == set(tally.ended)
    finally:
        for each in running:
            if each.process.poll() is None:
                each.stop()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "a worker needs the ledger of the servers; got sqlite"),
        (("--ledger", "sqlite:/nowhere/ledger.sqlite3"), "a worker needs the images of the servers; got local"),
    ],
)
def test_a_worker_on_a_ledger_or_images_of_its_own_is_refused(
    state: Path, arguments: tuple[str, ...], reason: str
) -> None:
    refused = cli("work", "--state", str(state), *arguments)
    assert refused.returncode == 1
    assert reason in refused.stderr
    assert not state.exists()
