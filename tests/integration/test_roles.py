"""Servers without engines, and workers without an HTTP interface, on one ledger and one blob store."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from postgres import PostgresDatabases
from support import SMALL, UNLIMITED, clean_environment, cli, server, tied, until

BODY = {"prompt": "a boat"} | SMALL


class WorkerProcess:
    """A process of `umrgen work`."""

    def __init__(self, state: Path, *arguments: str) -> None:
        state.mkdir(parents=True)
        self._log = state / "test.log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                tied(sys.executable, "-m", "umrgen", "work", "--json", "--state", str(state), *arguments),
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(),
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        assert json.loads(line)["state"] == str(state)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


@contextmanager
def worker(state: Path, *arguments: str) -> Iterator[WorkerProcess]:
    running = WorkerProcess(state, *arguments)
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0
    assert "Traceback" not in running.log()


def submit(http: httpx2.Client, **changes: int) -> str:
    return str(http.post("/api/v1/generate", json=BODY | changes).json()["job_id"])


def state_of(http: httpx2.Client, job_id: str) -> str:
    return str(http.get(f"/api/v1/status/{job_id}").json()["state"])


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
        assert http.get("/api/v1/capabilities").json()["engine"]["state"] == "elsewhere"
        with worker(tmp_path / "one", *shared) as one, worker(tmp_path / "two", *shared) as two:
            until(lambda: {state_of(http, job) for job in jobs} == {"completed"}, 60)
            logs = one.log() + two.log()
        assert [logs.count(f"job {job}: attempt 1") for job in jobs] == [1] * 12
        assert "attempt 2" not in logs
        assert serving.engine_pids() == []
        url = http.get(f"/api/v1/status/{jobs[0]}").json()["image_url"]
        assert http.get(url).headers["Content-Type"] == "image/png"


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
