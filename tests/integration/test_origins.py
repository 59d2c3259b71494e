"""Responses that are not the server's own, with the journal: an entry ends only by a response of the server itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateways import GATEWAY_RESPONSES, GatewayResponse

from support import ServerProcess
from umrgen import Client, ConnectionFailed, JobNotFound, UmrgenError, WaitTimeout
from umrgen.client.journal import Journal
from umrgen.testing import FaultServer, PassThrough, Respond, Tamper

SOON = {"patience": 0.05, "first_backoff": 0.01, "running_interval": 0.01, "queued_interval": 0.01}
"""Client options with which its patience ends soon."""
STATUS_CALLS = "GET /api/v1/status/*"
SOME = [sent for sent in GATEWAY_RESPONSES if sent.status in (302, 401, 403, 404, 410, 421)][::2]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.ndjson")


@pytest.fixture(params=["modern", "legacy"])
def faulty(request: pytest.FixtureRequest) -> Iterator[FaultServer]:
    with FaultServer(request.param) as server:
        yield server


@pytest.mark.parametrize("sent", SOME, ids=lambda sent: sent.name)
def test_a_gateways_response_does_not_end_an_entry(
    faulty: FaultServer, journal: Journal, sent: GatewayResponse, tmp_path: Path
) -> None:
    """It lasts beyond patience; later, another process saves the image."""
    with Client(faulty.url, faulty.key, journal=journal, **SOON) as client:
        job = client.submit("a boat")
        script = faulty.on(STATUS_CALLS, Respond(sent.status, sent.body.encode(), sent.headers), times=None)
        with pytest.raises(UmrgenError) as failed:
            job.wait()
    assert not isinstance(failed.value, JobNotFound)
    assert [entry.end for entry in journal.entries()] == [None]
    with Client(faulty.url, faulty.key, journal=journal, **SOON | {"patience": 5}) as later:
        script.stop()
        faulty.on(STATUS_CALLS, Respond(sent.status, sent.body.encode(), sent.headers), PassThrough())
        image = later.resume(journal.unfinished()[0], tmp_path / "boat.png")
    assert image.path.is_file()
    assert [entry.end for entry in journal.entries()] == ["saved"]


def test_an_unusable_job_does_not_stop_the_others(faulty: FaultServer, journal: Journal, tmp_path: Path) -> None:
    """The URL of the first job's image is 70,000 characters long."""
    with Client(faulty.url, faulty.key, journal=journal, **SOON) as client:
        bad, good = client.submit("a boat"), None
        bad.wait()
        good = client.submit("a lighthouse")
        long = b'{"state": "completed", "image_url": "/outputs/' + b"x" * 70_000 + b'"}'
        faulty.on(f"GET /api/v1/status/{bad.id}", Tamper(lambda body: long), times=None)
        results = []
        for entry in journal.unfinished():
            try:
                results.append(client.resume(entry, tmp_path).path.name)
            except UmrgenError as error:
                results.append(error.code)
    assert results == ["bad_image_url", f"{good.id}.png"]


@pytest.mark.parametrize("call", ["status", "wait", "download", "cancel"])
def test_a_server_that_was_never_reached_is_not_said_to_continue(call: str) -> None:
    with Client("http://127.0.0.1:9", "umr_key", journal=None, timeout=0.5) as client:
        job = client.job("ext_00")
        with pytest.raises(ConnectionFailed) as failed:
            getattr(job, call)()
        assert not isinstance(failed.value, WaitTimeout)
        assert "refused" in str(failed.value)


def test_tls_to_a_server_without_tls_is_one_sentence(shared_server: ServerProcess) -> None:
    with (
        Client(shared_server.url.replace("http:", "https:"), "umr_key", journal=None, patience=0.1) as client,
        pytest.raises(ConnectionFailed, match="it responds without TLS at this port; use http://"),
    ):
        client.job("ext_00").wait()
