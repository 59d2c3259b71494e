"""Backups of the ledger in a folder, and the rehearsal of docs/operations.md: a copy put back, checked and adopted."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support import ServerProcess, cli, finish, server, submit
from umrgen.server.ledger.sqlite.connection import connect, migrate, schema_version
from umrgen.server.ledger.sqlite.maintenance import MaintenanceFailed, backup_to_folder, restore


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return new_ledger(tmp_path / "ledger.sqlite3")


def new_ledger(path: Path) -> Path:
    with closing(connect(path)) as connection:
        migrate(connection)
    return path


def test_a_folder_keeps_the_newest_copies_and_every_other_file(ledger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "ledger-by-hand.sqlite3").write_text("not one of the copies")
    made = [backup_to_folder(ledger, folder, keep=2)[0] for _ in range(4)]
    assert {file.name for file in folder.iterdir()} == {made[2].name, made[3].name, "ledger-by-hand.sqlite3"}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in made[2:])


def test_a_backup_that_fails_deletes_no_copy(ledger: Path, tmp_path: Path) -> None:
    made, _ = backup_to_folder(ledger, tmp_path, keep=1)
    ledger.unlink()
    with pytest.raises(MaintenanceFailed):
        backup_to_folder(ledger, tmp_path, keep=1)
    assert made.exists()


def test_the_replaced_ledger_is_kept_with_all_of_its_rows(ledger: Path, tmp_path: Path) -> None:
    copy, _ = backup_to_folder(ledger, tmp_path, keep=1)
    before = copy.read_bytes()
    with closing(connect(ledger)) as connection:
        connection.execute("CREATE TABLE later (n)")
    replaced = restore(copy, ledger)
    assert replaced is not None
    with closing(sqlite3.connect(replaced)) as old, closing(sqlite3.connect(ledger)) as new:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'later'"
        assert (old.execute(query).fetchone(), new.execute(query).fetchone()) == ((1,), (0,))
    assert copy.read_bytes() == before


def test_a_ledger_that_a_server_with_another_state_folder_uses_is_not_replaced(ledger: Path, tmp_path: Path) -> None:
    """Its jobs would be lost: it writes to the file that it has opened."""
    (tmp_path / "copies").mkdir()
    copy, _ = backup_to_folder(ledger, tmp_path / "copies", keep=1)
    with closing(connect(ledger)) as used:
        used.execute("SELECT count(*) FROM jobs").fetchone()
        before, there = ledger.stat().st_ino, {file.name for file in tmp_path.iterdir()}
        with pytest.raises(MaintenanceFailed, match="a server uses the ledger"):
            restore(copy, ledger)
        assert (ledger.stat().st_ino, {file.name for file in tmp_path.iterdir()}) == (before, there)
    restore(copy, ledger)
    assert ledger.stat().st_ino != before


def test_a_damaged_ledger_can_be_replaced(ledger: Path, tmp_path: Path) -> None:
    copy, _ = backup_to_folder(ledger, tmp_path, keep=1)
    ledger.write_bytes(b"SQLite format 3\0" + bytes(5000))
    replaced = restore(copy, ledger)
    assert replaced is not None
    assert replaced.read_bytes().startswith(b"SQLite format 3\0" + bytes(100))
    assert connect(ledger).execute("PRAGMA user_version").fetchone() == (schema_version(),)


def damage(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[5000:9000] = b"x" * 4000
    copy.write_bytes(content)


def make_newer(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(f"PRAGMA user_version = {schema_version() + 1}")


def make_text(copy: Path) -> None:
    copy.write_text("no database " * 100)


def make_empty(copy: Path) -> None:
    copy.write_bytes(b"")


def make_other_database(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage, "damaged|cannot be read"),
        (make_newer, "has the schema version"),
        (make_text, "cannot be read as a ledger"),
        (make_empty, "cannot be read as a ledger"),
        (make_other_database, "cannot be read as a ledger"),
    ],
)
def test_a_copy_that_is_not_sound_is_refused(ledger: Path, tmp_path: Path, change: object, reason: str) -> None:
    copy, _ = backup_to_folder(ledger, tmp_path, keep=1)
    assert callable(change)
    change(copy)
    before = ledger.read_bytes()
    with pytest.raises(MaintenanceFailed, match=reason):
        restore(copy, ledger)
    assert ledger.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir() if "replaced" in file.name or "restored" in file.name) == []


@pytest.mark.slow
def test_the_rehearsal_of_the_documents(state: Path, tmp_path: Path) -> None:
    with server(state) as running, running.http() as http:
        early = finish(http, submit(http, seed=1))
        made = cli("ledger", "backup", str(tmp_path / "copies"), "--keep", "7", "--state", str(state), "--json")
        copy = json.loads(made.stdout)["path"]
        late = finish(http, submit(http, seed=2))
        refused = cli("ledger", "restore", copy, "--state", str(state))
        assert (refused.returncode, "another server already runs" in refused.stderr) == (1, True)
    restored = cli("ledger", "restore", copy, "--state", str(state), "--json")
    assert Path(json.loads(restored.stdout)["replaced"]).exists()
    assert json.loads(cli("ledger", "check", "--state", str(state), "--json").stdout)["images"] == 1
    adopted = cli("ledger", "adopt", "--state", str(state))
    assert adopted.stdout.startswith("1 images adopted, 1 known")
    assert cli("ledger", "check", "--state", str(state)).returncode == 0
    with server(state) as again:
        again.key = running.key
        assert_jobs(again, early, late)
        rehearsal = tmp_path / "rehearsal"
        assert cli("ledger", "restore", copy, "--state", str(rehearsal)).returncode == 0
        shutil.copytree(state / "outputs", rehearsal / "outputs")
        assert cli("ledger", "check", "--state", str(rehearsal)).returncode == 0
        with server(rehearsal, "--engines", "off") as second:  # while the first one runs
            second.key = running.key
            assert_jobs(second, early)


def assert_jobs(running: ServerProcess, *jobs: dict[str, object]) -> None:
    with running.http() as http:
        for job in jobs:
            assert http.get(f"/api/v1/status/{job['job_id']}").json()["image_url"] == job["image_url"]
            assert http.get(str(job["image_url"])).status_code == 200
