"""The client and the CLI on the first servers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import cli
from umrgen import Client
from umrgen.client.journal import Journal, JournalEntry
from umrgen.errors import ConnectionFailed, JobNotFound
from umrgen.testing import FakeClock, FaultServer, NoResponse, Reset

pytestmark = pytest.mark.timeout(60)

LOST = Reset()
"""The submit is accepted, and its response is lost."""
NOT_ARRIVED = Reset(handled=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the journal."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path, clock: FakeClock) -> Journal:
    return Journal(wall=lambda: clock.now() / 1000)


Servers = Callable[..., FaultServer]


@pytest.fixture
def serve(clock: FakeClock) -> Iterator[Servers]:
    """A function that starts a server in simulated time."""
    started: list[FaultServer] = []

    def start(**options: Any) -> FaultServer:
        started.append(FaultServer("legacy", **{"job_seconds": 10, "clock": clock.monotonic} | options).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


def client_of(server: FaultServer, clock: FakeClock, journal: Journal | None = None, **options: Any) -> Client:
    return Client(server.url, server.key, clock=clock, journal=journal, **options)


def environment(server: FaultServer, home: Path) -> dict[str, str]:
    return {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key, "XDG_DATA_HOME": str(home)}


class TestLostSubmits:
    """The response to a submit is lost: the job is found again, and made once."""

    # The newer version does not list jobs that are over.
    @pytest.mark.parametrize(("seconds", "newer"), [(0, False), (1, False), (90, False), (10, True), (90, True)])
    def test_within_the_same_call(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path, seconds: float, newer: bool
    ) -> None:
        server = serve(job_seconds=seconds, newer_version=newer)
        server.on("POST /api/v1/generate", LOST)
        with client_of(server, clock, journal) as client:
            image = client.generate("a boat", tmp_path / "boat.png", width=512)
        (job,) = server.jobs
        assert image.job_id == job.id
        assert journal.unfinished() == []

    def test_a_submit_that_did_not_arrive_is_not_repeated(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve()
        server.on("POST /api/v1/generate", NOT_ARRIVED)
        with client_of(server, clock, journal) as client, pytest.raises(ConnectionFailed) as caught:
            client.generate("a boat", tmp_path / "boat.png")
        assert caught.value.sent
        assert server.jobs == []
        assert len(journal.unfinished()) == 1

    def test_an_equal_job_of_before_is_not_taken(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve(job_seconds=0)
        with client_of(server, clock, None) as client:
            client.generate("a boat", tmp_path / "first.png")
            clock.advance(5)
            server.on("POST /api/v1/generate", NOT_ARRIVED)
            with pytest.raises(ConnectionFailed):
                client.generate("a boat", tmp_path / "second.png")
        assert not (tmp_path / "second.png").exists()

    def interrupted(self, server: FaultServer, clock: FakeClock, journal: Journal, target: Path) -> JournalEntry:
        """Return the entry of a process that ended before it had the response to its submit."""
        journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=target)
        with client_of(server, clock) as client:
            client.submit("a boat")
        return journal.unfinished()[0]

    @pytest.mark.parametrize("later", [1, 30, 100, 100_000])
    def test_resume_in_a_new_process(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path, later: float
    ) -> None:
        server = serve()
        entry = self.interrupted(server, clock, journal, tmp_path / "boat.png")
        clock.advance(later)
        with client_of(server, clock, journal) as client:
            image = client.resume(entry)
        (job,) = server.jobs
        assert image.job_id == job.id
        assert journal.unfinished() == []

    def test_resume_ends_what_the_server_does_not_have(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve()
        journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=tmp_path / "boat.png")
        clock.advance(100)
        with client_of(server, clock, journal) as client, pytest.raises(JobNotFound) as caught:
            client.resume(journal.unfinished()[0])
        assert caught.value.code == "job_gone"
        assert journal.unfinished() == []
        assert server.jobs == []

    def test_resume_does_not_end_what_is_not_certain(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve(job_seconds=1000)
        journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=tmp_path / "boat.png")
        clock.advance(300)
        with client_of(server, clock) as client:
            client.submit("another boat, of another caller")
        with client_of(server, clock, journal) as client, pytest.raises(ConnectionFailed):
            client.resume(journal.unfinished()[0])
        assert len(journal.unfinished()) == 1

    def test_on_the_command_line(self, home: Path, tmp_path: Path) -> None:
        target = tmp_path / "boat.png"
        with FaultServer("legacy", job_seconds=0.3) as server:
            server.on("POST /api/v1/generate", NoResponse(handled=True))
            lost = cli("generate", "a boat", "-o", str(target), "--timeout", "2", **environment(server, home))
            assert lost.returncode != 0
            assert not target.exists()
            resumed = cli("resume", "--json", **environment(server, home))
        assert resumed.returncode == 0, resumed.stderr
        (row,) = json.loads(resumed.stdout)["jobs"]
        assert (row["state"], row["path"]) == ("completed", str(target))
        assert len(server.jobs) == 1
