"""Favorites, deletion and search over HTTP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from support import SMALL, ServerProcess, finish, problem, server, submit, until
from umrgen.image_files import verify


@pytest.fixture
def other(shared_server: ServerProcess, other_key: str) -> Iterator[httpx2.Client]:
    """A client of another session on the shared server."""
    with httpx2.Client(base_url=shared_server.url, headers={"Authorization": f"Bearer {other_key}"}) as client:
        yield client


def listed(http: httpx2.Client, **query: str | int) -> list[str]:
    answer = http.get("/api/v1/jobs", params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["jobs"]]


class TestFavorites:
    """`PATCH /api/v1/jobs/{job_id}`"""

    def test_a_job_is_made_a_favorite_and_listed_as_one(self, http: httpx2.Client) -> None:
        job_id = submit(http)
        before = finish(http, job_id)
        tag = http.get(f"/api/v1/status/{job_id}").headers["ETag"]
        assert not before["favorite"]
        marked = http.patch(f"/api/v1/jobs/{job_id}", json={"favorite": True})
        assert marked.json() == before | {"favorite": True}
        again = http.get(f"/api/v1/status/{job_id}")
        assert again.json()["favorite"]
        assert again.headers["ETag"] != tag
        assert job_id in listed(http, favorite="true", state="completed")
        assert http.patch(f"/api/v1/jobs/{job_id}", json={"favorite": False}).json() == before
        assert job_id not in listed(http, favorite="true")

    @pytest.mark.parametrize("body", [{}, {"favorite": None}, {"favorite": "true"}, {"favorite": 1}])
    def test_another_value_is_refused(self, http: httpx2.Client, body: dict[str, object]) -> None:
        refused = http.patch(f"/api/v1/jobs/{submit(http)}", json=body)
        assert problem(refused, 400, "invalid_request")["field"] == "favorite"

    def test_a_job_of_another_session_is_not_found(self, http: httpx2.Client, other: httpx2.Client) -> None:
        job_id = submit(http)
        problem(other.patch(f"/api/v1/jobs/{job_id}", json={"favorite": True}), 404, "job_not_found")
        assert not finish(http, job_id)["favorite"]


class TestDeletion:
    """`DELETE /api/v1/jobs/{job_id}` and `POST /api/v1/jobs/delete`"""

    def test_nothing_of_a_deleted_job_is_shown(self, http: httpx2.Client, shared_server: ServerProcess) -> None:
        job = finish(http, submit(http, "a harbour before the deletion"))
        (image,) = job["results"]["images"]
        path = next(Path(shared_server.state).glob(f"outputs/*/{image['filename']}"))
        small = path.with_name(f"{path.name}.thumb.webp")
        assert small.exists()
        assert http.get(job["image_url"]).status_code == 200
        for _ in range(2):
            answer = http.delete(f"/api/v1/jobs/{job['job_id']}")
            assert answer.json() == {"success": True, "job_id": job["job_id"], "deleted": True}
        assert not path.exists()
        assert not small.exists()
        gone = problem(http.get(f"/api/v1/status/{job['job_id']}"), 404, "job_not_found")
        assert gone["state"] == "failed", "a loop that polls ends"
        for url in (job["image_url"], image["thumbnail_url"]):
            problem(http.get(url), 410, "output_expired")
        assert job["job_id"] not in listed(http)
        assert listed(http, q="harbour before the deletion") == []
        for call in ("cancel", "events"):
            method = "POST" if call == "cancel" else "GET"
            problem(http.request(method, f"/api/v1/{call}/{job['job_id']}"), 404, "job_not_found")
        problem(http.patch(f"/api/v1/jobs/{job['job_id']}", json={"favorite": True}), 404, "job_not_found")
        changes = http.post("/api/v1/status", json={"job_ids": [job["job_id"]]}).json()
        assert (changes["jobs"], changes["unknown"]) == ([], [job["job_id"]])

    def test_a_running_job_is_cancelled_and_its_engine_draws_the_next(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http:
            running, queued = submit(http, steps=50), submit(http, steps=50)
            until(lambda: http.get(f"/api/v1/status/{running}").json()["state"] == "running")
            answer = http.post("/api/v1/jobs/delete", json={"job_ids": [running, queued, "ext_none"]})
            assert answer.json() == {"success": True, "deleted": [running, queued], "unknown": ["ext_none"]}
            assert finish(http, submit(http))["state"] == "completed"
            assert listed(http, state="failed") == []

    def test_a_long_poll_on_a_job_that_is_deleted_ends(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http, slow_server.http() as waiting, ThreadPoolExecutor(1) as threads:
            job_id = submit(http, steps=50)
            until(lambda: http.get(f"/api/v1/status/{job_id}").json()["state"] == "running")
            poll = threads.submit(waiting.get, f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"})
            until(lambda: b"umrgen_waiters 1.0" in http.get("/metrics").content)
            http.delete(f"/api/v1/jobs/{job_id}").raise_for_status()
            problem(poll.result(30), 404, "job_not_found")

    def test_jobs_of_another_session_are_not_deleted(self, http: httpx2.Client, other: httpx2.Client) -> None:
        job = finish(http, submit(http))
        problem(other.delete(f"/api/v1/jobs/{job['job_id']}"), 404, "job_not_found")
        answer = other.post("/api/v1/jobs/delete", json={"job_ids": [job["job_id"]]}).json()
        assert (answer["deleted"], answer["unknown"]) == ([], [job["job_id"]])
        assert http.get(job["image_url"]).status_code == 200

    @pytest.mark.parametrize("ids", [None, "ext_1", [], [1], [f"ext_{number}" for number in range(1001)]])
    def test_another_list_is_refused(self, http: httpx2.Client, ids: object) -> None:
        refused = http.post("/api/v1/jobs/delete", json={"job_ids": ids})
        assert problem(refused, 400, "invalid_request")["field"] == "job_ids"

    def test_an_idempotency_key_of_a_deleted_job_makes_a_new_one(self, http: httpx2.Client) -> None:
        body, header = {"prompt": "a boat", **SMALL}, {"Idempotency-Key": "deleted-later"}
        first = http.post("/api/v1/generate", json=body, headers=header).json()["job_id"]
        http.delete(f"/api/v1/jobs/{first}").raise_for_status()
        assert http.post("/api/v1/generate", json=body, headers=header).json()["job_id"] != first


class TestSearch:
    """The filters of `GET /api/v1/jobs`."""

    def test_the_filters_find_a_job(self, http: httpx2.Client) -> None:
        job = finish(http, submit(http, "An OWL in the Stra\u00dfe of nowhere"))
        job_id, made = job["job_id"], job["created_at"]
        assert listed(http, q="strasse owl") == [job_id]
        assert listed(http, q="stra nowhere", engine="procedural", state="completed", limit=1) == [job_id]
        assert listed(http, q="owl", after=made - 1, before=made + 1) == [job_id]
        for without in ({"q": "owl strassen"}, {"after": made}, {"before": made}, {"engine": "other"}):
            assert listed(http, **{"q": "owl", **without}) == []  # type: ignore[arg-type]
        assert listed(http, q="owl", favorite="true") == []

    def test_pages_of_a_search_are_complete(self, http: httpx2.Client) -> None:
        ids = [submit(http, f"a zeppelin, the {number}.") for number in range(5)]
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            page = http.get("/api/v1/jobs", params={"q": "zeppelin", "limit": "2", "cursor": cursor}).json()
            found += [job["job_id"] for job in page["jobs"]]
            cursor = page["next_cursor"]
        assert found == ids[::-1]
        http.post("/api/v1/jobs/delete", json={"job_ids": ids}).raise_for_status()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("state", "done"),
            ("favorite", "yes"),
            ("favorite", "false"),
            ("before", "yesterday"),
            ("after", "-1"),
            ("after", "1e12"),
            ("engine", "a b"),
            ("q", "a" * 201),
        ],
    )
    def test_another_value_is_refused_with_its_name(self, http: httpx2.Client, name: str, value: str) -> None:
        body = problem(http.get("/api/v1/jobs", params={name: value}), 400, "invalid_request")
        assert body["field"] == name

    def test_every_wrong_filter_is_named(self, http: httpx2.Client) -> None:
        answer = http.get("/api/v1/jobs", params={"state": "x", "before": "y", "q": "owl"})
        problem(answer, 400, "invalid_request")
        assert [error["field"] for error in answer.json()["errors"]] == ["state", "before"]


class TestThumbnails:
    """`thumbnail_url` of each image."""

    def test_a_thumbnail_is_sent_like_an_image(self, http: httpx2.Client) -> None:
        (image,) = finish(http, submit(http, width=1024, height=512))["results"]["images"]
        small = httpx2.get(http.base_url.join(image["thumbnail_url"]))
        assert small.status_code == 200, "without a key"
        facts = verify(small.content)
        assert (facts.media_type, facts.width, facts.height) == ("image/webp", 384, 192)
        assert facts.bytes <= 20_000
        assert small.headers["Content-Type"] == "image/webp"
        assert small.headers["ETag"] == f'"{facts.sha256}"'
        assert "immutable" in small.headers["Cache-Control"]
        assert http.get(image["thumbnail_url"], headers={"If-None-Match": small.headers["ETag"]}).status_code == 304
        assert http.get(image["thumbnail_url"], headers={"Range": "bytes=0-3"}).content == b"RIFF"
        assert http.head(image["thumbnail_url"]).headers["Content-Length"] == str(facts.bytes)

    @pytest.mark.parametrize(
        ("old", "new", "status", "code"),
        [
            ("?session_id=sid_", "?session_id=sid_0", 403, "forbidden_output"),
            ("umrgen_", "umrgen_0", 404, "output_not_found"),
            (".thumb.webp", ".thumb.webp.thumb.webp", 404, "output_not_found"),
        ],
    )
    def test_another_url_gives_no_access(self, http: httpx2.Client, old: str, new: str, status: int, code: str) -> None:
        (image,) = finish(http, submit(http))["results"]["images"]
        problem(http.get(image["thumbnail_url"].replace(old, new)), status, code)

    def test_a_thumbnail_that_is_missing_is_made_and_stored(
        self, http: httpx2.Client, shared_server: ServerProcess
    ) -> None:
        """As of an image that an earlier version stored."""
        (image,) = finish(http, submit(http))["results"]["images"]
        (path,) = Path(shared_server.state).glob(f"outputs/*/{image['filename']}.thumb.webp")
        path.unlink()
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(http.get, [image["thumbnail_url"]] * 12))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.content for answer in answers} == {path.read_bytes()}

    def test_a_signed_thumbnail_url_is_needed_where_urls_are_signed(self, state: Path) -> None:
        with server(state, "--url-ttl", "600") as running, running.http() as http:
            (image,) = finish(http, submit(http))["results"]["images"]
            assert verify(http.get(image["thumbnail_url"]).content).media_type == "image/webp"
            problem(http.get(image["thumbnail_url"].partition("&")[0]), 403, "forbidden_output")
            foreign = image["url"].partition("&")[2]
            problem(http.get(f"{image['thumbnail_url'].partition('&')[0]}&{foreign}"), 403, "forbidden_output")
