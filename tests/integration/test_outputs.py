"""Finished images over HTTP: access, integrity, ranges and conditional requests."""

import hashlib
import io
import json
from base64 import b64encode
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from PIL import Image

from support import ServerProcess, draw_task, finish, problem, submit
from umrgen.image_files import verify
from umrgen.server.engines import load_engine


@pytest.fixture
def job(http: httpx2.Client) -> dict[str, object]:
    return finish(http, submit(http, "a lighthouse at dusk", negative="fog", seed=5, steps=2))


@pytest.fixture
def url(shared_server: ServerProcess, job: dict[str, object]) -> str:
    return f"{shared_server.url}{job['image_url']}"


def test_an_image_needs_no_key_and_matches_its_digest(url: str, job: dict[str, object]) -> None:
    answer = httpx2.get(url)
    assert answer.status_code == 200
    digest = hashlib.sha256(answer.content).digest()
    field = f"sha-256=:{b64encode(digest).decode()}:"
    headers = answer.headers
    assert headers["etag"] == f'"{digest.hex()}"'
    assert headers["repr-digest"] == headers["content-digest"] == field
    assert headers["content-type"] == "image/png"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "immutable" in headers["cache-control"]
    assert verify(answer.content, length=int(headers["content-length"]), sha256=digest.hex()).width == 512
    listed = job["results"]["images"][0]  # type: ignore[index]
    assert (listed["sha256"], listed["bytes"]) == (digest.hex(), len(answer.content))


def test_the_file_contains_its_provenance(url: str, job: dict[str, object]) -> None:
    with Image.open(io.BytesIO(httpx2.get(url).content)) as image:
        image.load()
        texts, xmp = image.text, image.info["xmp"]
        pixels = np.asarray(image)
    assert texts["parameters"].splitlines()[:2] == ["a lighthouse at dusk", "Negative prompt: fog"]
    assert "Steps: 2, Sampler: procedural, Seed: 5, Size: 512x512" in texts["parameters"]
    own = json.loads(texts["umrgen"])
    assert (own["prompt"], own["negative"], own["seed"], own["steps"]) == ("a lighthouse at dusk", "fog", 5, 2)
    assert (own["width"], own["height"], own["job_id"]) == (512, 512, job["job_id"])
    assert (own["engine"], own["source_type"]) == ("procedural", "algorithmicMedia")
    assert own["version"]
    assert b"digitalsourcetype/algorithmicMedia" in xmp
    request = draw_task("a lighthouse at dusk", 512, 512, 2, 5, negative="fog")
    (drawn,) = load_engine("procedural", {}).draw(request, lambda step, total, preview=None: None)
    assert np.array_equal(pixels, drawn)


def test_head_has_the_headers_without_the_body(url: str) -> None:
    whole, head = httpx2.get(url), httpx2.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


def test_ranges(url: str) -> None:
    whole = httpx2.get(url).content
    size = len(whole)
    for field_value, expected in (
        ("bytes=0-99", whole[:100]),
        ("bytes=100-", whole[100:]),
        ("bytes=-10", whole[-10:]),
        (f"bytes={size - 1}-{size + 50}", whole[-1:]),
    ):
        answer = httpx2.get(url, headers={"Range": field_value})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"].endswith(f"/{size}")
        assert "content-digest" not in answer.headers
    past = httpx2.get(url, headers={"Range": f"bytes={size}-"})
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{size}")
    for invalid in ("bytes=", "bytes=9-1", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b"):
        assert httpx2.get(url, headers={"Range": invalid}).status_code == 200, invalid


def test_conditional_requests(url: str) -> None:
    etag = httpx2.head(url).headers["etag"]
    for field in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        assert httpx2.get(url, headers={"If-None-Match": field}).status_code == 304
    assert httpx2.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    assert httpx2.get(url, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    assert httpx2.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'}).status_code == 200


def test_a_missing_or_wrong_session_is_forbidden(url: str) -> None:
    bare = url.partition("?")[0]
    for query in ("", "?session_id=", "?session_id=sid_other", "?session=x", "?session_id=sid_a&session_id=sid_b"):
        problem(httpx2.get(bare + query), 403, "forbidden_output")


@pytest.mark.parametrize(
    "name", ["nothing.png", "..%2f..%2fledger.sqlite3", "%2e%2e", ".partial-x", "a%00.png", "%5c..%5cx"]
)
def test_unknown_names_are_404(shared_server: ServerProcess, job: dict[str, object], name: str) -> None:
    session = urlsplit(str(job["image_url"])).path.split("/")[2]
    answer = httpx2.get(f"{shared_server.url}/outputs/{session}/{name}?session_id={session}")
    assert answer.status_code in (403, 404)
    assert answer.json()["code"] in ("output_not_found", "forbidden_output")


def test_a_path_as_session_id_is_refused(shared_server: ServerProcess) -> None:
    for session in ("../../etc", "%2e%2e%2f%2e%2e", "sid%00", "..\\..", "/etc"):
        answer = httpx2.get(f"{shared_server.url}/outputs/{session}/passwd", params={"session_id": session})
        assert answer.status_code in (403, 404), session
        assert answer.json()["success"] is False


def test_names_have_128_random_bits(job: dict[str, object]) -> None:
    name = urlsplit(str(job["image_url"])).path.rsplit("/", 1)[1]
    assert len(name.removesuffix(".png").rsplit("_", 1)[1]) >= 32  # hex digits: 128 bits
