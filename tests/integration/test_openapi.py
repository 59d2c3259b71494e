"""The OpenAPI document: complete, correct, and checked by schemathesis against a running server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support import UNLIMITED, ServerProcess, finish, server, submit
from umrgen.server.domain.job_answer import JobAnswer
from umrgen.server.http.api import responses, schemas
from umrgen.server.http.api.examples import EXAMPLES
from umrgen.server.http.openapi import OPERATIONS, document

DOCUMENT = document()
ENGINES = {"PYTHONPATH": str(Path(__file__).parents[1])}
CONFORMANCE_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that schemathesis sends requests to."""
    state = tmp_path_factory.mktemp("fuzzed") / "state"
    options = ("--concurrent", "2", "--max-wait", "1", "--engine", "engines_that_fail:FailingEngine")
    with server(state, *UNLIMITED, *options, **ENGINES) as running:
        yield running


def test_the_server_sends_the_document(fuzzed: ServerProcess) -> None:
    with fuzzed.http() as http:
        answer = http.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == json.loads(json.dumps(DOCUMENT))
        assert answer.json()["openapi"].startswith("3.1")


def test_every_route_is_described(state: Path) -> None:
    from umrgen.server.application import Application
    from umrgen.server.http.app import MCP_PATH, METHODS, ONLY_AHEAD, routes
    from umrgen.server.http.guide import SKILL_NAME, SKILLS
    from umrgen.server.settings import Settings

    application = Application(Settings(state=state))
    described = {(operation.method.upper(), operation.path) for operation in OPERATIONS}
    served = {
        (method, route.path.replace("/templates/{name:path}", "/templates/{name}"))  # type: ignore[attr-defined]
        for route in routes(application.services)
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
        if "{rest" not in route.path and not route.path.startswith("/v1/")  # type: ignore[attr-defined]
    }
    ahead = {("GET", "/api/v1/status/{job_id}"), ("GET", "/api/v1/events/{job_id}")}
    ahead |= {("GET", "/outputs/{session_id}/{filename}")}
    served -= {("GET", path) for path in ONLY_AHEAD} | {(method, MCP_PATH) for method in METHODS}  # off: a 404
    page = {("GET", "/"), ("GET", "/studio/{name:path}"), ("POST", "/studio/session")}  # for people, not for programs
    page |= {("GET", "/studio/devices"), ("POST", "/studio/devices"), ("DELETE", "/studio/devices/{device_id}")}
    page |= {("POST", "/studio/sign-out")}
    guide = {("GET", path) for path in ("/guide.md", "/llms.txt")}
    guide |= {("GET", f"{SKILLS}/{name}") for name in ("index.json", f"{SKILL_NAME}/SKILL.md")}
    assert served | ahead == described | page | guide


def test_examples_match_their_types() -> None:
    types: dict[str, Any] = {"JobAnswer": JobAnswer} | vars(schemas) | vars(responses)
    for name, example in EXAMPLES.items():
        msgspec.convert(example, types[name])
        assert DOCUMENT["components"]["schemas"][name]["examples"] == [example]


def test_real_responses_have_the_described_properties(fuzzed: ServerProcess) -> None:
    with fuzzed.http() as http:
        done = finish(http, submit(http))
        assert set(done) == set(DOCUMENT["components"]["schemas"]["JobAnswer"]["properties"])
        for path, name in (("/api/v1/capabilities", "CapabilitiesAnswer"), ("/api/v1/jobs", "JobsPage")):
            assert set(http.get(path).json()) == set(DOCUMENT["components"]["schemas"][name]["properties"])


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_responses_conform_to_the_document(fuzzed: ServerProcess, case: schemathesis.Case) -> None:
    """No response is a 5xx; status, media type, headers and body are as described."""
    case.headers["Authorization"] = f"Bearer {fuzzed.key}"
    response = case.call(base_url=fuzzed.url, timeout=20)
    case.validate_response(response, checks=CONFORMANCE_CHECKS)


def test_the_document_needs_a_key(fuzzed: ServerProcess) -> None:
    assert httpx2.get(f"{fuzzed.url}/openapi.json").status_code == 401
