"""Test that acknowledged data survive a power cut: real processes on a simulated disk that stores only synced data.

The disk is simulated by power_cut.c: a library that the processes load (LD_PRELOAD). At each fsync or fdatasync, it
copies the data that the call stores. A test kills the processes right after an acknowledgement, rebuilds the folder
from these copies, and runs the unchanged program to check that the acknowledged data exist. A preloaded library needs
neither privileges nor FUSE, so the tests run in any container that has a C compiler.

The simulation is the strictest file system that POSIX allows, and stricter than those in use:

- a file has its content at the last fsync of the file; without an fsync the file is empty;
- a folder has the names (new, renamed, linked or removed) at the last fsync of the folder. ext4, XFS and Btrfs
  store a new file's name with the first fsync of the file; POSIX does not demand it, and SQLite does not rely on it:
  it syncs the folder when it syncs a new write-ahead log first;
- all other data are lost. A real disk may also store some of them, in any order: tests/unit/test_durability.py
  therefore checks that a file is synced before it gets its final name.

`CHANGES` lists the lines that make the data durable. For each, a test runs the same check with a copy of the program
without the line, and expects a loss. So each check is known to detect one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import umrgen
from support import SMALL, ServerProcess, clean_environment, cli, finish, submit
from umrgen.errors import UmrgenError
from umrgen.image_files import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PACKAGE = Path(umrgen.__file__).parent
DRAWN_SMALL = [argument for name, value in SMALL.items() for argument in (f"--{name}", str(value))]


# --- the disk ---


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the compiled power_cut.c."""
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD and /proc are Linux")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    built = tmp_path_factory.mktemp("power_cut") / "power_cut.so"
    source = Path(__file__).with_name("power_cut.c")
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", str(built), str(source), "-ldl"], check=True)
    return built


@dataclass
class Disk:
    """A folder for programs that load the library, and the copies of its synced data. It is empty at first."""

    root: Path
    shadow: Path
    library: Path
    program: Path | None = None
    """The folder of a changed copy of the package; None for the unchanged package."""
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.shadow.mkdir()
        self.environment = {
            "LD_PRELOAD": str(self.library),
            "POWER_CUT_ROOT": str(self.root.resolve()),
            "POWER_CUT_SHADOW": str(self.shadow),
        }
        if self.program is not None:
            self.environment["PYTHONPATH"] = str(self.program)

    def cut(self) -> None:
        """Replace the folder by its synced data. The programs that use it must have ended."""
        shutil.rmtree(self.root)
        self._rebuild(self.root, self.shadow / "root")

    def _rebuild(self, folder: Path, names: Path) -> None:
        folder.mkdir()
        for line in names.read_text().splitlines() if names.exists() else []:
            kind, key, name = line.split(" ", 2)
            content = self.shadow / f"file-{key}"
            if kind == "d":
                self._rebuild(folder / name, self.shadow / f"folder-{key}")
            else:
                (folder / name).write_bytes(content.read_bytes() if content.exists() else b"")


@pytest.fixture
def disk(tmp_path: Path, library: Path) -> Disk:
    return Disk(tmp_path / "disk", tmp_path / "shadow", library)


def test_the_simulated_disk_stores_only_synced_data(disk: Disk) -> None:
    """Test the library itself, with a short program."""
    program = """
import os
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
for name in ("synced", "unsynced", "changed", "renamed", "removed"):
    with open(name, "w") as file:
        file.write(name)
    if name != "unsynced":
        sync(name)
os.mkdir("folder")
os.mkdir("folder/unsynced")
open("folder/empty", "w").close()
sync(".")
os.fdatasync(os.open("folder", os.O_RDONLY))
descriptor = os.open("written", os.O_WRONLY | os.O_CREAT)
os.write(descriptor, b"written")
os.fdatasync(descriptor)
sync(".")
with open("changed", "w") as file:
    file.write("lost")
os.rename("renamed", "lost")
os.unlink("removed")
open("new", "w").close()
open("folder/unsynced/new", "w").close()
sync("new")
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=disk.root, env=os.environ | disk.environment, check=True)
    disk.cut()
    files = {str(path.relative_to(disk.root)): path.read_text() for path in disk.root.rglob("*") if path.is_file()}
    kept = {name: name for name in ("synced", "changed", "renamed", "removed", "written")}
    assert files == kept | {"unsynced": "", "folder/empty": ""}
    assert (disk.root / "folder" / "unsynced").is_dir()


# --- scenarios: each acknowledges data, cuts the power, and returns a description of each loss ---


class ServerOnDisk(ServerProcess):
    """A server that creates its state folder on the simulated disk, and its log outside of it."""

    def __init__(self, logs: Path, state: Path, **environment: str) -> None:
        super().__init__(logs, **environment)
        self._on_disk = state

    def _state_arguments(self) -> list[str]:
        return ["--state", str(self._on_disk)]


def _intact(data: bytes, sha256: str | None = None) -> bool:
    try:
        verify(data, sha256=sha256)
    except UmrgenError:
        return False
    return True


def _lost_jobs(server: ServerProcess, key: str, job_ids: Sequence[str], images: dict[str, str]) -> list[str]:
    """Return the losses among the jobs of one key. `images`: job id → digest, for each completed job."""
    lost = []
    with server.http(Authorization=f"Bearer {key}") as http:
        for job_id in job_ids:
            response = http.get(f"/api/v1/status/{job_id}")
            if response.status_code != 200:
                lost.append(f"job: {job_id} was acknowledged; its status call returns {response.status_code}")
                continue
            if job_id in images and response.json()["state"] != "completed":
                lost.append(f"end: {job_id} was completed and is {response.json()['state']}")
            job = finish(http, job_id)
            (image,) = job["results"]["images"]
            download = http.get(job["image_url"])
            if not _intact(download.content, images.get(job_id, image["sha256"])):
                lost.append(f"image: {job_id}: status {download.status_code}, {len(download.content)} bytes")
    return lost


def serve(disk: Disk, logs: Path) -> list[str]:
    """Submit jobs with two keys, complete and download some, and kill the server."""
    state = disk.root / "deep" / "state"
    first = ServerOnDisk(logs, state, **disk.environment).start()
    made = cli("keys", "create", "--state", str(state), "--json", **disk.environment)
    keys = (first.key, json.loads(made.stdout)["key"])
    jobs: dict[str, list[str]] = {}
    images: dict[str, str] = {}
    try:
        for key in keys:
            with first.http(Authorization=f"Bearer {key}") as http:
                jobs[key] = [submit(http) for _ in range(2)]
                for job_id in jobs[key]:
                    job = finish(http, job_id)
                    images[job_id] = job["results"]["images"][0]["sha256"]
                    assert _intact(http.get(job["image_url"]).content, images[job_id])
        for key in keys:
            with first.http(Authorization=f"Bearer {key}") as http:
                jobs[key] += [submit(http) for _ in range(3)]
    finally:
        first.kill_group()
    disk.cut()
    second = ServerOnDisk(logs, state)
    try:
        second.start()
        lost = [loss for key in keys for loss in _lost_jobs(second, key, jobs[key], images)]
    finally:
        second.stop()
    check = cli("ledger", "check", "--state", str(state))
    return lost + ([f"ledger: {check.stdout}"] if check.returncode else [])


def _run_and_kill(command: Sequence[str], environment: dict[str, str], kind: str = "") -> dict[str, Any]:
    """Run `umrgen` until its first object (or the first event of a kind), kill it, and return the object.

    An embedded server that it has started is killed first.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "umrgen", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(**environment),
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed: dict[str, Any] = {}
        for line in process.stdout:
            printed = json.loads(line)
            if printed.get("event", "") == kind:
                break
        process.send_signal(signal.SIGSTOP)  # so that it does not stop its server by an orderly shutdown
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for pid in children.read_text().split() if children.exists() else []:
            os.killpg(int(pid), signal.SIGKILL)  # each child is the leader of a process group
        process.kill()
        errors = process.stderr.read()
    assert printed, errors
    return printed


def generate(disk: Disk, server: ServerProcess) -> list[str]:
    """Run `umrgen generate`, and kill it when it has printed its result."""
    target = disk.root / "boat.png"
    environment = _client_environment(disk, server) | disk.environment
    result = _run_and_kill(["generate", "a boat", "-o", str(target), "--json", *DRAWN_SMALL], environment)
    disk.cut()
    if not target.is_file():
        return ["image: the file does not exist"]
    data = target.read_bytes()
    return [] if _intact(data, result["sha256"]) else [f"image: {len(data)} bytes of {result['bytes']}"]


def submit_and_resume(disk: Disk, server: ServerProcess) -> list[str]:
    """Run `umrgen submit`, kill it when it has printed the job's id, and run `umrgen resume`."""
    environment = _client_environment(disk, server)
    receipt = _run_and_kill(["submit", "a boat", "--json", *DRAWN_SMALL], environment | disk.environment)
    disk.cut()
    return _resumed(disk, environment, lambda job: job["job_id"] == receipt["job_id"])


def embedded(disk: Disk, server: ServerProcess) -> list[str]:
    """Run `umrgen generate` with an embedded server, kill both after the submit, and run `umrgen resume`."""
    environment = {"XDG_DATA_HOME": str(disk.root / "data")}
    command = ["generate", "a boat", "-o", str(disk.root / "x.png"), "--events", *DRAWN_SMALL]
    unfinished = {"UMRGEN_STEP_DELAY": "60"}  # the job does not end before the kill, on any machine
    event = _run_and_kill(command, environment | disk.environment | unfinished, kind="submitted")
    assert event["event"] == "submitted"
    disk.cut()
    return _resumed(disk, environment, lambda job: True)


def _client_environment(disk: Disk, server: ServerProcess) -> dict[str, str]:
    return {
        "UMRGEN_BASE_URL": server.url,
        "UMRGEN_API_KEY": server.key,
        "XDG_DATA_HOME": str(disk.root / "data"),
    }


def _resumed(disk: Disk, environment: dict[str, str], expected: Callable[[dict[str, Any]], bool]) -> list[str]:
    target = disk.root / "resumed.png"
    resumed = cli("resume", "-o", str(target), "--json", **environment)
    jobs = json.loads(resumed.stdout or "{}").get("jobs", [])
    if not [job for job in jobs if expected(job)]:
        return [f"journal: resume returns the jobs {jobs}"]
    if resumed.returncode:
        return [f"resume: {resumed.stderr}"]
    return [] if _intact(target.read_bytes()) else ["image: it is corrupt"]


Scenario = Callable[[Disk, ServerProcess], list[str]]


def play(scenario: Scenario | None, disk: Disk, tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """Run a scenario of the client, or the one of the server (None), and return the losses."""
    if scenario is None:
        return serve(disk, tmp_path / "logs")
    return scenario(disk, request.getfixturevalue("shared_server"))


@pytest.mark.parametrize(
    "scenario", [None, generate, submit_and_resume, embedded], ids=["serve", "generate", "submit", "embedded"]
)
def test_acknowledged_data_survive_a_power_cut(
    scenario: Scenario | None, disk: Disk, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert play(scenario, disk, tmp_path, request) == []


# --- each line that makes data durable is necessary ---


@dataclass(frozen=True)
class Change:
    """A change of one line of the package, and the kind of loss that it must cause."""

    name: str
    file: str
    old: str
    new: str
    scenario: Scenario | None
    loss: str

    def apply(self, folder: Path) -> Path:
        """Copy the package into `folder` with this change. Return the folder for PYTHONPATH."""
        source = folder / "src"
        shutil.copytree(PACKAGE, source / "umrgen", ignore=shutil.ignore_patterns("__pycache__"))
        page = PACKAGE.parents[1] / "js"  # the studio's page in a checkout
        if page.is_dir():
            (folder / "js").symlink_to(page)
        changed = source / "umrgen" / self.file
        text = changed.read_text()
        assert text.count(self.old) == 1, f"{self.file} has {self.old!r} {text.count(self.old)} times"
        changed.write_text(text.replace(self.old, self.new))
        return source


SQLITE, LOCAL, STATE = "server/ledger/sqlite/connection.py", "server/blobs/local.py", "server/state.py"
MKDIR = "mkdir(parents=True, exist_ok=True)"
CHANGES = (
    Change("ledger-off", SQLITE, "synchronous = FULL", "synchronous = OFF", None, "job"),
    Change("ledger-normal", SQLITE, "synchronous = FULL", "synchronous = NORMAL", None, "job"),
    Change("image", LOCAL, "os.fsync(file.fileno())", "pass", None, "image"),
    Change("image-name", LOCAL, "sync_folder(path.parent)", "pass", None, "image"),
    Change("session-folder", LOCAL, "self._prepare(path.parent)", f"path.parent.{MKDIR}", None, "image"),
    Change("state-folder", STATE, "make_folder(state, mode=0o700)", f"state.{MKDIR}", None, "job"),
    Change("saved", "client/partial.py", "os.fsync(self._file.fileno())", "pass", generate, "image"),
    Change("saved-name", "client/partial.py", "sync_folder(target.parent)", "pass", generate, "image"),
    Change(
        "journal",
        "client/journal.py",
        "if synced:\n            os.fsync(file.fileno())",
        "pass",
        submit_and_resume,
        "journal",
    ),
    Change("journal-name", "client/journal.py", "sync_folder(self.path.parent)", "pass", submit_and_resume, "journal"),
    Change("new-folders", "durable.py", "sync_folder(path.parent)", "pass", submit_and_resume, "journal"),
    Change("embedded-key", "cli/embedded.py", "sync(path)", "pass", embedded, "resume"),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_the_check_detects_a_missing_line(
    change: Change, tmp_path: Path, library: Path, request: pytest.FixtureRequest
) -> None:
    disk = Disk(tmp_path / "disk", tmp_path / "shadow", library, change.apply(tmp_path / "changed"))
    losses = play(change.scenario, disk, tmp_path, request)
    assert [loss for loss in losses if loss.startswith(f"{change.loss}:")], losses
