"""Failures of engines, disk and clock, and signals: the server reports them, loses no job, and recovers."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import SMALL, ServerProcess, clean_environment, finish, server, submit, tied, until
from umrgen.image_files import verify
from umrgen.server.domain.job import Job, output_name
from umrgen.server.domain.request import GenerationRequest

HERE = Path(__file__).parents[1]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@contextmanager
def failing_server(state: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Run a server with an engine whose failure the prompt selects."""
    engine = ("--engine", "engines_that_fail:FailingEngine", "--cancel-grace", "0.2", "--disk-reserve", "0")
    with server(state, *engine, *arguments, PYTHONPATH=str(HERE)) as running:
        yield running


def check_failed(job: dict[str, Any], code: str, message: str) -> None:
    assert (job["state"], job["error_code"], job["image_url"]) == ("failed", code, None), job
    assert message in job["error"]
    for path in ("/root", "/tmp", ".py", "Traceback"):
        assert path not in job["error"]


def get_status(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/api/v1/status/{job_id}").json()
    return job


def running_at(http: httpx2.Client, job_id: str, step: int) -> bool:
    job = get_status(http, job_id)
    return job["state"] == "running" and job["progress"]["step"] >= step


class TestEngines:
    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["hang", "repeat"])
    def test_a_stalled_engine_is_replaced_and_the_job_tried_three_times(self, state: Path, how: str) -> None:
        with failing_server(state, "--stall-after", "1") as running, running.http() as http:
            engines = running.engine_pids()
            job_id = submit(http, how)
            until(lambda: get_status(http, job_id)["attempt"] == 2)
            assert http.get("/healthz").status_code == 200, "the API must not wait for the engine"
            until(lambda: not set(engines) & set(running.engine_pids()))
            job = finish(http, job_id)
            check_failed(job, "engine_stalled", "no progress for 1 s")
            assert job["attempt"] == 3
            assert finish(http, submit(http))["state"] == "completed"
        assert "the engine is replaced" in running.log()

    @pytest.mark.slow
    def test_a_job_completes_after_one_stall(self, state: Path, tmp_path: Path) -> None:
        with failing_server(state, "--stall-after", "1") as running, running.http() as http:
            job = finish(http, submit(http, f"hang-once {tmp_path / 'marker'}"))
            assert (job["state"], job["attempt"], job["error"]) == ("completed", 2, None)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("prompt", "code", "message"),
        [
            ("abort", "engine_crashed", "SIGABRT"),
            ("garbage", "engine_crashed", "an invalid message"),
            ("step inf", "engine_crashed", "an invalid message"),
            ("step 1e30", "engine_crashed", "an invalid message"),
            ("vanish", "engine_crashed", "(in attempt 3, the last)"),
            ("memory", "out_of_memory", "more memory than the engine has"),
            ("raise", "engine_crashed", "RuntimeError"),
        ],
    )
    def test_the_next_job_completes_after_any_engine_failure(
        self, state: Path, prompt: str, code: str, message: str
    ) -> None:
        with failing_server(state, "--engine-memory", "600") as running, running.http() as http:
            first, second = submit(http, prompt), submit(http)
            check_failed(finish(http, first), code, message)
            job = finish(http, second)
            assert (job["state"], job["attempt"]) == ("completed", 1)
            assert len(list((state / "outputs").rglob("*.png"))) == 1, "a failed job must not leave a file"

    @pytest.mark.slow
    def test_cancelling_a_job_of_a_hanging_engine_affects_no_other_job(self, state: Path) -> None:
        with failing_server(state) as running, running.http() as http:
            engines = running.engine_pids()
            first, second = submit(http, "hang"), submit(http)
            until(lambda: get_status(http, first)["state"] == "running")
            cancelled = http.post(f"/api/v1/cancel/{first}").json()
            assert (cancelled["state"], cancelled["error_code"]) == ("failed", "cancelled")
            job = finish(http, second)
            assert (job["state"], job["attempt"]) == ("completed", 1)
            assert http.post(f"/api/v1/cancel/{first}").json() == get_status(http, first), (
                "the second cancel must return the same status"
            )
            assert http.post(f"/api/v1/cancel/{second}").json()["state"] == "completed"
            assert not set(engines) & set(running.engine_pids())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk, and return the file that occupies it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


class TestDisk:
    @pytest.mark.slow
    def test_on_a_full_disk_new_jobs_are_refused_and_no_job_is_lost(self, small_disk: Path) -> None:
        with failing_server(small_disk / "state") as running, running.http() as http:
            finish(http, submit(http))
            accepted = [submit(http, "slow") for _ in range(3)]
            ballast = fill(small_disk)
            refused = None
            for _ in range(200):  # the pages of the ledger still have free space
                response = http.post("/api/v1/generate", json={"prompt": "x" * 2000} | SMALL)
                if response.status_code != 202:
                    refused = response
                    break
                accepted.append(response.json()["job_id"])
            assert refused is not None
            assert (refused.status_code, refused.json()["code"]) == (503, "ledger_unavailable")
            assert "retry-after" in refused.headers
            assert http.get("/healthz").status_code == 200
            assert get_status(http, accepted[0])["state"] in ("queued", "running", "completed"), "reads must still work"
            until(lambda: http.get("/readyz").status_code == 503)
            ballast.unlink()
            until(lambda: http.get("/readyz").status_code == 200)
            until(lambda: "can be stored again" in running.log())
            for job_id in accepted:
                job = finish(http, job_id)
                assert (job["state"], job["attempt"]) == ("completed", 1)
                assert verify(http.get(job["image_url"]).content).width == 512

    @pytest.mark.slow
    def test_an_image_is_stored_after_disk_space_is_freed(self, state: Path, small_disk: Path) -> None:
        state.mkdir()
        (state / "outputs").symlink_to(small_disk)
        with failing_server(state) as running, running.http() as http:
            ballast = fill(small_disk)
            job_id = submit(http)
            until(lambda: "the image could not be stored" in running.log())
            assert get_status(http, job_id)["state"] == "running"
            until(lambda: http.get("/readyz").status_code == 503)
            ballast.unlink()
            until(lambda: http.get("/readyz").status_code == 200)
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 1)
            assert len(list(small_disk.rglob("*.png"))) == 1

    @pytest.mark.slow
    def test_a_file_whose_job_was_not_completed_before_a_kill_is_deleted_an_hour_later(self, state: Path) -> None:
        with failing_server(state) as first, first.http() as http:
            done = finish(http, submit(http))
            job_id = submit(http, "hang", seed=7)
            until(lambda: get_status(http, job_id)["state"] == "running")
            first.kill_group()
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:
            find = "SELECT session_id, token, output_key FROM jobs WHERE id = ?"
            session_id, token, key = ledger.execute(find, (job_id,)).fetchone()
            request = GenerationRequest("hang", seed=7)
            job = Job(job_id, session_id, request, "", created_at=0, token=token, output_key=key)
            stored = state / "outputs" / session_id / output_name(job, 0, "image/png")
            stored.write_bytes(b"stored just before the kill")
            with failing_server(state) as again, again.http(Authorization=f"Bearer {first.key}") as http:
                http.post(f"/api/v1/cancel/{job_id}").raise_for_status()
                assert stored.exists(), "a server that was only slow may still store the file"
            ledger.execute("UPDATE obsolete_files SET not_before = 0")  # an hour later
            ledger.commit()
            with failing_server(state) as again, again.http(Authorization=f"Bearer {first.key}") as http:
                until(lambda: not stored.exists())
                assert http.get(done["image_url"]).status_code == 200


@pytest.mark.slow
def test_a_locked_ledger_blocks_only_writes(state: Path) -> None:
    with failing_server(state) as running, running.http() as http:
        job_id = submit(http, "slow")
        until(lambda: get_status(http, job_id)["state"] == "running")
        with closing(sqlite3.connect(state / "ledger.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL)
            assert (refused.status_code, refused.json()["code"]) == (503, "ledger_unavailable")
            assert get_status(http, job_id)["state"] == "running"
            until(lambda: "cannot be written" in running.log())
        job = finish(http, job_id)
        assert (job["state"], job["attempt"]) == ("completed", 1)
        assert finish(http, submit(http))["state"] == "completed"


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime (Debian: faketime) is not installed")
@pytest.mark.parametrize("jump", ["-7200", "+7200"])
def test_setting_the_clock_ends_no_attempt(state: Path, tmp_path: Path, jump: str) -> None:
    time_file = tmp_path / "time"
    time_file.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(time_file), "FAKETIME_NO_CACHE": "1"}
    faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(HERE)}
    engine = ("--engine", "engines_that_fail:FailingEngine", "--lease", "1")
    with server(state, *engine, **faked) as running, running.http() as http:
        job_id = submit(http, "slow", steps=8)
        until(lambda: running_at(http, job_id, 1))
        time_file.write_text(jump)
        job = finish(http, job_id)
        assert (job["state"], job["attempt"]) == ("completed", 1)
        assert job["completed_at"] >= job["created_at"]
        moved = job["completed_at"] - job["created_at"] > 3_600_000
        assert moved == (jump[0] == "+"), "the clock was not set"
        assert finish(http, submit(http))["state"] == "completed"


@pytest.mark.slow
def test_the_engine_finishes_after_a_sigterm_to_the_process_group(state: Path) -> None:
    """A service manager sends the signal to every process of the service."""
    first = ServerProcess(state, "--step-delay", "0.5").start()
    with first.http() as http:
        job_id = submit(http, steps=4)
        until(lambda: running_at(http, job_id, 1))
    os.killpg(first.process.pid, signal.SIGTERM)
    assert first.ended() == 0
    with server(state) as second, second.http(Authorization=f"Bearer {first.key}") as http:
        job = get_status(http, job_id)
        assert (job["state"], job["attempt"]) == ("completed", 1)


@pytest.mark.slow
def test_a_second_sigterm_stops_the_server_after_the_drain(state: Path) -> None:
    first = ServerProcess(state, "--step-delay", "600", "--drain", "0", "--cancel-grace", "600").start()
    with first.http() as http:
        job_id = submit(http, steps=2)
        until(lambda: running_at(http, job_id, 1))
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "requeuing 1 running jobs" in first.log())
    assert first.stop() == 0
    with server(state) as second, second.http(Authorization=f"Bearer {first.key}") as http:
        job = finish(http, job_id)
        assert (job["state"], job["attempt"]) == ("completed", 2)


@pytest.mark.slow
def test_a_second_sigterm_stops_the_server_during_the_drain(state: Path) -> None:
    first = ServerProcess(state, "--step-delay", "600", "--drain", "600", "--cancel-grace", "600").start()
    responses = []

    def wait(job_id: str) -> None:
        with first.http() as http:
            responses.append(http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"}))

    with first.http() as http:
        job_id = submit(http, steps=2)
        until(lambda: running_at(http, job_id, 1))
        waiting = threading.Thread(target=wait, args=(job_id,))
        waiting.start()
        until(lambda: "\numrgen_waiters 1.0\n" in http.get("/metrics").text)
        first.process.send_signal(signal.SIGTERM)
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.post("/api/v1/generate", json={"prompt": "a boat"}).json()["code"] == "draining"
    assert first.stop() == 0
    waiting.join()
    assert responses[0].status_code == 200
    assert responses[0].json()["state"] in ("queued", "running")
    assert int(responses[0].headers["retry-after"]) >= 1
    with server(state) as second, second.http(Authorization=f"Bearer {first.key}") as http:
        assert finish(http, job_id)["state"] == "completed"


class TestStandstill:
    """SIGSTOP, as of a paused container or a debugger: time passes, and the process does not run."""

    def stop(
        self, send: Callable[[signal.Signals], None], seconds: float, condition: Callable[[], bool] = lambda: True
    ) -> None:
        """Stop processes until `seconds` have passed for all others, and `condition` is true."""
        send(signal.SIGSTOP)
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end and condition(), 60)
        send(signal.SIGCONT)

    @pytest.mark.slow
    @pytest.mark.parametrize("whom", ["server", "server and engine"])
    def test_an_engine_is_not_replaced_after_a_standstill(self, state: Path, whom: str) -> None:
        with failing_server(state, "--stall-after", "1", "--lease", "1") as running, running.http() as http:
            pid, engines = running.process.pid, running.engine_pids()
            send = partial(os.kill, pid) if whom == "server" else partial(os.killpg, pid)
            job_id = submit(http, "slow", steps=12)
            for step in (1, 5):
                until(lambda step=step: running_at(http, job_id, step))
                self.stop(send, 2.5)
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 1), job
            assert running.engine_pids() == engines
        assert "the engine is replaced" not in running.log()

    @pytest.mark.slow
    def test_an_engine_that_is_stopped_without_the_server_is_replaced(self, state: Path) -> None:
        with failing_server(state, "--stall-after", "1") as running, running.http() as http:
            (engine,) = running.engine_pids()
            job_id = submit(http, "slow", steps=8)
            until(lambda: running_at(http, job_id, 1))
            os.kill(engine, signal.SIGSTOP)
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 2), job
            assert engine not in running.engine_pids()

    @pytest.mark.slow
    def test_a_client_polls_again_after_its_deadline(self, state: Path, tmp_path: Path) -> None:
        with failing_server(state) as running, running.http() as http:
            job_id = submit(http, "slow", steps=40)
            command = (sys.executable, "-m", "umrgen", "fetch", job_id, "-o", str(tmp_path / "a.png"), "--timeout", "8")
            environment = clean_environment(UMRGEN_BASE_URL=running.url, UMRGEN_API_KEY=running.key)
            waiting = subprocess.Popen(tied(*command), env=environment, stderr=subprocess.PIPE, text=True)
            until(lambda: "\numrgen_waiters 1.0\n" in http.get("/metrics").text)
            self.stop(partial(os.kill, waiting.pid), 11, lambda: bool(get_status(http, job_id)["state"] == "completed"))
            errors = waiting.communicate(timeout=30)[1]
            assert waiting.returncode == 0, errors
            assert verify((tmp_path / "a.png").read_bytes())
