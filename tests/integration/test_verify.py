"""`POST /api/v1/verify`: images that are recognised, the answers to each caller, and files that are no plain image."""

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from made_images import MIB, encoded_image, png_of_size
from PIL import Image

from support import SMALL, ServerProcess, cli, finish, problem, server, signing_options, submit, until
from umrgen.image_files import png_chunk
from umrgen.provenance import Provenance, mark
from umrgen.provenance.containers import manifest_size
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.pdq import hash_of
from umrgen.server.watermark import payload_of

PATH = "/api/v1/verify"
PROMPT = "a red lighthouse with a secret word"
NOT_HERE = {"made_here": "no", "distance": None, "created_at": None, "engine": None, "job_id": None, "watermark": None}
NO_MANIFEST = {"present": False, "valid": None, "signer": None, "trusted": False}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that signs its images, has its own root for a trusted one, and verifies images without a key."""
    folder = tmp_path_factory.mktemp("verify")
    with server(folder / "state", *signing_options(folder), "--public-verify=true") as started:
        yield started


@pytest.fixture(scope="module")
def made(running: ServerProcess) -> tuple[dict[str, Any], bytes]:
    """A job of the server, and its image."""
    with running.http() as http:
        job = finish(http, submit(http, PROMPT, **SMALL))
        return job, http.get(job["image_url"]).content


def ask(http: httpx2.Client, data: bytes) -> httpx2.Response:
    return http.post(PATH, files={"file": ("x.png", data)})


def answer(http: httpx2.Client, data: bytes) -> dict[str, Any]:
    response = ask(http, data)
    assert response.status_code == 200, response.text
    assert "secret word" not in response.text
    found: dict[str, Any] = response.json()
    assert found.pop("success") is True
    return found


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def saved(data: bytes, kind: str, size: tuple[int, int], **options: Any) -> bytes:
    """Return the image in another form, without its marks."""
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize(size).save(file, kind, **options)
    return file.getvalue()


class TestRecognised:
    def test_the_file_itself(self, running: ServerProcess, made: tuple[dict[str, Any], bytes]) -> None:
        job, data = made
        with running.http() as http:
            found = answer(http, data)
        manifest = found.pop("manifest")
        assert manifest.pop("signer").startswith("UMRGEN")
        assert manifest == {"present": True, "valid": True, "trusted": True}
        created_at = found.pop("created_at")
        assert job["completed_at"] - 1000 < created_at <= job["completed_at"]
        expected = {"made_here": "exact", "distance": 0, "engine": "procedural", "job_id": job["job_id"]}
        assert found == expected | {"watermark": None}

    @pytest.mark.parametrize(
        "changed",
        [("JPEG", (512, 512), {"quality": 40}), ("PNG", (256, 256), {}), ("WEBP", (900, 900), {"quality": 80})],
        ids=["jpeg", "half", "webp"],
    )
    def test_a_changed_copy(
        self, running: ServerProcess, made: tuple[dict[str, Any], bytes], changed: tuple[str, tuple[int, int], Any]
    ) -> None:
        kind, size, options = changed
        job, data = made
        with running.http() as http:
            found = answer(http, saved(data, kind, size, **options))
        assert found["made_here"] == "similar"
        assert 0 <= found["distance"] <= 31
        assert (found["job_id"], found["manifest"]) == (job["job_id"], NO_MANIFEST)

    def test_a_copy_with_a_strip(self, running: ServerProcess) -> None:
        with running.http() as http:
            job = finish(http, submit(http, "brown field and sea with desert at sunrise", seed=24))
            image = Image.open(io.BytesIO(http.get(job["image_url"]).content))
            copy = image.convert("RGB")
            copy.paste("black", (0, copy.height * 15 // 16, copy.width, copy.height))
            assert distance(hash_of(copy), hash_of(image)) > 31, "it is not found as it is"
            file = io.BytesIO()
            copy.save(file, "JPEG")
            found = answer(http, file.getvalue())
        assert (found["made_here"], found["job_id"]) == ("similar", job["job_id"])
        assert 0 <= found["distance"] <= 31

    def test_another_image(self, running: ServerProcess, made: tuple[dict[str, Any], bytes]) -> None:
        with running.http() as http:
            assert answer(http, encoded_image("PNG", (300, 300))) == NOT_HERE | {"manifest": NO_MANIFEST}

    def test_an_image_with_too_little_detail_is_not_recognised(self, running: ServerProcess) -> None:
        with running.http() as http:
            assert answer(http, png_of_size(200, 200))["made_here"] == "no"


class TestCallers:
    def test_another_session_is_not_told_the_job(
        self, running: ServerProcess, made: tuple[dict[str, Any], bytes]
    ) -> None:
        key = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)["key"]
        with running.http(Authorization=f"Bearer {key}") as http:
            found = answer(http, made[1])
        assert (found["made_here"], found["job_id"]) == ("exact", None)

    def test_requests_without_a_key_are_limited(
        self, running: ServerProcess, made: tuple[dict[str, Any], bytes]
    ) -> None:
        with httpx2.Client(base_url=running.url) as http:
            found = answer(http, made[1])
            assert (found["made_here"], found["job_id"]) == ("exact", None)
            for _ in range(100):  # ten a minute, and one more for each six seconds that this takes
                refused = http.post(PATH, files={"image": ("x.png", b"")})
                if refused.status_code != 400:
                    break
            problem(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        with running.http() as http:
            assert ask(http, made[1]).status_code == 200, "callers with a key are not affected"
        with running.http(Authorization="Bearer wrong") as http:
            problem(ask(http, made[1]), 401, "unauthorized")

    def test_a_browser_that_is_signed_in_to_the_studio_is_a_caller_with_a_key(
        self, running: ServerProcess, made: tuple[dict[str, Any], bytes]
    ) -> None:
        with running.http() as http:
            cookie = http.post("/studio/devices", json={"device": "a browser"}).headers["set-cookie"].partition(";")[0]
        with httpx2.Client(base_url=running.url, headers={"Cookie": cookie, "X-Umrgen-Studio": "cookie"}) as browser:
            assert answer(browser, made[1])["job_id"] == made[0]["job_id"]

    def test_a_server_needs_a_key_unless_it_is_public(self, shared_server: ServerProcess) -> None:
        with httpx2.Client(base_url=shared_server.url) as http:
            problem(ask(http, encoded_image("PNG")), 401, "unauthorized")

    def test_other_methods(self, running: ServerProcess) -> None:
        with running.http() as http:
            for method in ("GET", "PUT", "DELETE"):
                response = http.request(method, PATH)
                problem(response, 405, "method_not_allowed")
                assert response.headers["allow"] == "POST"
            assert http.head(PATH).status_code == 405


def with_manifest(data: bytes, body: bytes) -> bytes:
    """Return the PNG with another manifest."""
    at = data.index(b"caBX") - 4
    length = int.from_bytes(data[at : at + 4])
    return data[:at] + png_chunk(b"caBX", body) + data[at + 12 + length :]


class TestBadInput:
    """Each is a plain answer: no 500, and no trust."""

    @pytest.mark.parametrize(
        ("data", "status", "code"),
        [
            (b"", 415, "unsupported_media_type"),
            (b"GIF89a", 415, "unsupported_media_type"),
            (encoded_image("PNG")[:200], 415, "unsupported_media_type"),
            (png_of_size(10_000, 10_000), 415, "unsupported_media_type"),
            (bytes(10 * MIB + 1), 413, "too_large"),
        ],
        ids=["empty", "gif", "cut", "100 megapixels", "too large"],
    )
    def test_files_that_are_refused(self, running: ServerProcess, data: bytes, status: int, code: str) -> None:
        with running.http() as http:
            problem(ask(http, data), status, code)

    def test_other_bodies(self, running: ServerProcess) -> None:
        with running.http() as http:
            problem(http.post(PATH, json={"file": "x"}), 415, "unsupported_media_type")
            problem(http.post(PATH, files={"image": ("x.png", b"x")}), 400, "invalid_request")
            two = [("file", ("a.png", b"x")), ("file", ("b.png", b"y"))]
            problem(http.post(PATH, files=two), 400, "invalid_request")

    def test_manifests_that_are_damaged_or_of_another_image(
        self, running: ServerProcess, made: tuple[dict[str, Any], bytes]
    ) -> None:
        data = made[1]
        at = data.index(b"caBX")
        body = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at])]
        assert manifest_size(data) == len(body) + 12
        other = mark(encoded_image("PNG", (300, 300)), Provenance("trainedAlgorithmicMedia"))
        head = 33  # the signature and IHDR
        for changed in (
            with_manifest(data, body[: len(body) // 2]),
            with_manifest(data, b"\0" * 40),
            with_manifest(data, body + body),
            other[:head] + png_chunk(b"caBX", body) + other[head:],
        ):
            with running.http() as http:
                manifest = answer(http, changed)["manifest"]
            assert manifest["present"]
            assert (manifest["valid"], manifest["trusted"]) == (False, False)

    def test_marks_of_others_change_nothing(self, running: ServerProcess) -> None:
        """Two XMP packets, and our record in a file that was not made here."""
        plain = encoded_image("PNG", (300, 300), seed=9)
        record = Provenance("trainedAlgorithmicMedia", version="1", engine="procedural", job_id="ext_1")
        twice = mark(plain, record)
        at = twice.index(b"XML:com.adobe.xmp") - 8
        packet = twice[at : at + 12 + int.from_bytes(twice[at : at + 4])]
        with running.http() as http:
            for data in (twice, twice[:at] + packet + twice[at:]):
                assert answer(http, data) == NOT_HERE | {"manifest": NO_MANIFEST}


class TestWatermark:
    TESTS = str(Path(__file__).parents[1])

    def test_an_image_has_the_payload_of_its_job(self, state: Path, tmp_path: Path) -> None:
        marking = ("--watermark", "example_watermark:ParityWatermark")
        with server(state, *marking, PYTHONPATH=self.TESTS) as started, started.http() as http:
            job = finish(http, submit(http, PROMPT, **SMALL))
            data = http.get(job["image_url"]).content
            again, payload = saved(data, "PNG", (512, 512)), payload_of(job["job_id"]).hex()
            found = answer(http, again)
            (tmp_path / "image.png").write_bytes(again)
            environment = {"UMRGEN_BASE_URL": started.url, "UMRGEN_API_KEY": started.key}
            assert f"have the watermark {payload}." in cli("verify", str(tmp_path / "image.png"), **environment).stdout
            assert found["watermark"] == payload
            assert found["made_here"] == "similar"
            assert answer(http, encoded_image("PNG", (300, 300)))["watermark"] is None

    def test_no_image_is_made_without_the_watermark(self, state: Path) -> None:
        marking = ("--watermark", "example_watermark:FailingWatermark")
        with server(state, *marking, PYTHONPATH=self.TESTS) as started, started.http() as http:
            job = finish(http, submit(http, PROMPT, **SMALL))
        assert (job["state"], job["error"]) == ("failed", "the watermark failed: RuntimeError")

    def test_a_class_that_cannot_be_loaded_is_refused(self, state: Path) -> None:
        refused = cli("serve", "--state", str(state), "--watermark", "nowhere:Watermark")
        assert refused.returncode == 1
        assert "the watermark 'nowhere:Watermark' cannot be loaded: ModuleNotFoundError" in refused.stderr


async def make_images(ledger: SqliteLedger, count: int) -> None:
    for number in range(count):
        await ledger.jobs.submit(f"ext_{number}", "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
        (job,) = await ledger.jobs.claim("worker", now=2, lease_until=3)
        output = Output(f"umrgen_{number}.png", "sid_a", 3, f"{number:064x}", 512, 512)
        await ledger.jobs.change(job.id, Change.COMPLETE, now=3, token=job.token, outputs=(output,))


async def test_the_server_indexes_new_images(state: Path) -> None:
    ledger = SqliteLedger(state / "ledger.sqlite3")
    await ledger.open()
    await make_images(ledger, 20)
    await ledger.close()
    with server(state), closing(sqlite3.connect(state / "ledger.sqlite3")) as database:
        left = lambda: database.execute("SELECT count(*) FROM new_fingerprints").fetchone()  # noqa: E731
        until(lambda: left() == (4,))


def test_a_list_of_roots_without_certificates_is_refused(state: Path, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("no certificates")
    refused = cli("serve", "--state", str(state), "--verify-trust", str(tmp_path / "roots.pem"))
    assert refused.returncode == 1
    assert "roots.pem cannot be read, or has no certificates" in refused.stderr
