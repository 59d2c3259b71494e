"""The search for the job of a submit without a response, on the first servers."""

import json
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import errors
from umrgen.client.flow import CallContext, Options, Reply, Step
from umrgen.client.flows.lost_submit import LostSubmit, find_lost_job, listed_image, require_lost_job
from umrgen.client.flows.wait import StatusPoller
from umrgen.model import Status
from umrgen.testing import reply, run_flow

REQUEST = {"prompt": "a boat", "width": 512, "height": 768}
LISTED = {
    "job_id": "ext_1",
    "prompt": "a boat",
    "width": 512,
    "height": 768,
    "steps": 8,
    "imageUrl": "/outputs/s/a.png",
}
EPOCH = 1_800_000_000.0
NOW = 20.0
"""Seconds on the client's clock when the search begins; the server's `Date` is on the same clock."""
GONE = reply({"error": "Job not found"}, 404)
PAGE = reply("<html>Cannot GET</html>", 404)


def created(at: float, now: float = NOW) -> Reply:
    """Return the status of a job that was created at this second, when it is `now`."""
    body = {"state": "running", "created_at": int(1000 * (EPOCH + at))}
    return reply(body, headers={}, elapsed=0.0)


def answered_by(answers: Mapping[str, Any]) -> Callable[[Step], Reply]:
    """Return a server with these answers by path; a list is an answer in JSON."""

    def answer(step: Step) -> Reply:
        found = answers.get(step.path.partition("?")[0], PAGE)
        found = found() if callable(found) else found
        return found if isinstance(found, Reply) else reply(json.dumps(found))

    return answer


def search(
    answers: Mapping[str, Any],
    *,
    sent_at: float = 10.0,
    now: float = NOW,
    known: tuple[str, ...] = (),
    request: Mapping[str, Any] = REQUEST,
) -> Any:
    """Return the result of a search on a server with these answers by path; a list is an answer in JSON."""

    context = CallContext(Options(), now, random=lambda: 0.5)
    lost = LostSubmit(request, sent_at, lambda: known)
    return run_flow(find_lost_job(context, lost), repeat(answered_by(answers)), start=now).outcome


STATUS = "/api/v1/status/ext_1"


@pytest.mark.parametrize("at", [8.1, 10.0, 15.0, 20.0])
def test_a_running_job_of_the_time_of_the_submit_is_found(at: float) -> None:
    assert search({"/api/status": {"active_job_id": "ext_1"}, STATUS: created(at)}) == ("ext_1", True)


def test_a_running_job_from_before_the_submit_is_not_taken() -> None:
    assert search({"/api/status": {"active_job_id": "ext_1"}, STATUS: created(3.0)}) == (None, True)


@pytest.mark.parametrize("member", [{}, {"created_at": None}, {"created_at": int(1000 * (EPOCH + 290.0))}])
def test_a_running_job_whose_time_does_not_tell_is_recognised_by_its_prompt(member: Mapping[str, Any]) -> None:
    """The older version lists its prompt after its end; the newer one does not, so that it is not known."""
    states = iter([{"state": "running"} | member, {"state": "running"} | member, {"state": "completed"} | member])
    answers = {"/api/status": {"active_job_id": "ext_1"}, STATUS: lambda: next(states)}
    assert search(answers, now=300.0) == (None, False)
    listed = answers | {"/api/history": [LISTED], STATUS: lambda: next(again)}
    again = iter([{"state": "running"} | member, {"state": "running"} | member, {"state": "completed"} | member])
    assert search(listed, now=300.0) == ("ext_1", True)
    again = iter([{"state": "running"} | member, {"state": "completed"} | member])
    assert search(listed | {"/api/history": [LISTED | {"prompt": "a house"}]}, now=300.0) == (None, True)


def test_the_first_status_call_after_a_search_waits_for_the_interval() -> None:
    answers = {
        "/api/status": {"active_job_id": "ext_1"},
        "/api/history": [LISTED],
        STATUS: reply({"state": "completed"}),
    }
    context = CallContext(Options(), 300.0, random=lambda: 0.5)
    flow = find_lost_job(context, LostSubmit(REQUEST, 290.0, lambda: ()))
    assert run_flow(flow, repeat(answered_by(answers)), start=300.0).outcome == ("ext_1", True)
    assert StatusPoller(context, "ext_1").delay == Options().running_interval


def test_a_running_job_of_another_submit_is_not_taken() -> None:
    answers = {"/api/status": {"active_job_id": "ext_1"}, STATUS: created(12.0)}
    assert search(answers, known=("ext_1",)) == (None, True)


def test_a_finished_job_is_found_by_prompt_size_and_time() -> None:
    others = [LISTED | {"job_id": "ext_2", "prompt": "a house"}, LISTED | {"job_id": "ext_3", "width": 1024}]
    answers = {"/api/status": {"active_job_id": None}, "/api/history": [*others, LISTED], STATUS: created(11.0)}
    assert search(answers) == ("ext_1", True)


def test_a_clamped_size_is_not_compared() -> None:
    answers = {"/api/status": {"active_job_id": None}, "/api/history": [LISTED], STATUS: created(11.0)}
    assert search(answers, request={"prompt": "a boat", "width": 9999}) == ("ext_1", True)


def test_an_equal_job_from_before_the_submit_is_not_taken() -> None:
    answers = {"/api/status": {"active_job_id": None}, "/api/history": [LISTED], STATUS: created(3.0)}
    assert search(answers) == (None, True)


def test_a_job_without_a_time_is_taken_when_it_is_the_only_one_and_long_over() -> None:
    answers = {"/api/status": {"active_job_id": None}, "/api/history": [LISTED], STATUS: GONE}
    assert search(answers, now=300.0) == ("ext_1", True)
    assert search(answers, now=60.0) == (None, True), "the server would still tell its time"
    twice = answers | {"/api/history": [LISTED, LISTED | {"job_id": "ext_2"}], "/api/v1/status/ext_2": GONE}
    assert search(twice, now=300.0) == (None, True)
    assert search(twice, now=300.0, known=("ext_2",)) == ("ext_1", True)


@pytest.mark.parametrize("status", [403, 404, 405, 410])
def test_a_gateways_response_about_the_job_is_not_conclusive(status: int) -> None:
    answers = {"/api/status": {"active_job_id": None}, "/api/history": [LISTED], STATUS: reply("<html>", status)}
    assert search(answers, now=300.0) == (None, False)


def test_a_server_without_the_calls_is_not_searched() -> None:
    assert search({}) == (None, False)
    assert search({"/api/status": {"status": "green"}}) == (None, False)
    assert search({"/api/status": [1]}) == (None, False)


def test_the_newer_version_lists_no_finished_jobs() -> None:
    assert search({"/api/status": {"active_job_id": None}}) == (None, True)


def test_a_clock_that_is_wrong_on_one_side_has_no_effect() -> None:
    ahead = reply(
        {"state": "running", "created_at": 1_795_694_471_000}, headers={"Date": "Thu, 26 Nov 2026 12:01:13 GMT"}
    )
    assert search({"/api/status": {"active_job_id": "ext_1"}, STATUS: ahead}, sent_at=18.0) == ("ext_1", True)


def test_the_result_of_a_search_as_an_error() -> None:
    def run(*answers: Reply) -> Any:
        context = CallContext(Options(), NOW)
        return run_flow(require_lost_job(context, LostSubmit(REQUEST, 10.0)), answers, start=NOW).outcome

    none = run(reply({"active_job_id": None}), reply("[]"))
    assert isinstance(none, errors.JobNotFound)
    assert none.code == "job_gone"
    unclear = run(PAGE)
    assert isinstance(unclear, errors.ConnectionFailed)
    assert unclear.sent


def test_the_image_of_a_forgotten_job_is_listed() -> None:
    def run(body: Any, job_id: str = "ext_1") -> Any:
        return run_flow(listed_image(CallContext(Options(), NOW), job_id), [reply(json.dumps(body))], start=NOW).outcome

    found = run([{"job_id": "ext_0"}, LISTED])
    assert isinstance(found, Status)
    assert (found.state, found.images) == ("completed", ("/outputs/s/a.png",))
    assert run([LISTED], "ext_2") is None
    assert run([LISTED | {"imageUrl": ""}]) is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("a boat")
    | st.just("ext_1"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["job_id", "prompt", "width", "imageUrl", "active_job_id", "created_at"]), inner
        )
    ),
    max_leaves=12,
)


@given(VALUES, VALUES, VALUES)
def test_any_answer_leads_to_a_result(page: Any, history: Any, status: Any) -> None:
    answers = {"/api/status": page, "/api/history": history, STATUS: status}
    outcome = search(answers)
    assert isinstance(outcome, tuple), outcome
    assert outcome[0] is None or isinstance(outcome[0], str)
