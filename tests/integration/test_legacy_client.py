"""The client and the CLI on the first servers."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from http_to import NO_TLS
from support import cli
from umrgen import Client
from umrgen.client.flow import Event
from umrgen.client.journal import Journal, JournalEntry
from umrgen.errors import (
    ConcurrencyLimit,
    ConnectionFailed,
    InvalidRequest,
    JobNotFound,
    OutputMissing,
    UmrgenError,
    Unsupported,
    WaitTimeout,
)
from umrgen.testing import FakeClock, FaultServer, NoResponse, Reset, Respond, png_bytes

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

    @pytest.mark.parametrize(
        ("seconds", "newer", "error", "left"),
        [(100, False, JobNotFound, 0), (1000, False, WaitTimeout, 1), (100, True, ConnectionFailed, 1)],
    )
    def test_resume_ends_only_what_is_certain(
        self,
        serve: Servers,
        clock: FakeClock,
        journal: Journal,
        tmp_path: Path,
        seconds: float,
        newer: bool,
        error: type[UmrgenError],
        left: int,
    ) -> None:
        """A job that was created later runs. The older version lists its prompt after its end: it is another one."""
        server = serve(job_seconds=seconds, newer_version=newer)
        journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=tmp_path / "boat.png")
        clock.advance(300)
        with client_of(server, clock) as client:
            client.submit("another boat, of another caller")
        with client_of(server, clock, journal) as client, pytest.raises(error):
            client.resume(journal.unfinished()[0])
        assert len(journal.unfinished()) == left

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


class TestReferences:
    """Reference images on a server that judges uploads by the extension of their names."""

    @pytest.mark.parametrize(
        ("content", "extension"),
        [(png_bytes(), ".png"), (b"\xff\xd8\xff\xe0 a JPEG", ".jpg"), (b"RIFF\0\0\0\0WEBP", ".webp")],
    )
    def test_an_upload_has_a_unique_name_with_the_extension_of_its_content(
        self, serve: Servers, clock: FakeClock, content: bytes, extension: str
    ) -> None:
        with client_of(serve(), clock) as client:
            names = [client.upload(content) for _ in "ab"]
        assert len(set(names)) == 2
        assert {Path(name).suffix for name in names} == {extension}

    def test_a_file_that_is_no_image_is_refused(self, serve: Servers, clock: FakeClock) -> None:
        with client_of(serve(), clock) as client, pytest.raises(InvalidRequest, match="the reference is not a PNG"):
            client.upload(b"no image")

    def test_nothing_can_be_marked_searched_or_deleted(self, serve: Servers, clock: FakeClock) -> None:
        with client_of(serve(), clock) as client:
            job = client.submit("a boat", width=512, height=512)
            for call, advice in (
                (job.delete, "cannot be deleted"),
                (lambda: client.delete_jobs([job]), "cannot be deleted"),
                (job.favorite, "Save the image"),
                (lambda: list(client.jobs(search="boat")), "umrgen jobs --local"),
            ):
                with pytest.raises(Unsupported, match=r"does not (support|list)") as caught:
                    call()
                assert advice in caught.value.next

    def test_the_newer_version_has_no_reference_images(self, serve: Servers, clock: FakeClock) -> None:
        with client_of(serve(newer_version=True), clock) as client, pytest.raises(Unsupported) as caught:
            client.upload(png_bytes())
        assert "reference images" in str(caught.value)
        assert "without reference images" in caught.value.next

    def test_on_the_command_line(self, home: Path, tmp_path: Path) -> None:
        reference = tmp_path / "photo.of.a.boat"
        reference.write_bytes(png_bytes())
        arguments = ["generate", "a boat", "--reference", str(reference), "-o", str(tmp_path / "boat.png")]
        with FaultServer("legacy", job_seconds=0) as server:
            assert cli(*arguments, **environment(server, home)).returncode == 0
            (job,) = server.jobs
        (name,) = job.request["reference_images"]
        assert name.endswith(".png")
        with FaultServer("legacy", newer_version=True) as server:
            refused = cli(*arguments, "--overwrite", **environment(server, home))
            assert (refused.returncode, server.jobs) == (1, [])
        assert "does not support reference images" in refused.stderr


class TestPace:
    """Status calls are no closer than the guide's interval, and a limited minute costs at most a minute."""

    @pytest.mark.parametrize("follow", [False, True])
    def test_status_calls_of_queued_and_running_jobs(
        self, serve: Servers, clock: FakeClock, tmp_path: Path, follow: bool
    ) -> None:
        server = serve(job_seconds=40, concurrency=None)
        with client_of(server, clock, follow=follow) as client:
            client.submit("the job before it")
            client.generate("a boat", tmp_path / "boat.png")
        (submitted,) = [request.at for request in server.requests[1:] if request.method == "POST"]
        times = [request.at for request in server.requests if "/status/" in request.path]
        assert min(later - earlier for earlier, later in pairwise(times)) >= 1.8
        queued = [at for at in times if at - submitted < 39]
        assert min(later - earlier for earlier, later in pairwise(queued)) >= 2.7

    def test_a_limited_minute_costs_at_most_a_minute(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        server = serve(job_seconds=5)
        clock.advance(13)
        for _ in range(58):
            httpx2.get(f"{server.url}/api/status", verify=NO_TLS)  # another program on this machine
        with client_of(server, clock) as client:
            client.generate("a boat", tmp_path / "boat.png")
        limited = server.requests[60].at
        assert limited < 60
        assert clock.monotonic() <= limited + 60 + 2.2

    def test_the_jobs_of_a_client_share_the_calls_of_a_minute(
        self, serve: Servers, clock: FakeClock, tmp_path: Path
    ) -> None:
        server = serve(job_seconds=20, concurrency=None, workers=8)
        with client_of(server, clock) as client:
            jobs = [client.submit("a boat") for _ in range(8)]
            outcomes = client.wait_all(jobs)
        assert {getattr(outcome, "state", "") for outcome in outcomes} == {"completed"}
        for minute in range(int(clock.monotonic() // 60) + 1):
            assert sum(minute == request.at // 60 for request in server.requests) <= 60

    def test_the_search_for_a_lost_job_is_followed_by_an_interval(
        self, serve: Servers, clock: FakeClock, tmp_path: Path
    ) -> None:
        server = serve()
        server.on("POST /api/v1/generate", LOST)
        with client_of(server, clock) as client:
            client.generate("a boat", tmp_path / "boat.png")
        times = [request.at for request in server.requests if "/v1/status/" in request.path]
        assert min(later - earlier for earlier, later in pairwise(times)) >= 1.8


class TestOneJobAtATime:
    def test_the_error_names_the_running_job(self, serve: Servers, clock: FakeClock) -> None:
        with client_of(serve(), clock) as client:
            running = client.submit("a boat")
            with pytest.raises(ConcurrencyLimit, match=f"job {running.id} is running") as caught:
                client.submit("another boat")
        assert caught.value.job_id == running.id

    def test_wait_for_slot_queues_behind_it(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        server = serve(job_seconds=100)
        with client_of(server, clock) as client:
            running = client.submit("a boat")
            client.generate("another boat", tmp_path / "boat.png", wait_for_slot=True)
        submits = [request.at for request in server.requests if request.path == "/api/v1/generate"]
        assert len(submits) == 3, "one for the job before it, one refused, one after its end"
        asked = [request for request in server.requests if request.path.endswith(running.id)]
        assert submits[2] - 100 < 2.5
        assert len(asked) > 10


class TestImages:
    @pytest.mark.parametrize("later", [0, 59, 61])
    def test_the_image_is_saved_at_any_time(
        self, serve: Servers, clock: FakeClock, tmp_path: Path, later: float
    ) -> None:
        server = serve()
        with client_of(server, clock) as client:
            job = client.submit("a boat")
            clock.advance(10 + later)
            job.download(tmp_path / "boat.png")
        assert (tmp_path / "boat.png").exists()

    def test_every_image_of_a_job_is_saved(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        with client_of(serve(images=2), clock, journal) as client:
            image = client.generate("a boat", tmp_path / "boat.png")
        (other,) = image.others
        assert (image.path.name, other.path.name) == ("boat.png", "boat-2.png")
        assert image.sha256 != other.sha256
        assert [row["path"] for row in image.as_dict()["images"]] == [str(image.path), str(other.path)]

    def test_every_image_of_a_job_is_saved_on_the_command_line(self, home: Path, tmp_path: Path) -> None:
        with FaultServer("legacy", job_seconds=0, images=2) as server:
            options = ["-o", str(tmp_path / "boat.png")]
            assert cli("generate", "a boat", *options, **environment(server, home)).returncode == 0
            assert (
                cli("generate", "a boat", "-n", "2", "-o", str(tmp_path), **environment(server, home)).returncode == 0
            )
        assert (tmp_path / "boat-2.png").exists()
        assert len(list(tmp_path.glob("*.png"))) == 6

    @pytest.mark.parametrize("later", [0, 61])
    def test_a_job_without_an_image_ends_after_one_more_look(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path, later: float
    ) -> None:
        server = serve(images=0)
        with client_of(server, clock, journal) as client:
            job = client.submit("a boat")
            clock.advance(10 + later)
            with pytest.raises(OutputMissing):
                job.download(tmp_path / "boat.png")
        assert sum("/status/" in request.path for request in server.requests) == 2
        assert [entry.end for entry in journal.entries()] == ["missing"]

    @pytest.mark.parametrize("forgotten", [False, True])
    def test_an_image_that_the_server_no_longer_has_ends_the_job(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path, forgotten: bool
    ) -> None:
        server = serve(job_seconds=0)
        server.on("GET /outputs/*", Respond(404), times=None)
        with client_of(server, clock, journal) as client:
            job = client.submit("a boat")
            job.wait()
            if forgotten:
                server.restart()
            with pytest.raises(OutputMissing):
                job.download(tmp_path / "boat.png")
        assert [entry.end for entry in journal.entries()] == ["missing"]


class TestReports:
    """What these servers do not report, or do not do, is said by the client."""

    def test_the_seed_is_the_clients_own(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        server = serve(job_seconds=0)
        with client_of(server, clock) as client:
            random = [client.generate("a boat", tmp_path / f"{seed}.png", seed=seed) for seed in (None, -1)]
            given = client.generate("a boat", tmp_path / "7.png", seed=7)
        assert [job.request["seed"] for job in server.jobs] == [image.seed for image in (*random, given)]
        assert given.seed == 7
        assert len({image.seed for image in random}) == 2

    def test_the_seed_is_known_in_a_new_process(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve(job_seconds=0)
        with client_of(server, clock, journal) as client:
            job_id = client.submit("a boat").id
        with client_of(server, clock, journal) as client:
            assert client.job(job_id).download(tmp_path / "boat.png").seed == server.jobs[0].request["seed"]

    def test_the_same_idempotency_key_has_the_same_seed(self, serve: Servers, clock: FakeClock) -> None:
        server = serve(job_seconds=0)
        with client_of(server, clock) as client:
            for _ in "ab":
                client.submit("a boat", idempotency_key="one")
        assert len({job.request["seed"] for job in server.jobs}) == 1

    def test_what_is_ignored_is_said(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        events: list[Event] = []
        with client_of(serve(images=2), clock, on_event=events.append) as client:
            options: dict[str, Any] = {
                "width": 100,
                "height": 512,
                "webhook_url": "https://example.org/",
                "priority": 1,
            }
            image = client.generate("a boat", tmp_path / "boat.png", **options)
        warnings = [event.message for event in events if event.kind == "warning"]
        assert ["webhook_url" in warnings[0], "priority" in warnings[1]] == [True, True]
        assert warnings[2:] == ["the image has 512 × 512 pixels; the request was for width 100 and height 512"]
        assert (image.width, image.height) == (512, 512)

    def test_an_ignored_idempotency_key_is_said(self, serve: Servers, clock: FakeClock) -> None:
        events: list[Event] = []
        with client_of(serve(), clock, on_event=events.append) as client:
            client.submit("a boat", idempotency_key="one")
        (warning,) = [event.message for event in events if event.kind == "warning"]
        assert "idempotency_key" in warning

    def test_nothing_is_said_of_what_is_done(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        events: list[Event] = []
        with client_of(serve(), clock, on_event=events.append) as client:
            client.generate("a boat", tmp_path / "boat.png", width=512, height=768)
        assert "warning" not in {event.kind for event in events}

    def test_on_the_command_line(self, home: Path, tmp_path: Path) -> None:
        with FaultServer("legacy", job_seconds=0) as server:
            options = ["--width", "100", "--webhook", "https://example.org/", "-o", str(tmp_path / "boat.png")]
            done = cli("generate", "a boat", *options, **environment(server, home))
        assert done.returncode == 0
        assert "None" not in done.stdout
        assert f"seed {server.jobs[0].request['seed']}" in done.stdout
        assert "ignores webhook_url" in done.stderr
        assert "the image has 512 × 1024 pixels" in done.stderr

    def test_places_are_counted_from_one(self, serve: Servers, clock: FakeClock) -> None:
        with client_of(serve(concurrency=None), clock) as client:
            places = [client.submit("a boat").status().queue_position for _ in range(3)]
        assert places == [None, 1, 2]

    def test_an_engines_error_is_shown_in_short(self, home: Path, tmp_path: Path) -> None:
        nested = {
            "error": {"message": "Invalid prompt"},
            "node_errors": {"4": {"errors": [{"details": "no such model"}]}},
        }
        with FaultServer("legacy", job_seconds=0, fail=json.dumps(nested)) as server:
            arguments = ["generate", "a boat", "-o", str(tmp_path / "boat.png")]
            failed = cli(*arguments, **environment(server, home))
            as_json = cli(*arguments, "--json", **environment(server, home))
            status = cli("status", server.jobs[0].id, **environment(server, home))
        assert failed.stderr.splitlines()[-1].startswith("umrgen: Invalid prompt: no such model. ")
        assert status.stdout.strip() == "failed: Invalid prompt: no such model"
        assert json.loads(json.loads(as_json.stdout)["whole_reason"]) == nested

    def test_an_unknown_state_is_waited_on(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        events: list[Event] = []
        server = serve(job_seconds=30)
        with client_of(server, clock, on_event=events.append) as client:
            job = client.submit("a boat")
            httpx2.post(f"{server.url}/api/cancel/{job.id}", verify=NO_TLS)
            job.download(tmp_path / "boat.png")
        assert "'cancelled'" in next(event.message for event in events if event.kind == "unknown_state")

    def test_a_minute_of_running_is_a_suspicion_only(self, serve: Servers, clock: FakeClock, tmp_path: Path) -> None:
        events: list[Event] = []
        with client_of(serve(job_seconds=445), clock, on_event=events.append) as client:
            client.generate("a boat", tmp_path / "boat.png")
        assert [event.kind for event in events].count("stalled") == 1


class TestForgottenJobs:
    """The server has forgotten a job that this machine's journal knows."""

    def forgotten(self, server: FaultServer, clock: FakeClock, journal: Journal, target: Path) -> JournalEntry:
        """Return the entry of a failed job that the server no longer has."""
        entry = journal.begin(server.url, {"prompt": "a boat"}, "key-1", target=target)
        with client_of(server, clock) as client:
            journal.submitted(entry, client.submit("a boat").id)
        clock.advance(600)
        return journal.unfinished()[0]

    @pytest.mark.parametrize("call", ["status", "wait", "download", "resume", "wait_all"])
    def test_when_and_where_it_was_submitted_is_said_in_a_new_process(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path, call: str
    ) -> None:
        server = serve(fail="no memory")
        entry = self.forgotten(server, clock, journal, tmp_path / "boat.png")
        assert entry.job_id
        with client_of(server, clock, journal) as client, pytest.raises(JobNotFound) as caught:
            job = client.job(entry.job_id)
            if call == "resume":
                client.resume(entry)
            elif call == "wait_all":
                client.wait_all([job])
                job.download(tmp_path / "boat.png")
            else:
                getattr(job, call)()
        where = f"job {entry.job_id} was submitted to {server.url} on 2027-01-15 08:00 UTC"
        assert str(caught.value).startswith(where)
        assert caught.value.code == "job_gone"
        assert [row.end for row in journal.entries()] == [None if call == "status" else "gone"]

    def test_a_job_of_another_server_is_not_ended(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        entry = self.forgotten(serve(), clock, journal, tmp_path / "boat.png")
        assert entry.job_id
        with client_of(serve(), clock, journal) as client, pytest.raises(JobNotFound) as caught:
            client.job(entry.job_id).wait()
        assert caught.value.next == f"Set UMRGEN_BASE_URL to {entry.server}."
        assert len(journal.unfinished()) == 1

    def test_a_job_that_was_never_seen(self, serve: Servers, clock: FakeClock, journal: Journal) -> None:
        with client_of(serve(), clock, journal) as client, pytest.raises(JobNotFound) as caught:
            client.job("ext_never").wait()
        assert caught.value.code == "job_not_found"
        assert "has no job ext_never" in str(caught.value)

    def test_an_image_that_the_server_still_lists_is_saved(
        self, serve: Servers, clock: FakeClock, journal: Journal, tmp_path: Path
    ) -> None:
        server = serve()
        entry = self.forgotten(server, clock, journal, tmp_path / "boat.png")
        server.restart()
        with client_of(server, clock, journal) as client:
            assert client.resume(entry).path == tmp_path / "boat.png"
        assert journal.unfinished() == []

    def test_on_the_command_line(self, home: Path, tmp_path: Path) -> None:
        with FaultServer("legacy", job_seconds=100) as server:
            job_id = cli("submit", "a boat", **environment(server, home)).stdout.strip()
            server.restart()
            for command in (["status", job_id], ["fetch", job_id], ["resume"]):
                gone = cli(*command, **environment(server, home))
                if command != ["resume"]:
                    assert gone.returncode == 1
                    assert f"job {job_id} was submitted to {server.url} on 20" in gone.stderr
            assert gone.stdout.strip() == "no unfinished jobs", "it is said once"
