"""Faults while a job is submitted."""

import pytest

from fault_cases import (
    SAVES,
    SHORT,
    CaseRun,
    Fails,
    FaultCase,
    RunCase,
    burst,
    common_cases,
    no_foreign_request,
    of_json,
    parametrize,
    redirect_to_foreign,
    restart,
    restart_and_refuse,
    self_signed_server,
    with_members,
)
from umrgen import ConnectionFailed, RateLimited, ServerError
from umrgen.errors import NotUmrgen
from umrgen.testing import Drip, Fault, HtmlPage, NoResponse, Redirect, Respond, Tamper

pytestmark = pytest.mark.timeout(30)


def plain_http_as_tls(run: CaseRun) -> tuple[Fault, ...]:
    run.base_url = run.server.url.replace("http:", "https:")
    return ()


def self_signed(run: CaseRun) -> tuple[Fault, ...]:
    run.base_url = self_signed_server(run).url
    return ()


NOT_FOUND = {"modern": SAVES, "legacy": Fails(NotUmrgen, sent=True)}
"""A response that cannot be read, of a gateway: only a server with idempotency keys is asked again."""
LOST = {"modern": SAVES, "legacy": Fails(ConnectionFailed, sent=True)}
NOT_SENT = Fails(ConnectionFailed, sent=False)

CASES = [
    *common_cases("submit"),
    FaultCase("TLS failure: plain HTTP", plain_http_as_tls, NOT_SENT, options=SHORT),
    FaultCase("TLS failure: a self-signed certificate", self_signed, NOT_SENT, options=SHORT),
    FaultCase(
        "no response without end",
        (NoResponse(handled=True),),
        Fails(ConnectionFailed, sent=True),
        times=None,
        options={"timeout": 0.5},
    ),
    FaultCase(
        "drips without end",
        (Drip(1, 0.05),),
        Fails(ConnectionFailed, sent=True),
        times=None,
        options={"timeout": 0.5},
    ),
    FaultCase("body drips", (Drip(1, 0.02),)),
    *(
        FaultCase(f"{n} without end", (Respond(n),), Fails(ServerError, sent=True), times=None, simulated=True)
        for n in (500, 502, 503, 504)
    ),
    FaultCase("503 with a code for 30 s", burst(503, coded=True), simulated=True, options={"submit_patience": 60}),
    FaultCase(
        "429 with 86400 without end",
        (Respond(429, b"", {"Retry-After": "86400"}),),
        Fails(RateLimited, sent=False),
        times=None,
        simulated=True,
    ),
    *(
        FaultCase(f"redirect ({n}) to another host", redirect_to_foreign(n), Fails(NotUmrgen), check=no_foreign_request)
        for n in (302, 307, 308)
    ),
    FaultCase("redirect loop", (Redirect("/api/v1/generate", 307),), Fails(NotUmrgen), times=None),
    FaultCase("HTML page", (HtmlPage(),), Fails(NotUmrgen, sent=False)),
    FaultCase("HTML page for every call", server={"interstitial": True}, expected=Fails(NotUmrgen, sent=False)),
    FaultCase("empty body", (Respond(200),), NOT_FOUND),
    FaultCase("a 202 with an empty body", (Tamper(lambda body: b""),)),
    FaultCase("a 202 with truncated JSON", (Tamper(lambda body: body[:-9]),)),
    FaultCase("a 202 with a list", (of_json(lambda data: [data]),)),
    FaultCase("a 202 with a number for the id", (with_members(job_id=17),)),
    FaultCase("a 202 with null for the id", (with_members(job_id=None),)),
    FaultCase("a 202 with a path for the id", (with_members(job_id="../../etc"),)),
    FaultCase("the server restarts", restart),
    FaultCase("the server restarts and refuses connections", restart_and_refuse, LOST),
]


@parametrize(CASES)
def test_a_fault_while_submitting(run_case: RunCase, case: FaultCase, mode: str, driver: str) -> None:
    run_case("submit", case, mode, driver)
