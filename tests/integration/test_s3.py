"""Servers whose images are in S3: from a prompt to a file, redirects, wrong settings, and an S3 server that stops."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import obstore
import pytest

from s3_server import SECRET_KEY, S3Server, new_prefix, shared_s3
from support import SMALL, UNLIMITED, ServerProcess, cli, server, until
from umrgen.server.domain.job import thumbnail_name
from umrgen.server.settings import BadSettings, Settings

THUMBNAIL = thumbnail_name(".png")
BODY = {"prompt": "a boat"} | SMALL


def completed(http: httpx2.Client, job_id: str) -> Any:
    status = http.get(f"/api/v1/status/{job_id}").json()
    return status if status["state"] == "completed" else None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = (*UNLIMITED, "--blobs", f"s3://images/{new_prefix()}", "--s3-redirects", "on")
    with server(tmp_path_factory.mktemp("s3") / "state", *options, **shared_s3().environment) as started:
        yield started
        assert SECRET_KEY not in started.log()


@pytest.fixture(scope="module")
def image(running: ServerProcess) -> Any:
    """The status of a completed job."""
    with running.http() as http:
        job_id = http.post("/api/v1/generate", json=BODY).json()["job_id"]
        return until(lambda: completed(http, job_id))


@pytest.mark.slow
class TestRedirects:
    """With `s3_redirects`."""

    def test_a_client_is_redirected_to_a_presigned_url(self, running: ServerProcess, image: Any) -> None:
        with running.http() as http:
            redirect = http.get(image["image_url"])
        assert redirect.status_code == 307
        assert redirect.headers["Cache-Control"] == "no-store"
        assert redirect.headers["Location"].startswith(f"{shared_s3().endpoint}/images/")
        stored = httpx2.get(redirect.headers["Location"])
        assert stored.headers["Content-Type"] == "image/png"
        assert hashlib.sha256(stored.content).hexdigest() == image["results"]["images"][0]["sha256"]

    def test_a_head_request_and_a_page_in_a_browser_get_the_image_itself(
        self, running: ServerProcess, image: Any
    ) -> None:
        with running.http() as http:
            assert http.head(image["image_url"]).status_code == 200
            shown = http.get(image["image_url"], headers={"Sec-Fetch-Mode": "no-cors"})
            assert hashlib.sha256(shown.content).hexdigest() == image["results"]["images"][0]["sha256"]
            etag = {"If-None-Match": shown.headers["ETag"]}
            assert http.get(image["image_url"], headers=etag).status_code == 304

    def test_a_wrong_url_is_not_redirected(self, running: ServerProcess, image: Any) -> None:
        with running.http() as http:
            assert http.get(image["image_url"].replace(".png", "x.png")).status_code == 404
            assert http.get(image["image_url"].partition("?")[0]).status_code == 403

    def test_the_client_follows_it_where_that_is_allowed(
        self, running: ServerProcess, image: Any, tmp_path: Path
    ) -> None:
        """That no key is sent to another host is tested in faults/test_download.py."""
        target = tmp_path / "boat.png"
        fetched = cli(
            "fetch",
            image["job_id"],
            "-o",
            str(target),
            "--follow-foreign",
            UMRGEN_BASE_URL=running.url,
            UMRGEN_API_KEY=running.key,
        )
        assert fetched.returncode == 0, fetched.stderr
        assert hashlib.sha256(target.read_bytes()).hexdigest() == image["results"]["images"][0]["sha256"]


@pytest.mark.slow
class TestAStartFails:
    """The reason is one line, without the secret."""

    def refusal(self, state: Path, *arguments: str, **environment: str) -> str:
        present = shared_s3().environment | environment
        refused = cli("serve", "--port", "0", "--state", str(state), *arguments, **present)
        assert refused.returncode == 1
        assert present["AWS_SECRET_ACCESS_KEY"] not in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr
        return refused.stderr

    def test_at_a_missing_bucket(self, state: Path) -> None:
        message = self.refusal(state, "--blobs", "s3://no-images/prefix")
        assert "s3://no-images/prefix could not be used: there is no such bucket" in message
        assert "Create the bucket first" in message

    def test_at_wrong_credentials(self, state: Path) -> None:
        message = self.refusal(state, "--blobs", "s3://images", AWS_SECRET_ACCESS_KEY="wrong-secret-key")
        assert "S3 does not accept the secret key" in message
        assert "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in message

    def test_at_a_wrong_address(self, state: Path) -> None:
        message = self.refusal(state, "--blobs", "s3://images", "--s3-endpoint", "http://127.0.0.1:1")
        assert "S3 does not answer" in message
        assert "Check that S3 is up" in message

    def test_at_a_prefix_of_another_ledger(self, running: ServerProcess, state: Path) -> None:
        blobs = running._arguments[running._arguments.index("--blobs") + 1]
        message = self.refusal(state, "--blobs", blobs)
        assert f"the images in {blobs} belong to another ledger" in message
        assert "Choose another prefix" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UMRGEN_BLOBS", "s3://key:hidden-secret@bucket/prefix"),
        ("UMRGEN_BLOBS", "s3://B"),
        ("UMRGEN_BLOBS", "s3://bucket/../other"),
        ("UMRGEN_BLOBS", "s3://bucket//other"),
        ("UMRGEN_S3_ENDPOINT", "https://key:hidden-secret@s3.example.org"),
        ("UMRGEN_S3_ENDPOINT", "s3.example.org"),
    ],
)
def test_an_invalid_setting_is_refused_without_a_secret(name: str, value: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.load({}, {name: value})
    assert name in str(refused.value)
    assert "hidden-secret" not in f"{refused.value} {refused.value.next}"


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    started = S3Server().start()
    started.create_bucket()
    yield started
    started.remove()


@pytest.mark.slow
def test_a_job_waits_for_s3_and_is_completed(own_s3: S3Server, state: Path) -> None:
    """It ends in its first attempt; until then the server is not ready, and the log has the reason."""
    options = (*UNLIMITED, "--blobs", "s3://images", "--step-delay", "0.2", "--cache", "0")
    with server(state, *options, **own_s3.environment) as running, running.http() as http:
        first = http.post("/api/v1/generate", json=BODY).json()["job_id"]
        earlier = until(lambda: completed(http, first))
        job_id = http.post("/api/v1/generate", json=BODY | {"steps": 8}).json()["job_id"]
        until(lambda: http.get(f"/api/v1/status/{job_id}").json()["state"] == "running")
        own_s3.kill()
        until(lambda: f"job {job_id}: the images in s3://images could not be stored" in running.log())
        until(lambda: http.get("/readyz").status_code == 503)
        assert http.get(f"/api/v1/status/{job_id}").json()["state"] == "running"
        unavailable = http.get(earlier["image_url"])
        assert (unavailable.status_code, unavailable.json()["code"]) == (503, "storage_failed")
        own_s3.start()
        status = until(lambda: completed(http, job_id), 60)
        assert status["attempt"] == 1
        data = http.get(status["image_url"]).content
        assert hashlib.sha256(data).hexdigest() == status["results"]["images"][0]["sha256"]
        until(lambda: http.get("/readyz").status_code == 200)
        assert "Traceback" not in running.log()
        assert SECRET_KEY not in running.log()


@pytest.mark.slow
class TestFiles:
    """An image and its thumbnail, in the bucket."""

    def stored(self, running: ServerProcess, status: Any) -> dict[str, str]:
        """Return the paths of the job's files in the bucket, by the ends of their names."""
        prefix = running._arguments[running._arguments.index("--blobs") + 1].removeprefix("s3://images/")
        folder = f"{prefix}/{status['image_url'].split('/')[2]}"
        stem = status["results"]["images"][0]["filename"].removesuffix(".png")
        found = [str(item["path"]) for part in obstore.list(shared_s3().client("images"), folder) for item in part]
        return {path.partition(stem)[2]: path for path in found if stem in path}

    def draw(self, http: httpx2.Client) -> Any:
        job_id = http.post("/api/v1/generate", json=BODY).json()["job_id"]
        return until(lambda: completed(http, job_id))

    def test_a_thumbnail_that_is_missing_is_made_and_stored_again(self, running: ServerProcess) -> None:
        with running.http() as http:
            status = self.draw(http)
            thumbnail = self.stored(running, status)[THUMBNAIL]
            obstore.delete(shared_s3().client("images"), thumbnail)
            shown = http.get(status["results"]["images"][0]["thumbnail_url"])
        assert (shown.status_code, shown.headers["Content-Type"]) == (200, "image/webp")
        assert bytes(obstore.get(shared_s3().client("images"), thumbnail).bytes()) == shown.content

    def test_the_files_of_a_deleted_job_leave_the_bucket(self, running: ServerProcess) -> None:
        with running.http() as http:
            status, other = self.draw(http), self.draw(http)
            urls = [status["image_url"], status["results"]["images"][0]["thumbnail_url"]]
            assert [http.get(url).status_code for url in urls] == [307, 200]
            assert set(self.stored(running, status)) == {".png", THUMBNAIL}
            assert http.delete(f"/api/v1/jobs/{status['job_id']}").status_code == 200
            assert [http.get(url).status_code for url in urls] == [410, 410]
        assert self.stored(running, status) == {}
        assert set(self.stored(running, other)) == {".png", THUMBNAIL}


@pytest.mark.slow
def test_two_servers_share_a_bucket(tmp_path: Path) -> None:
    """An image that one server stored is sent by the other one, also after the first is gone."""
    blobs = f"s3://images/{new_prefix()}"
    shared = (*UNLIMITED, "--ledger", f"sqlite:{tmp_path / 'ledger.sqlite3'}", "--blobs", blobs)
    with server(tmp_path / "first", *shared, **shared_s3().environment) as first, first.http() as http:
        job_id = http.post("/api/v1/generate", json=BODY).json()["job_id"]
        url, key = until(lambda: completed(http, job_id))["image_url"], first.key
    with server(tmp_path / "second", *shared, **shared_s3().environment) as second:
        second.key = key
        with second.http() as http:
            assert http.get(url).status_code == 200


@pytest.mark.slow
def test_a_ledger_is_checked_and_a_lost_one_is_restored_from_the_images_in_s3(tmp_path: Path) -> None:
    prefix = new_prefix()
    bucket, state = shared_s3().client("images"), tmp_path / "state"

    def command(*arguments: str) -> Any:
        shared = {"UMRGEN_BLOBS": f"s3://images/{prefix}"} | shared_s3().environment
        return cli("ledger", *arguments, "--json", "--state", str(state), **shared)

    options = (*UNLIMITED, "--blobs", f"s3://images/{prefix}")
    with server(state, *options, **shared_s3().environment) as running, running.http() as http:
        jobs = [http.post("/api/v1/generate", json=BODY | {"seed": seed}).json()["job_id"] for seed in (1, 2)]
        images = [until(lambda job=job: completed(http, job))["results"]["images"][0] for job in jobs]
    sound = command("check")
    assert (sound.returncode, json.loads(sound.stdout)["images"]) == (0, 2), sound.stderr
    lost = f"{prefix}/{images[0]['url'].split('/')[2]}/{images[0]['filename']}"
    data = bytes(obstore.get(bucket, lost).bytes())
    obstore.delete(bucket, lost)
    assert f"the image {images[0]['filename']} has a record but no file" in command("check").stdout
    obstore.put(bucket, lost, data[:-1])
    assert f"has {len(data) - 1} bytes; its record has {len(data)}" in command("check").stdout
    obstore.put(bucket, lost, data)
    for path in state.glob("ledger.sqlite3*"):
        path.unlink()
    foreign = command("adopt")
    assert foreign.returncode == 1
    assert "belong to another ledger" in foreign.stderr
    assert "delete the object .umrgen-ledger there" in foreign.stderr
    obstore.delete(bucket, f"{prefix}/.umrgen-ledger")
    adopted = json.loads(command("adopt").stdout)
    assert sorted(adopted["adopted"]) == sorted(image["filename"] for image in images)
    assert adopted["refused"] == {}
    assert json.loads(command("check").stdout)["jobs"] == {"completed": 2}


@pytest.mark.slow
def test_a_check_without_s3_ends_with_the_reason(state: Path) -> None:
    with server(state, *UNLIMITED) as running, running.http() as http:
        job = http.post("/api/v1/generate", json=BODY).json()["job_id"]
        until(lambda: completed(http, job))
    nowhere = shared_s3().environment | {"UMRGEN_BLOBS": "s3://images/x", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    refused = cli("ledger", "check", "--state", str(state), **nowhere)
    assert refused.returncode == 1
    assert "the images in s3://images/x could not be listed: S3 does not answer" in refused.stderr
