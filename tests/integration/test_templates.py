"""`/api/v1/templates`: storing requests under names, the walls between sessions, limits, and the clients' methods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from browser import new_session
from support import ServerProcess, problem, server
from umrgen import AsyncClient, Client, InvalidRequest, RequestTemplate

PATH = "/api/v1/templates"
NOIR = {"prompt": "a street at night", "width": 768, "steps": 8, "loras": [{"name": "grain", "strength": 0.5}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("templates") / "state", "--rate", "0") as started:
        yield started


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx2.Client]:
    """A client with the key of a new session."""
    key, _ = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as client:
        yield client


def put(http: httpx2.Client, name: str, request: Any = NOIR) -> httpx2.Response:
    return http.put(f"{PATH}/{quote(name, safe='')}", json={"request": request})


class TestStored:
    def test_a_template_is_stored_listed_replaced_and_deleted(self, http: httpx2.Client) -> None:
        stored = put(http, " Film Noir: für dich ")
        assert stored.status_code == 200
        first = stored.json()
        assert (first["name"], first["request"], first["warnings"]) == ("Film Noir: für dich", NOIR, [])
        put(http, "another", {})
        path = f"{PATH}/{quote('Film Noir: für dich')}"
        assert http.get(path).json() == first
        put(http, "Film Noir: für dich", {"seed": 3.0})
        listed = http.get(PATH).json()["templates"]
        assert [(each["name"], each["request"]) for each in listed] == [
            ("Film Noir: für dich", {"seed": 3}),
            ("another", {}),
        ]
        for _ in range(2):
            gone = http.delete(path)
            assert (gone.status_code, gone.json()["deleted"]) == (200, True)
        problem(http.get(path), 404, "template_not_found")

    def test_a_stored_request_can_be_submitted(self, http: httpx2.Client) -> None:
        put(http, "small", {"prompt": "a boat", "width": 512, "height": 512, "steps": 1})
        request = http.get(f"{PATH}/small").json()["request"]
        assert http.post("/api/v1/generate", json=request).status_code == 202

    def test_templates_outlast_a_restart(self, state: Path) -> None:
        with server(state) as started, started.http() as first:
            put(first, "noir")
            key = started.key
        with server(state) as again, again.http(Authorization=f"Bearer {key}") as second:
            assert [each["name"] for each in second.get(PATH).json()["templates"]] == ["noir"]


class TestWalls:
    def test_no_other_session_sees_changes_or_deletes_a_template(
        self, http: httpx2.Client, running: ServerProcess
    ) -> None:
        put(http, "noir")
        key, _ = new_session(running.state)
        with running.http(Authorization=f"Bearer {key}") as other:
            assert other.get(PATH).json()["templates"] == []
            problem(other.get(f"{PATH}/noir"), 404, "template_not_found")
            other.delete(f"{PATH}/noir")
            put(other, "noir", {"prompt": "another"})
        assert http.get(f"{PATH}/noir").json()["request"] == NOIR

    def test_a_key_is_needed(self, running: ServerProcess) -> None:
        with httpx2.Client(base_url=running.url) as stranger:
            for method, path in (("GET", PATH), ("GET", f"{PATH}/x"), ("PUT", f"{PATH}/x"), ("DELETE", f"{PATH}/x")):
                problem(stranger.request(method, path), 401, "unauthorized")


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("x" * 101, "the name of a template must have 1 to 100 characters; got 101"),
            (" ", "the name of a template must have 1 to 100 characters; got 0"),
            ("cats/dogs", "the name of a template must have no / and no control characters"),
            ("a\x07b", "the name of a template must have no / and no control characters"),
        ],
    )
    def test_names(self, http: httpx2.Client, name: str, text: str) -> None:
        assert text in problem(put(http, name), 400, "invalid_request")["error"]

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"steps": 0}, "steps"),
            ({"width": "wide"}, "width"),
            ({"prompt": " "}, "prompt"),
            ([], "request"),
            (7, "request"),
        ],
    )
    def test_values(self, http: httpx2.Client, request_: Any, field: str) -> None:
        assert problem(put(http, "x", request_), 400, "invalid_request")["field"] == field
        assert http.get(PATH).json()["templates"] == []

    def test_an_unknown_field_is_named_and_not_stored(self, http: httpx2.Client) -> None:
        stored = put(http, "x", {"prompt": "a boat", "stile": "noir"}).json()
        assert stored["warnings"] == ["the field 'stile' is unknown and was ignored"]
        assert stored["request"] == {"prompt": "a boat"}

    def test_a_session_has_100_templates_at_most(self, http: httpx2.Client) -> None:
        for number in range(100):
            assert put(http, f"template {number}", {}).status_code == 200
        problem(put(http, "one more", {}), 409, "too_many_templates")
        assert put(http, "template 7", NOIR).status_code == 200, "one that is there can be replaced"
        http.delete(f"{PATH}/template 8")
        assert put(http, "one more", {}).status_code == 200

    def test_the_longest_texts_and_a_body_that_is_too_large(self, http: httpx2.Client) -> None:
        longest = {"prompt": "🚢" * 2000, "negative": "🚢" * 2000}
        assert put(http, "🚢" * 100, longest).json()["request"] == longest
        problem(put(http, "large", {"reference_images": ["x" * 33_000]}), 413, "too_large")
        problem(put(http, "large", {"prompt": "x" * 140_000}), 413, "too_large")

    def test_other_methods(self, http: httpx2.Client) -> None:
        refused = http.post(f"{PATH}/x", json={})
        problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "DELETE, GET, HEAD, PUT"


class TestClients:
    def test_the_synchronous_client(self, running: ServerProcess) -> None:
        key, _ = new_session(running.state)
        with Client(running.url, key) as client:
            stored = client.save_template("für: noir", NOIR)
            assert isinstance(stored, RequestTemplate)
            assert (stored.name, stored.request) == ("für: noir", NOIR)
            assert client.templates() == [stored]
            with pytest.raises(InvalidRequest, match="no / and no control characters"):
                client.save_template("a/b", {})
            client.delete_template("für: noir")
            assert client.templates() == []

    async def test_the_asynchronous_client(self, running: ServerProcess) -> None:
        key, _ = new_session(running.state)
        async with AsyncClient(running.url, key) as client:
            await client.save_template("noir", {"prompt": "a boat"})
            assert [each.request for each in await client.templates()] == [{"prompt": "a boat"}]
            await client.delete_template("noir")
            assert await client.templates() == []
