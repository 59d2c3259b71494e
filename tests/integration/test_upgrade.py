"""A state folder of the first version, which was killed, is migrated and used by this version."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support import finish, problem, server, submit, until
from umrgen.image_files import verify

FIRST_VERSION = Path(__file__).parents[1] / "fixtures" / "first_version"
"""Written by the first version: a job in each state, an image, a reference image, a webhook, a key."""
MADE = json.loads((FIRST_VERSION / "jobs.json").read_text())


@pytest.fixture
def old_state(state: Path) -> Path:
    state.mkdir()
    shutil.copytree(FIRST_VERSION / "outputs", state / "outputs")
    shutil.copy(FIRST_VERSION / "url-secret", state)
    with closing(sqlite3.connect(state / "ledger.sqlite3")) as connection:
        connection.executescript((FIRST_VERSION / "ledger.sql").read_text())
    return state


def test_a_ledger_of_the_first_version_is_migrated_and_served(old_state: Path) -> None:
    jobs = MADE["jobs"]
    arguments = ("--url-ttl", "86400", "--retain-days", "0", "--upload-hours", "8760")
    with server(old_state, *arguments, UMRGEN_SERVER_KEY=MADE["key"]) as running:
        running.key = MADE["key"]
        with running.http() as http:
            done = http.get(f"/api/v1/status/{jobs['completed']}").json()
            assert (done["state"], done["seed"], done["progress"]) == ("completed", 7, {"step": 2, "total": 2})
            assert verify(http.get(done["image_url"]).content, sha256=done["results"]["images"][0]["sha256"])
            old_url = http.get(MADE["image_url"])
            assert old_url.status_code == 200 or problem(old_url, 410, "output_expired"), "its signature is valid"
            for name, code in (("failed", "engine_failed"), ("cancelled", "cancelled")):
                failed = http.get(f"/api/v1/status/{jobs[name]}").json()
                assert (failed["state"], failed["error_code"]) == ("failed", code)
            assert finish(http, jobs["running"])["attempt"] == 2
            assert finish(http, jobs["queued"])["priority"] == 3
            references = http.get("/api/v1/upload-reference").json()["references"]
            assert [reference["filename"] for reference in references] == [MADE["reference"]]
            listed = http.get("/api/v1/jobs").json()["jobs"]
            assert {job["job_id"] for job in listed} == set(jobs.values())
            assert finish(http, submit(http))["state"] == "completed"


def test_an_image_of_the_first_version_gets_a_fingerprint(old_state: Path) -> None:
    """By its digest: it has too little detail for a perceptual hash."""
    with server(old_state, "--retain-days", "0", UMRGEN_SERVER_KEY=MADE["key"]) as running:
        running.key = MADE["key"]
        with running.http() as http:
            done = http.get(f"/api/v1/status/{MADE['jobs']['completed']}").json()
            file = http.get(done["image_url"]).content

            def verified() -> dict[str, Any]:
                answer: dict[str, Any] = http.post("/api/v1/verify", files={"file": file}).json()
                return answer

            until(lambda: verified()["made_here"] == "exact")
            found = verified()
    assert (found["job_id"], found["created_at"]) == (done["job_id"], done["completed_at"] // 1000 * 1000)


def test_jobs_of_the_first_version_are_searched_kept_and_deleted(old_state: Path) -> None:
    jobs = MADE["jobs"]
    with server(old_state, "--retain-days", "0", UMRGEN_SERVER_KEY=MADE["key"]) as running:
        running.key = MADE["key"]
        with running.http() as http:
            listed = http.get("/api/v1/jobs").json()["jobs"]
            assert not any(job["favorite"] for job in listed)
            prompt = next(job["prompt"] for job in listed if job["job_id"] == jobs["completed"])
            found = http.get("/api/v1/jobs", params={"q": prompt.upper()}).json()["jobs"]
            assert jobs["completed"] in [job["job_id"] for job in found]
            assert http.patch(f"/api/v1/jobs/{jobs['failed']}", json={"favorite": True}).json()["favorite"]
            favorites = http.get("/api/v1/jobs", params={"favorite": "true"}).json()["jobs"]
            assert [job["job_id"] for job in favorites] == [jobs["failed"]]
            done = http.get(f"/api/v1/status/{jobs['completed']}").json()
            http.delete(f"/api/v1/jobs/{jobs['completed']}").raise_for_status()
            problem(http.get(done["image_url"]), 410, "output_expired")
    assert list(old_state.glob("outputs/*/umrgen_7_5a7ac56479b06cd3ec675b79d1c150c3.png")) == []
    with closing(sqlite3.connect(old_state / "ledger.sqlite3")) as connection:
        (request,) = connection.execute("SELECT request FROM jobs WHERE id = ?", [jobs["completed"]]).fetchone()
    assert prompt not in request


def test_counts_and_change_numbers_are_kept_by_a_migration(old_state: Path) -> None:
    with server(old_state, "--drain", "0", UMRGEN_SERVER_KEY=MADE["key"]) as running:
        running.key = MADE["key"]
        with running.http() as http:
            first = http.post("/api/v1/status", json={"job_ids": list(MADE["jobs"].values())}).json()
            new = finish(http, submit(http))["job_id"]
            cursor = first["cursor"]
            changed = http.post("/api/v1/status", json={"job_ids": [new], "since": cursor}).json()
            assert [job["job_id"] for job in changed["jobs"]] == [new]
    with closing(sqlite3.connect(old_state / "ledger.sqlite3")) as connection:
        (kept,) = connection.execute("SELECT bytes FROM kept").fetchone()
        (sizes,) = connection.execute("SELECT sum(bytes) FROM outputs WHERE expired_at IS NULL").fetchone()
        (alive,) = connection.execute("SELECT sum(queued) + sum(running) FROM sessions").fetchone()
        (unfinished,) = connection.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    assert kept == sizes
    assert alive == unfinished
    assert triggers == []
