"""`umrgen ledger` with PostgreSQL: a ledger moves there and back, complete or not at all."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from postgres import PostgresDatabases
from support import cli
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Call, Idempotency, Key, Ledger, LedgerUnavailable, Template, Upload
from umrgen.server.ledger.copying import SINGLE_ROWS, TABLES, copy_ledger
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.postgres.tables import PostgresTables
from umrgen.server.ledger.sql.checks import MaintenanceFailed
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.tables import SqliteTables

REQUEST = GenerationRequest("a lighthouse", seed=7, webhook_url="https://example.org/hook")


async def fill(ledger: Ledger) -> None:
    """Write rows to every table that is copied."""
    jobs = ledger.jobs
    for number in range(5):
        once = Idempotency(f"key_{number}", b"body", kept_for=2**40)
        call = Call(f"call_{number}", b"body", "worker", 2**40)
        await jobs.submit(
            f"ext_{number}", f"sid_{number % 2}", REQUEST, "fake", now=number, idempotency=once, call=call
        )
    claimed = await jobs.claim("worker", now=10, lease_until=99, limit=3)
    output = Output("umrgen_1.png", claimed[0].session_id, 3, "00" * 32, 512, 512)
    await jobs.change(claimed[0].id, Change.COMPLETE, now=20, token=claimed[0].token, outputs=(output,), step=4)
    await jobs.change(
        claimed[1].id,
        Change.FAIL,
        now=20,
        token=claimed[1].token,
        error="it's\ta\\failure\n☂",
        error_code="out_of_memory",
    )
    for number in (0, 4):
        await jobs.set_favorite(f"sid_{number % 2}", f"ext_{number}", True, now=25)
    await jobs.delete("sid_1", ["ext_3"], now=26)
    await ledger.keys.add(Key("key_1", b"\x00\xff" * 16, "sid_a", "mine", 1, rate=5))
    await ledger.uploads.add(Upload("ref.png", "sid_a", 3, "00" * 32, 64, 64, 5), cap=9)
    await ledger.templates.put(Template("noir", "sid_a", "{}", 5), cap=9)
    await ledger.coordination.secret("urls", b"\x00secret")


async def fill_registry(ledger: Ledger) -> None:
    """Make 17 more images, of which 16 are indexed."""
    for number in range(10, 27):
        await ledger.jobs.submit(f"ext_{number}", "sid_0", REQUEST, "fake", now=30, priority=1)
        (job,) = await ledger.jobs.claim("worker", now=40, lease_until=99)
        output = Output(f"umrgen_{number}.png", job.session_id, 3, "00" * 32, 512, 512)
        await ledger.jobs.change(job.id, Change.COMPLETE, now=50, token=job.token, outputs=(output,), step=4)
    await ledger.fingerprints.index(groups=1)


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """An SQLite ledger with rows in every table."""
    path = tmp_path / "old" / "ledger.sqlite3"
    ledger = SqliteLedger(path)
    await ledger.open()
    await fill(ledger)
    await ledger.close()
    return path


def content(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        found = {}
        for table in (*TABLES, *SINGLE_ROWS):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT {', '.join(sorted(columns))} FROM {table}").fetchall()  # noqa: S608
            found[table] = sorted(rows, key=repr)
        return found


@pytest.mark.slow
async def test_a_ledger_moves_to_postgresql_and_back(file: Path, tmp_path: Path, postgres: PostgresDatabases) -> None:
    url, back = postgres.create(), tmp_path / "new.sqlite3"
    ledger = SqliteLedger(file)
    await ledger.open()
    await fill_registry(ledger)
    await ledger.close()
    there = cli("ledger", "copy", str(file), url, "--json")
    assert there.returncode == 0, there.stderr
    counts = json.loads(there.stdout)["rows"]
    assert set(counts) == set(TABLES)
    assert all(counts.values()), "the test has rows in every table"
    assert cli("ledger", "copy", url, str(back)).returncode == 0
    assert content(back) == content(file)


async def test_a_server_continues_with_the_copy(file: Path, postgres: PostgresDatabases) -> None:
    url = postgres.create()
    copy_ledger(SqliteTables(file), PostgresTables(url))
    ledger, before = PostgresLedger(url), SqliteLedger(file)
    await ledger.open()
    await before.open()
    try:
        assert await ledger.jobs.last_change() == await before.jobs.last_change()
        ids = [f"ext_{number}" for number in range(5)]
        key = lambda job: job.id  # noqa: E731
        assert sorted(await ledger.jobs.get_many(ids), key=key) == sorted(await before.jobs.get_many(ids), key=key)
        job, new = await ledger.jobs.submit("ext_9", "sid_0", REQUEST, "fake", now=30)
        assert new
        page, _ = await ledger.jobs.page("sid_0", limit=1, before=None)
        assert page == [job], "the newest job has the highest number"
        assert await ledger.coordination.secret("urls", b"other") == b"\x00secret"
    finally:
        await ledger.close()
        await before.close()


async def test_a_copy_to_a_ledger_with_records_is_refused(
    file: Path, tmp_path: Path, postgres: PostgresDatabases
) -> None:
    url = postgres.create()
    copy_ledger(SqliteTables(file), PostgresTables(url))
    for source, target in (
        (SqliteTables(file), PostgresTables(url)),
        (PostgresTables(url), SqliteTables(file)),
    ):
        with pytest.raises(MaintenanceFailed, match="the target has records already"):
            copy_ledger(source, target)


async def test_a_copy_that_fails_leaves_nothing(file: Path, postgres: PostgresDatabases) -> None:
    """The last table has a row that the target refuses."""
    url = postgres.create()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE jobs SET state = 'lost' WHERE id = 'ext_4'")
    with pytest.raises((MaintenanceFailed, LedgerUnavailable), match="jobs"):
        copy_ledger(SqliteTables(file), PostgresTables(url))
    with psycopg.connect(url) as database:
        assert database.execute("SELECT to_regclass('jobs')").fetchone() == (None,)


async def test_a_copy_to_a_new_file_that_fails_removes_it(tmp_path: Path, postgres: PostgresDatabases) -> None:
    url, target = postgres.create(), tmp_path / "new.sqlite3"
    ledger = PostgresLedger(url)
    await ledger.open()
    try:
        with pytest.raises(MaintenanceFailed, match="a server uses the ledger"):
            copy_ledger(PostgresTables(url), SqliteTables(target))
    finally:
        await ledger.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE secrets ALTER value DROP NOT NULL")
        connection.execute("INSERT INTO secrets (name) VALUES ('urls')")
    with pytest.raises(MaintenanceFailed):
        copy_ledger(PostgresTables(url), SqliteTables(target))
    assert not target.exists()


async def test_check_reports_what_is_wrong(file: Path, tmp_path: Path, postgres: PostgresDatabases) -> None:
    url = postgres.create()
    copy_ledger(SqliteTables(file), PostgresTables(url))
    images = tmp_path / "outputs"
    for job in ("sid_0", "sid_1"):
        (images / job).mkdir(parents=True)
        (images / job / "umrgen_1.png").write_bytes(b"png")
    command = ("ledger", "check", "--state", str(tmp_path), "--ledger", url)
    sound = cli(*command, "--json")
    assert (sound.returncode, json.loads(sound.stdout)["images"]) == (0, 1)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE sessions SET queued = queued + 1 WHERE id = 'sid_0'")
        connection.execute("UPDATE kept SET bytes = 7")
        connection.execute("UPDATE ledger_clock SET n = 1")
    report = cli(*command)
    assert report.returncode == 1
    assert "the counts of session sid_0 are wrong" in report.stdout
    assert "the images have 3 bytes; 7 are counted" in report.stdout
    assert "which was not drawn yet" in report.stdout


def test_commands_for_a_file_name_the_tool_of_postgresql(postgres: PostgresDatabases, tmp_path: Path) -> None:
    url = postgres.create()
    for command, tool in ((("backup", str(tmp_path / "copy")), "pg_dump"), (("vacuum",), "autovacuum")):
        refused = cli("ledger", *command, "--ledger", url)
        assert refused.returncode == 1
        assert tool in refused.stderr


@pytest.mark.slow
def test_keys_are_kept_in_postgresql(postgres: PostgresDatabases, tmp_path: Path) -> None:
    server = ("--state", str(tmp_path), "--ledger", postgres.create().replace("postgres@", "postgres:hidden@"))
    made = cli("keys", "create", *server)
    assert "the server's ledger: postgresql://postgres@/" in made.stderr
    assert "hidden" not in made.stderr + made.stdout
    (key_id,) = [key["id"] for key in json.loads(cli("keys", "list", *server, "--json").stdout)["keys"]]
    assert key_id in made.stderr
    assert cli("keys", "revoke", key_id, *server).returncode == 0


async def test_a_text_with_nul_is_stored_without_it(postgres: PostgresDatabases) -> None:
    """PostgreSQL has no NUL in text, and the message of an engine may have one: the job ends nevertheless."""
    ledger = PostgresLedger(postgres.create())
    await ledger.open()
    try:
        await ledger.jobs.submit("ext_1", "sid_a", REQUEST, "fake", now=1)
        (job,) = await ledger.jobs.claim("worker", now=1, lease_until=9)
        await ledger.jobs.change(job.id, Change.FAIL, now=2, token=job.token, error="a\0b", error_code="engine_crashed")
        (stored,) = await ledger.jobs.get_many(["ext_1"])
        assert stored.error == "a\ufffdb"
    finally:
        await ledger.close()
