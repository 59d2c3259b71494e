"""Data are synced before they are acknowledged: the order of the calls to the operating system.

tests/slow/test_power_cut.py checks the same guarantees with real processes.
"""

import asyncio
import errno
import io
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durability import Disk
from umrgen import AsyncClient, Client, Event
from umrgen.cli.embedded import _client_key
from umrgen.cli.keys import _with_keys
from umrgen.client.journal import KEEP_ENDED, PRUNE_ABOVE, Journal
from umrgen.clock import SystemClock
from umrgen.durable import make_folder
from umrgen.model import State
from umrgen.server.application import Application
from umrgen.server.blobs.local import LocalBlobStore
from umrgen.server.blobs.stored_images import LocalImages
from umrgen.server.domain.job import Change, Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.executors import VerifiedImage
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.maintenance import backup, check, vacuum
from umrgen.server.scheduler.attempt import Attempt, AttemptContext, DispatchPolicy
from umrgen.server.scheduler.previews import Previews
from umrgen.server.services.api_keys import ApiKeys, NewKey
from umrgen.server.settings import Settings
from umrgen.server.state import own_state, worker_id
from umrgen.testing import FaultServer, png_bytes

SPEC = GenerationRequest("a boat", seed=1, width=512, height=512, steps=1)
IMAGE = png_bytes(2000)
TURNS = 200
"""Iterations of the event loop in which a premature response would be complete."""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    with monkeypatch.context() as patches:
        disk = Disk(root, patches)
        yield disk
        disk.close()
    assert disk.named_early == []


# --- the simulated disk ---


def test_the_simulated_disk_stores_only_synced_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "before").write_bytes(b"old")
    disk = Disk(tmp_path, monkeypatch)
    (tmp_path / "before").write_bytes(b"new")
    with (tmp_path / "one").open("wb") as file:
        file.write(b"bytes")
        file.flush()
        os.fsync(file.fileno())
    assert disk.stored() == {"before": b"old"}
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "before").replace(tmp_path / "three")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    assert disk.stored() == {"two": b"bytes", "three": b"old"}
    assert disk.named_early == ["three"]
    disk.close()


# --- folders ---


@pytest.mark.parametrize("name", ["one", "one/two/three"])
def test_a_new_folder_is_stored_with_its_parents(disk: Disk, name: str) -> None:
    make_folder(disk.root / name, mode=0o700)
    assert (disk.root / name).stat().st_mode & 0o777 == 0o700
    assert disk.stored() == {}
    place = disk.root / name / "file"
    place.touch()
    descriptor = os.open(place.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    assert disk.stored() == {f"{name}/file": b""}


def test_an_existing_folder_is_not_changed(disk: Disk) -> None:
    (disk.root / "one").mkdir(mode=0o750)
    make_folder(disk.root / "one", mode=0o700)
    assert (disk.root / "one").stat().st_mode & 0o777 == 0o750
    (disk.root / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder(disk.root / "file" / "deep")


def _folder_of_a_server(state: Path) -> None:
    with own_state(state):
        pass


def _folder_of_a_ledger(state: Path) -> None:
    async def opened() -> None:
        ledger = SqliteLedger(state / "ledger.sqlite3")
        await ledger.open()
        await ledger.close()

    asyncio.run(opened())


def _folder_of_the_keys(state: Path) -> None:
    async def nothing(keys: ApiKeys) -> None:
        pass

    _with_keys({"state": state, "ledger": None, "config": None}, nothing, new=True)


@pytest.mark.parametrize("create", [_folder_of_a_server, _folder_of_a_ledger, _folder_of_the_keys])
def test_a_new_state_folder_is_stored(disk: Disk, create: Callable[[Path], None]) -> None:
    create(disk.root / "deep" / "state")
    (disk.root / "deep" / "state" / "file").touch()
    descriptor = os.open(disk.root / "deep" / "state", os.O_RDONLY)  # SQLite syncs it, without `os.fsync`
    os.fsync(descriptor)
    os.close(descriptor)
    assert "deep/state/file" in disk.stored()


# --- images on the server ---


async def test_a_deleted_image_does_not_come_back(disk: Disk) -> None:
    storage = LocalBlobStore(disk.root / "outputs")
    await storage.put("sid_a", "one.png", IMAGE)
    await storage.delete("sid_a", "one.png")
    assert disk.stored() == {}


async def test_a_stored_image_is_stored_when_put_returns(disk: Disk) -> None:
    state = disk.root / "state"
    make_folder(state)
    storage = LocalBlobStore(state / "outputs")
    for name in ("one.png", "two.png"):
        await storage.put("sid_a", name, IMAGE)
        assert disk.stored()[f"state/outputs/sid_a/{name}"] == IMAGE
    await storage.put("sid_b", "one.png", IMAGE)
    assert disk.stored()["state/outputs/sid_b/one.png"] == IMAGE


async def test_a_session_folder_that_another_process_left_unsynced_is_stored(disk: Disk) -> None:
    (disk.root / "outputs" / "sid_a").mkdir(parents=True)
    await LocalBlobStore(disk.root / "outputs").put("sid_a", "one.png", IMAGE)
    assert disk.stored() == {"outputs/sid_a/one.png": IMAGE}


async def test_a_session_folder_that_was_removed_is_stored_again(disk: Disk) -> None:
    storage = LocalBlobStore(disk.root / "outputs")
    await storage.put("sid_a", "one.png", IMAGE)
    (disk.root / "outputs" / "sid_a" / "one.png").unlink()
    (disk.root / "outputs" / "sid_a").rmdir()
    await storage.put("sid_a", "two.png", IMAGE)
    assert disk.stored() == {"outputs/sid_a/two.png": IMAGE}


class Drawn:
    """An executor that returns its image without delay."""

    info = None
    loaded = True

    async def run(self, *_: object) -> tuple[VerifiedImage, ...]:
        return (VerifiedImage(IMAGE, "00" * 32, 512, 512),)


class RecordingJobStore(SqlJobStore):
    """Records the stored files before the end of a job is written."""

    stored_at_the_end: dict[str, bytes]

    def __init__(self, ledger: SqliteLedger, disk: Disk) -> None:
        super().__init__(ledger)
        self._disk = disk

    async def change(self, job_id: str, change: Change, **values: Any) -> Job:
        if change is Change.COMPLETE:
            self.stored_at_the_end = self._disk.stored()
        return await super().change(job_id, change, **values)


async def test_an_image_is_stored_before_its_job_is_completed(disk: Disk) -> None:
    state = disk.root / "state"
    ledger = SqliteLedger(state / "ledger.sqlite3")
    jobs = RecordingJobStore(ledger, disk)
    await ledger.open()
    try:
        await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
        (job,) = await ledger.jobs.claim("worker", now=1000, lease_until=2**50)
        previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
        storage: Any = LocalBlobStore(state / "outputs")
        drawn: Any = Drawn()
        await Attempt(job, AttemptContext(jobs, drawn, storage, SystemClock(), DispatchPolicy(), previews)).run()
        over = await ledger.jobs.get("ext_1")
        assert over is not None
        assert over.state is State.COMPLETED
        assert jobs.stored_at_the_end[f"state/outputs/sid_a/{over.outputs[0].name}"] == IMAGE
    finally:
        await ledger.close()


def test_the_id_of_a_worker_is_stored_before_it_is_used(disk: Disk) -> None:
    worker = worker_id(disk.root)
    assert disk.stored() == {"worker-id": worker.encode()}
    assert worker_id(disk.root) == worker


# --- the ledger ---


class Commits:
    """Delays the COMMIT of every connection to the ledger while `held` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = False
        self.reached, self.released = threading.Event(), threading.Event()
        commits = self

        class Held(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and commits.held:
                    commits.reached.set()
                    commits.released.wait(20)
                return super().execute(sql, *values)

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Held))

    async def returns_early(self, call: Awaitable[Any]) -> tuple[bool, Any]:
        """Return whether `call` returns before its commit has returned, and its result."""
        self.held = True
        task = asyncio.ensure_future(call)
        try:
            assert await asyncio.to_thread(self.reached.wait, 20)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            early = task.done()
        finally:
            self.released.set()
        return early, await task


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(monkeypatch)


@pytest.fixture
async def application(commits: Commits, tmp_path: Path) -> AsyncIterator[Application]:
    application = Application(Settings(state=tmp_path / "state"))
    await application.open()
    yield application
    await application.close()


async def test_a_submit_returns_after_its_commit(commits: Commits, application: Application) -> None:
    call = application.ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
    early, (job, new) = await commits.returns_early(call)
    assert not early
    assert (job.id, new) == ("ext_1", True)


async def test_a_202_is_sent_after_the_commit(commits: Commits, application: Application) -> None:
    secret, _ = await application.keys.create(NewKey("test"))
    transport = httpx2.ASGITransport(application.app())
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
        early, response = await commits.returns_early(http.post("/api/v1/generate", json={"prompt": "a boat"}))
    assert not early
    assert response.status_code == 202


async def test_every_connection_to_the_ledger_syncs_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, str]] = []

    class Seen(sqlite3.Connection):
        def close(self) -> None:
            pragmas = ("database_list", "synchronous", "journal_mode")
            files, synchronous, mode = (self.execute(f"PRAGMA {pragma}").fetchone() for pragma in pragmas)
            seen.append((Path(files[2]).name, synchronous[0], mode[0]))
            super().close()

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Seen))
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    await ledger.open()
    await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
    await ledger.close()
    assert len(seen) == 3  # for the schema, for reading, for writing
    assert check(tmp_path / "ledger.sqlite3", LocalImages(tmp_path / "outputs").sizes).sound
    vacuum(tmp_path / "ledger.sqlite3")
    backup(tmp_path / "ledger.sqlite3", tmp_path / "copy")
    full = 2
    assert {connection for connection in seen if connection[0] != ".copy.partial"} == {("ledger.sqlite3", full, "wal")}
    assert len(seen) == 7


async def test_a_backup_is_stored_when_the_call_returns(disk: Disk) -> None:
    state = disk.root / "state"
    ledger = SqliteLedger(state / "ledger.sqlite3")
    await ledger.open()
    await ledger.jobs.submit("ext_1", "sid_a", SPEC, "procedural", now=1000)
    await ledger.close()
    backup(state / "ledger.sqlite3", disk.root / "copy")
    assert disk.stored()["copy"] == (disk.root / "copy").read_bytes()
    assert len(disk.stored()["copy"]) > 0


# --- the client ---


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


class Saved:
    """Records the stored files at the event `saved`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.stored: dict[str, bytes] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "saved":
            self.stored = self._disk.stored()


@pytest.mark.parametrize("way", ["link", "rename", "replace"])
def test_an_image_is_stored_before_the_event_saved(disk: Disk, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "rename":
        monkeypatch.setattr(os, "link", _no_links)
    saved = Saved(disk)
    with FaultServer(image=IMAGE) as server, Client(server.url, server.key, journal=None, on_event=saved) as client:
        client.generate("a boat", disk.root / "boat.png", overwrite=way == "replace")
    assert saved.stored == {"boat.png": IMAGE}


async def test_an_image_of_an_interrupted_process_is_stored_before_the_event_saved(disk: Disk) -> None:
    """The earlier process was killed between the rename of the image and the sync of the folder."""
    saved, journal = Saved(disk), Journal(disk.root.parent / "journal.ndjson")
    target = disk.root / "boat.png"
    with FaultServer(image=IMAGE) as server:
        async with AsyncClient(server.url, server.key, journal=journal, on_event=saved) as client:
            entry = journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=target)
            journal.submitted(entry, (await client.submit("a boat", idempotency_key="key-1")).id)
            target.write_bytes(IMAGE)
            await client.resume(next(one for one in journal.unfinished() if one.id == entry))
    assert saved.stored["boat.png"] == IMAGE


@pytest.mark.parametrize("name", ["journal.ndjson", "deep/er/journal.ndjson"])
def test_each_line_of_the_journal_is_stored(disk: Disk, name: str) -> None:
    journal = Journal(disk.root / name)
    entry = journal.begin("http://server", {"prompt": "a boat"}, "key-1")
    assert disk.stored() == {name: journal.path.read_bytes()}
    journal.submitted(entry, "ext_1")
    assert disk.stored() == {name: journal.path.read_bytes()}
    journal.ended(entry, "saved")
    assert disk.stored() == {name: journal.path.read_bytes()}


def test_the_end_of_a_saved_file_needs_no_sync(disk: Disk) -> None:
    """The file is synced: an entry that a power cut opens again costs one more look at it (`umrgen resume`)."""
    journal = Journal(disk.root / "journal.ndjson")
    entry = journal.begin("http://server", {"prompt": "a boat"}, "key-1")
    stored = disk.stored()
    journal.ended(entry, "saved", disk.root / "boat.png")
    assert journal.unfinished() == []
    assert disk.stored() == stored
    journal.ended(journal.begin("http://server", {"prompt": "a boat"}, "key-2"), "failed")
    assert disk.stored() == {"journal.ndjson": journal.path.read_bytes()}


def test_a_journal_that_another_process_left_empty_is_stored(disk: Disk) -> None:
    (disk.root / "journal.ndjson").touch()
    journal = Journal(disk.root / "journal.ndjson")
    journal.begin("http://server", {"prompt": "a boat"}, "key-1")
    assert disk.stored() == {"journal.ndjson": journal.path.read_bytes()}


def test_the_name_of_a_journal_is_stored_before_its_first_line(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process relies on this: it does not sync the folder of a journal that has lines."""
    found: list[dict[str, bytes]] = []

    class RecordingFile(io.FileIO):
        def write(self, data: Any) -> int:
            found.append(disk.stored())
            return super().write(data)

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode, buffering: RecordingFile(descriptor, mode))
    Journal(disk.root / "journal.ndjson").begin("http://server", {"prompt": "a boat"}, "key-1")
    assert found == [{"journal.ndjson": b""}]


def test_the_rest_of_a_pruned_journal_is_stored_before_the_journal_is_emptied(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    journal = Journal(disk.root / "journal.ndjson", wall=lambda: now)
    kept = journal.begin("http://server", {"prompt": "a boat"}, "key-1")
    journal.ended(journal.begin("http://server", {"prompt": "x" * PRUNE_ABOVE}, "key-2"), "saved")
    now += KEEP_ENDED + 1
    found: list[dict[str, bytes]] = []

    class RecordingFile(io.FileIO):
        def truncate(self, size: int | None = None) -> int:
            found.append(disk.stored())
            return super().truncate(size)

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode, buffering: RecordingFile(descriptor, mode))
    journal.submitted(kept, "ext_1")
    (before,) = found
    assert b'"ext_1"' in before["journal.new"]
    assert disk.stored()["journal.ndjson"] == journal.path.read_bytes() == before["journal.new"]


def test_the_key_of_an_embedded_server_is_stored(disk: Disk) -> None:
    key = _client_key(disk.root / "embedded" / "one")
    assert disk.stored() == {"embedded/one/client-key": key.encode()}
