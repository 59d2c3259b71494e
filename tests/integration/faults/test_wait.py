"""Faults while a job is waited for."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from gateways import GATEWAY_RESPONSES

from fault_cases import (
    FOREIGN_OUTPUT,
    IMAGE,
    SAVES,
    SHORT,
    UNKNOWN_JOB,
    CaseRun,
    Fails,
    FaultCase,
    Faults,
    RunCase,
    common_cases,
    completed,
    foreign_image_requested,
    job_in_state,
    no_foreign_request,
    of_json,
    parametrize,
    redirect_to_foreign,
    restart,
    restart_and_refuse,
    self_signed_server,
    with_members,
    without_images,
)
from umrgen import ConnectionFailed, JobNotFound, OutputMissing, ServerError, WaitTimeout
from umrgen.errors import NotUmrgen
from umrgen.testing import Drip, Fault, HtmlPage, NoResponse, Redirect, Respond, Tamper
from umrgen.testing.legacy_bodies import JOB_NOT_FOUND

pytestmark = pytest.mark.timeout(30)


def plain_http_as_tls(run: CaseRun) -> tuple[Fault, ...]:
    run.base_url = run.server.url.replace("http:", "https:")
    return ()


def self_signed(run: CaseRun) -> tuple[Fault, ...]:
    run.base_url = self_signed_server(run).url
    return ()


def foreign_image(run: CaseRun) -> tuple[Fault, ...]:
    return (completed(f"{run.foreign.url}/image.png"),)


def protocol_relative(run: CaseRun) -> tuple[Fault, ...]:
    return (completed(f"//127.0.0.1:{run.foreign.port}/image.png"),)


def absolute_url(run: CaseRun) -> tuple[Fault, ...]:
    def change(data: dict[str, Any]) -> dict[str, Any]:
        url = data.get("image_url") or data["results"]["images"][0]["url"]
        return data | {"image_url": run.server.url + url}

    return (of_json(change),)


def unusual_path(path: str) -> Faults:
    """Report this path as the image's, and serve the image under every path."""

    def prepare(run: CaseRun) -> tuple[Fault, ...]:
        run.on_phase(Respond(200, IMAGE, {"Content-Type": "image/png"}), phase="download")
        return (completed(path),)

    return prepare


def requested_as(path: str) -> Callable[[CaseRun], None]:
    """Check that the image was requested under exactly this path."""

    def check(run: CaseRun) -> None:
        assert [request.path for request in run.output_requests] == [path]

    return check


def one_unknown_state_event(run: CaseRun) -> None:
    assert [event.kind for event in run.events].count("unknown_state") == 1


def not_found_after_the_first_status(run: CaseRun) -> tuple[Fault, ...]:
    coded = {"success": False, "error": "there is no such job", "code": "job_not_found"}
    return (job_in_state("running"), Respond(404, coded if run.mode == "modern" else JOB_NOT_FOUND))


FORGOTTEN = {"modern": Fails(JobNotFound, "job_gone"), "legacy": SAVES}
"""An older server still lists the image of a job that it has forgotten."""
INVALID: Mapping[str, Fault] = {
    "HTML page": HtmlPage(),
    "empty body": Respond(200),
    "truncated JSON": Tamper(lambda body: body[: len(body) // 2]),
    "a list": of_json(lambda data: [data]),
    "a number for the state": with_members(state=5),
    "a list for the state": with_members(state=["completed"]),
    "null for the state": with_members(state=None),
}
WRONG_TYPES = {
    "queue_position": "7",
    "eta_seconds": [],
    "progress": 3,
    "seed": {},
    "error": 5,
    "retry_after_ms": "soon",
}
NO_URL: Mapping[str, Fault] = {
    "null for the image_url": completed(None),
    "no image_url": of_json(without_images),
    "an empty image_url": completed(""),
    "a number for the image_url": completed(5),
}
ANY_ORIGIN = {"follow_foreign": True}

CASES = [
    *common_cases("wait"),
    *(
        FaultCase(f"TLS failure: {how}", fault, Fails(ConnectionFailed, sent=False), options=SHORT, job=UNKNOWN_JOB)
        for how, fault in {"plain HTTP": plain_http_as_tls, "a self-signed certificate": self_signed}.items()
    ),
    FaultCase("body drips", (Drip(1, 0.02),)),
    FaultCase("no response without end", (NoResponse(),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    FaultCase("no response beyond patience", (NoResponse(),), Fails(ConnectionFailed), times=None, options=SHORT),
    FaultCase("drips without end", (Drip(1, 0.05),), Fails(WaitTimeout), times=None, options={"timeout": 0.5}),
    *(
        FaultCase(f"{n} without end", (Respond(n),), Fails(ServerError), times=None, simulated=True)
        for n in (500, 502, 503, 504)
    ),
    FaultCase(
        "429 with 86400 without end",
        (Respond(429, b"", {"Retry-After": "86400"}),),
        Fails(WaitTimeout),
        times=None,
        simulated=True,
    ),
    *(
        FaultCase(
            f"redirect ({n}) to another host",
            redirect_to_foreign(n, "/api/v1/status/x"),
            check=no_foreign_request,
        )
        for n in (302, 307, 308)
    ),
    FaultCase("redirect loop", (Redirect("?again"),), Fails(NotUmrgen), times=None, options=SHORT),
    *(
        FaultCase(
            f"{sent.name}, twice", (Respond(sent.status, sent.body.encode(), sent.headers),), times=2, simulated=True
        )
        for sent in GATEWAY_RESPONSES
    ),
    FaultCase(
        "404 of a gateway, beyond patience",
        (Respond(404, b"404 page not found", {"Content-Type": "text/plain"}),),
        Fails(NotUmrgen),
        times=None,
        options=SHORT,
    ),
    *(FaultCase(f"{what}, once", (fault,)) for what, fault in INVALID.items()),
    *(
        FaultCase(f"{what}, beyond patience", (fault,), Fails(NotUmrgen), times=None, options=SHORT)
        for what, fault in INVALID.items()
    ),
    FaultCase("HTML page for an unknown job", (HtmlPage(),), Fails(NotUmrgen), times=None, job=UNKNOWN_JOB),
    FaultCase("wrong types of optional members", (with_members(**WRONG_TYPES),)),
    FaultCase(
        "an unknown state for a while",
        (job_in_state("paused"), job_in_state("paused"), job_in_state("warming")),
        check=one_unknown_state_event,
    ),
    FaultCase(
        "an unknown state without end",
        (job_in_state("paused"),),
        Fails(WaitTimeout),
        times=None,
        options={"timeout": 0.4},
        check=one_unknown_state_event,
    ),
    FaultCase(
        "running, then queued again",
        (job_in_state("running"), job_in_state("queued", queue_position=2), job_in_state("running")),
    ),
    FaultCase("completed, then running again", (completed(None), job_in_state("running"), job_in_state("queued"))),
    *(FaultCase(f"completed with {what}, once", (fault,)) for what, fault in NO_URL.items()),
    FaultCase(
        "completed with an empty list of results, once",
        (of_json(lambda data: without_images(data) | {"results": {"images": []}}),),
    ),
    *(
        FaultCase(f"completed with {what}", (fault,), Fails(OutputMissing), times=None)
        for what, fault in NO_URL.items()
    ),
    FaultCase(
        "completed without any image",
        server={"images": 0},
        expected=Fails(OutputMissing),
        only="legacy",
        why="a server of this package completes no job without an image",
    ),
    FaultCase("a foreign image_url", foreign_image, FOREIGN_OUTPUT, check=no_foreign_request),
    FaultCase("a foreign image_url, allowed", foreign_image, options=ANY_ORIGIN, check=foreign_image_requested),
    FaultCase("//foreign/x", protocol_relative, FOREIGN_OUTPUT, check=no_foreign_request),
    FaultCase("//foreign/x, foreign origins allowed", protocol_relative, FOREIGN_OUTPUT, options=ANY_ORIGIN),
    *(
        FaultCase(f"{what} as the image_url", (completed(url),), FOREIGN_OUTPUT, options=ANY_ORIGIN)
        for what, url in {
            "a backslash": "/\\foreign/x",
            "another scheme": "file:///etc/passwd",
            "a relative path": "outputs/x.png",
        }.items()
    ),
    FaultCase("an absolute image_url of the server itself", absolute_url),
    FaultCase(
        "a path with spaces",
        unusual_path("/outputs/an image.png?session_id=a b"),
        check=requested_as("/outputs/an%20image.png?session_id=a%20b"),
    ),
    FaultCase(
        "a path with percent signs",
        unusual_path("/outputs/100%25%2Fof%2fit%.png?session_id=%7Ex"),
        check=requested_as("/outputs/100%25%2Fof%2fit%.png?session_id=%7Ex"),
    ),
    FaultCase(
        "a path with dots and slashes",
        unusual_path("/outputs/./a//b/../c.png?session_id=x"),
        check=requested_as("/outputs/./a//b/../c.png?session_id=x"),
    ),
    FaultCase("404 for an unknown job", (), Fails(JobNotFound, "job_not_found"), job=UNKNOWN_JOB),
    FaultCase("404 for a known job", not_found_after_the_first_status, FORGOTTEN),
    FaultCase("the server restarts", restart),
    FaultCase("the server restarts and refuses connections", restart_and_refuse),
]


@parametrize(CASES)
def test_a_fault_while_waiting(run_case: RunCase, case: FaultCase, mode: str, driver: str) -> None:
    run_case("wait", case, mode, driver)
