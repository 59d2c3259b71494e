"""Recovery after a restart: every acknowledged job, and every image of a completed job."""

import os
import signal
from pathlib import Path

import pytest

from support import ServerProcess, finish, server, submit, until
from umrgen.image_files import verify


@pytest.mark.slow
def test_after_sigkill_queued_jobs_run_and_interrupted_jobs_run_again(state: Path) -> None:
    first = ServerProcess(state, "--step-delay", "30").start()
    engines = first.engine_pids()
    with first.http() as http:
        ids = [submit(http, steps=2) for _ in range(4)]
        until(lambda: http.get(f"/api/v1/status/{ids[0]}").json()["progress"]["step"] == 1)
    first.kill()
    for pid in engines:
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # the end of its standard input ends the engine

    with server(state) as second:
        second.key = first.key
        with second.http() as http:
            jobs = [finish(http, job_id) for job_id in ids]
            for job in jobs:
                assert job["state"] == "completed"
                assert verify(http.get(job["image_url"]).content).width == 512
            assert [job["attempt"] for job in jobs] == [2, 1, 1, 1]
    assert second.log().count("queued again") == 1


def test_an_engine_that_is_loading_ends_with_the_server(state: Path, tmp_path: Path) -> None:
    """Otherwise it would keep the memory of a GPU from the engine of the next server, for minutes."""
    (loading := tmp_path / "loading").mkdir()
    engine = ("--engine", "fake_engines:EndlessLoadingEngine", "--engine-option", f"folder={loading}")
    running = ServerProcess(state, *engine, PYTHONPATH=str(Path(__file__).parents[1]))
    running.launch()
    (started,) = until(lambda: list(loading.iterdir()))
    running.kill()
    until(lambda: not Path(f"/proc/{started.name}").exists())


def test_a_completed_job_and_its_image_survive_sigkill(state: Path) -> None:
    first = ServerProcess(state).start()
    with first.http() as http:
        job = finish(http, submit(http))
        image = http.get(job["image_url"]).content
    first.kill()
    with server(state) as second, second.http(Authorization=f"Bearer {first.key}") as http:
        assert http.get(f"/api/v1/status/{job['job_id']}").json() == job
        assert http.get(job["image_url"]).content == image


@pytest.mark.slow
def test_a_crashed_engine_is_replaced_and_its_job_retried(state: Path) -> None:
    with server(state, "--step-delay", "0.5") as running, running.http() as http:
        job_id = submit(http, steps=3)
        until(lambda: http.get(f"/api/v1/status/{job_id}").json()["progress"]["step"] == 1)
        (engine,) = running.engine_pids()
        os.kill(engine, signal.SIGKILL)
        job = finish(http, job_id)
        assert (job["state"], job["attempt"]) == ("completed", 2)
        assert running.engine_pids() != [engine]


@pytest.mark.slow
def test_a_job_that_crashes_every_engine_fails(state: Path) -> None:
    with server(state, "--step-delay", "0.3", "--max-attempts", "2") as running, running.http() as http:
        job_id = submit(http, steps=50)
        for attempt in (1, 2):
            until(
                lambda attempt=attempt: (
                    (job := http.get(f"/api/v1/status/{job_id}").json())["attempt"] == attempt
                    and job["progress"]["step"] >= 1
                )
            )
            (engine,) = running.engine_pids()
            os.kill(engine, signal.SIGKILL)
        job = finish(http, job_id)
        assert (job["state"], job["error_code"], job["image_url"]) == ("failed", "engine_crashed", None)
        assert "SIGKILL" in job["error"]
        assert finish(http, submit(http))["state"] == "completed"


@pytest.mark.slow
def test_sigterm_requeues_a_running_job(state: Path) -> None:
    first = ServerProcess(state, "--step-delay", "30", "--drain", "0.1").start()
    with first.http() as http:
        job_id = submit(http, steps=2)
        until(lambda: http.get(f"/api/v1/status/{job_id}").json()["progress"]["step"] == 1)
    assert first.stop() == 0
    with server(state) as second, second.http(Authorization=f"Bearer {first.key}") as http:
        assert finish(http, job_id)["state"] == "completed"


@pytest.mark.slow
def test_sigterm_lets_a_short_job_finish_and_answers_long_polls(state: Path) -> None:
    running = ServerProcess(state, "--step-delay", "0.3").start()
    with running.http() as http:
        job_id = submit(http, steps=3)
        until(lambda: http.get(f"/api/v1/status/{job_id}").json()["progress"]["step"] >= 1)
        running.process.terminate()
        until(lambda: http.get("/readyz").status_code == 503)
        refused = http.post("/api/v1/generate", json={"prompt": "one more"})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert finish(http, job_id)["state"] == "completed"
    assert running.ended() == 0
