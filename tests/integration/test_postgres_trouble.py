"""Bad days with PostgreSQL: wrong settings, a newer schema, and a server that stops and comes back."""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest

from postgres import PostgresDatabases, PostgresServer, own_server
from support import SMALL, UNLIMITED, ServerProcess, cli, server, until
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sql.statements import load_migrations

HIDDEN = "hidden-" + secrets.token_hex(8)
"""A password, which no message may contain."""


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def refusal(state: Path, url: str) -> str:
    """Return the message of a server that does not start with this ledger."""
    refused = cli("serve", "--port", "0", "--state", str(state), UMRGEN_LEDGER=url)
    assert refused.returncode == 1
    assert HIDDEN not in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    return refused.stderr


class TestAStartFails:
    """The reason is one line, without the password of the URL."""

    def test_at_a_wrong_address(self, state: Path) -> None:
        message = refusal(state, f"postgresql://umrgen:{HIDDEN}@127.0.0.1:{closed_port()}/umrgen")
        assert "the ledger in PostgreSQL cannot be used" in message
        assert "Connection refused" in message
        assert "Check that PostgreSQL runs" in message

    @pytest.mark.parametrize("url", ["postgresql://umrgen:{}/x@127.0.0.1/db", "mysql://umrgen:{}@127.0.0.1/db"])
    def test_at_an_invalid_url(self, state: Path, url: str) -> None:
        message = refusal(state, url.format(HIDDEN))
        assert "UMRGEN_LEDGER" in message
        assert "postgresql://" in message

    def test_at_a_missing_database(self, state: Path, postgres: PostgresDatabases) -> None:
        message = refusal(state, postgres.admin_url.replace("/postgres?", "/none?"))
        assert 'database "none" does not exist' in message
        assert "createdb" in message

    def test_at_a_wrong_password(self, state: Path, postgres: PostgresDatabases) -> None:
        if postgres.server is None:
            pytest.skip("the rules of a running server are not changed")
        role = f"umrgen_{secrets.token_hex(4)}"
        url = postgres.create()
        postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
        postgres.server.require_password(role)
        try:
            message = refusal(state, url.replace("postgres@", f"{role}:{HIDDEN}@"))
        finally:
            postgres.execute(f"DROP ROLE {role}")
        assert "password authentication failed" in message
        assert "Check the user and the password" in message

    async def test_at_a_schema_of_a_newer_version(self, state: Path, postgres: PostgresDatabases) -> None:
        url = postgres.create()
        ledger = PostgresLedger(url)
        await ledger.open()
        await ledger.close()
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE ledger_schema SET version = 999")
        assert "A newer version of UMRGEN wrote this ledger" in refusal(state, url)


REQUIRED = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'
"""


async def test_a_server_of_an_earlier_version_can_write_to_the_migrated_tables(postgres: PostgresDatabases) -> None:
    """While servers are replaced: each column that is new in a table of that version has a default or may be NULL."""
    earlier, migrated = postgres.create_schema(), postgres.create_schema()
    with psycopg.connect(earlier) as connection:
        connection.execute(load_migrations("umrgen.server.ledger.postgres")[0].encode(), prepare=False)
        known = set(connection.execute(REQUIRED).fetchall())
    ledger = PostgresLedger(migrated)
    await ledger.open()
    await ledger.close()
    with psycopg.connect(migrated) as connection:
        required = set(connection.execute(REQUIRED).fetchall())
    tables = {table for table, _ in known}
    assert {column for column in required if column[0] in tables} == known


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    running = own_server()
    yield running
    running.remove()


def completed(http: httpx2.Client, job_id: str) -> bool:
    response = http.get(f"/api/v1/status/{job_id}")
    return response.status_code == 200 and response.json()["state"] == "completed"


@pytest.mark.slow
def test_a_server_answers_503_while_postgresql_is_stopped_and_recovers(database: PostgresServer, state: Path) -> None:
    """The job that runs meanwhile is completed in its first attempt."""
    url = database.url("postgres").replace("postgres@", f"postgres:{HIDDEN}@")
    with server(state, *UNLIMITED, "--step-delay", "0.3", UMRGEN_LEDGER=url) as running, running.http() as http:
        body = {"prompt": "a boat"} | SMALL | {"steps": 8}
        job = http.post("/api/v1/generate", json=body).json()["job_id"]
        until(lambda: http.get(f"/api/v1/status/{job}").json()["state"] == "running")
        database.stop()
        for refused in (http.get(f"/api/v1/status/{job}"), http.post("/api/v1/generate", json=body)):
            assert refused.status_code == 503
            assert refused.json()["code"] == "ledger_unavailable"
            assert int(refused.headers["Retry-After"]) > 0
            assert HIDDEN not in refused.text
        database.start()
        until(lambda: completed(http, job))
        assert http.get(f"/api/v1/status/{job}").json()["attempt"] == 1
        again = until(lambda: http.post("/api/v1/generate", json=body).json().get("job_id"))
        until(lambda: completed(http, again))
        log = running.log()
    assert "the connection to PostgreSQL was lost; calls that need it get 503 until it is back" in log
    assert "PostgreSQL is back after" in log
    assert "Traceback" not in log
    assert HIDDEN not in log


FILLER = """
INSERT INTO jobs (id, session_id, request, engine, state, version, attempt, interruptions, token, step, created_at,
                  outputs, changed)
SELECT gen_random_uuid()::text, 'sid_old', repeat('x', %s), '', 'failed', 1, 0, 0, 0, 0, 0, '[]', 0
FROM generate_series(1, %s)
"""


@pytest.fixture
def full() -> Iterator[PostgresServer]:
    """A server whose files cannot grow beyond 17 MiB: a larger table is on a full disk."""
    running = own_server(file_limit=17 << 20)
    yield running
    running.remove()


def fill_jobs(url: str) -> None:
    """Fill the table of jobs until it cannot grow, at last with small rows.

    The places of the running job's earlier versions, which VACUUM makes known, are filled too: its end would fit there.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # hundreds of commits, while the job runs for 8 s
        for size, count in ((500, 500), (500, 1), (1, 1)):
            connection.execute("VACUUM jobs")
            with pytest.raises(psycopg.Error, match="could not extend file"):
                while True:
                    connection.execute(FILLER, [size, count])


@pytest.mark.slow
def test_a_full_disk_of_postgresql_refuses_submits_and_loses_nothing(full: PostgresServer, state: Path) -> None:
    """The job that runs then is completed in its first attempt."""
    url, body = full.url("postgres"), {"prompt": "a boat"} | SMALL
    with server(state, *UNLIMITED, "--ledger", url, "--step-delay", "1") as running, running.http() as http:
        job = http.post("/api/v1/generate", json=body | {"steps": 8}).json()["job_id"]
        until(lambda: http.get(f"/api/v1/status/{job}").json()["state"] == "running")
        fill_jobs(url)
        refused = until(lambda: (answer := http.post("/api/v1/generate", json=body)).status_code == 503 and answer)
        assert refused.json()["code"] == "ledger_unavailable"
        until(lambda: f"job {job}: its end cannot be written yet" in running.log(), 40)
        assert "could not extend file" in running.log()
        assert http.get(f"/api/v1/status/{job}").json()["state"] == "running"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DELETE FROM jobs WHERE session_id = 'sid_old'")
            connection.execute("VACUUM jobs")
        until(lambda: completed(http, job))
        assert http.get(f"/api/v1/status/{job}").json()["attempt"] == 1
        again = http.post("/api/v1/generate", json=body).json()["job_id"]
        until(lambda: completed(http, again))
        assert "Traceback" not in running.log()


@pytest.mark.slow
def test_a_server_is_killed_under_load_and_the_other_completes_every_job(
    postgres: PostgresDatabases, tmp_path: Path
) -> None:
    """Two servers: each call that fails is repeated at the other one, under its idempotency key."""
    shared = (*UNLIMITED, "--ledger", postgres.create(), "--blobs", f"local:{tmp_path / 'outputs'}")
    options = (*shared, "--lease", "2", "--step-delay", "0.1")
    first, second = (ServerProcess(tmp_path / name, *options).start() for name in ("first", "second"))
    second.key = first.key
    body = {"prompt": "a boat"} | SMALL | {"steps": 3}

    def submit(number: int) -> str:
        with first.http() as one, second.http() as other:
            for http in (one, other) if number % 2 else (other, one):
                try:
                    answer = http.post("/api/v1/generate", json=body, headers={"Idempotency-Key": f"key-{number}"})
                except httpx2.TransportError:
                    continue
                return str(answer.json()["job_id"])
        raise AssertionError("no server answers")

    try:
        jobs = [submit(number) for number in range(8)]
        with first.http() as http:
            until(lambda: any(http.get(f"/api/v1/status/{job}").json()["state"] == "running" for job in jobs))
        first.kill_group()
        jobs += [submit(number) for number in range(8, 12)]
        assert [submit(number) for number in range(12)] == jobs, "the same keys have the same jobs"
        with second.http() as http:
            for job in jobs:
                until(lambda job=job: completed(http, job), 60)
            first.start()
            listed = {job["job_id"]: job for job in http.get("/api/v1/jobs?limit=100").json()["jobs"]}
            assert sorted(listed) == sorted(set(jobs))
            # The killed server may have stored an image whose job it could not complete: its file is deleted later.
            urls = {http.get(f"/api/v1/status/{job}").json()["image_url"] for job in jobs}
            assert len(urls) == len(jobs)
            assert {http.get(url).status_code for url in urls} == {200}
    finally:
        for running in (first, second):
            if running.process.poll() is None:
                running.stop()
