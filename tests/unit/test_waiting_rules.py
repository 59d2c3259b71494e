"""The client's waiting rules, tested without I/O: the requests, their times and the outcome."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, pairwise, repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import errors
from umrgen.client.flow import CallContext, Event, Options, Reply, RequestBudget, TransportFailure
from umrgen.client.flows.submit import submit
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.flows.wait_many import BatchPoller
from umrgen.model import Status
from umrgen.testing import FlowRun, reply, run_flow

IMAGE = "/outputs/s/a.png?session_id=s"
DONE = {"state": "completed", "image_url": IMAGE}


def new_context(events: list[Event] | None = None, **options: Any) -> CallContext:
    notify: Callable[[Event], None] = (lambda event: None) if events is None else events.append
    return CallContext(Options(**options), 0.0, notify=notify, random=lambda: 0.5)


def refused(at: float = 0.0, *, sent: bool = False) -> TransportFailure:
    return TransportFailure("connection refused", at=at, sent=sent)


def status(
    state: str = "running", headers: Mapping[str, str] | None = None, elapsed: float = 0.0, **more: Any
) -> Reply:
    return reply({"state": state} | more, 200, headers, elapsed=elapsed)


def wait(answers: Any, events: list[Event] | None = None, **options: Any) -> FlowRun[Status]:
    return run_flow(StatusPoller(new_context(events, **options), "ext_1").result(), answers)


def gaps(played: FlowRun[Any]) -> list[float]:
    return [round(later.at - earlier.at, 3) for earlier, later in pairwise(played.sent)]


class TestInterval:
    def test_the_default_interval_is_3_s_while_queued_and_2_s_while_running(self) -> None:
        played = wait([status("queued"), status("queued"), status(), status(), reply(DONE)])
        assert gaps(played) == [3.0, 3.0, 2.0, 2.0]
        assert isinstance(played.outcome, Status)

    @pytest.mark.parametrize("random", [0.0, 0.999])
    def test_both_intervals_have_a_jitter_of_ten_percent(self, random: float) -> None:
        context = CallContext(Options(), 0.0, random=lambda: random)
        played = run_flow(StatusPoller(context, "ext_1").result(), [status("queued"), status(), reply(DONE)])
        expected = [3.0 * (0.9 + 0.2 * random), 2.0 * (0.9 + 0.2 * random)]
        assert gaps(played) == [pytest.approx(gap, abs=0.001) for gap in expected]

    def test_a_long_poll_is_followed_immediately_by_the_next(self) -> None:
        held = {"Preference-Applied": "wait=25"}
        played = wait([status("queued", held, 25.0), status("running", held, 25.0), reply(DONE, 200, held)])
        assert gaps(played) == [25.0, 25.0]
        assert {sent.step.headers["Prefer"] for sent in played.sent} == {"wait=25"}

    def test_a_long_poll_that_returns_early_is_followed_by_an_interval(self) -> None:
        played = wait([status("running", {"Preference-Applied": "wait=25"}), reply(DONE)])
        assert gaps(played) == [2.0]

    @pytest.mark.parametrize(
        ("headers", "more", "gap"),
        [
            ({"Retry-After": "7"}, {}, 7.0),
            ({"Retry-After": "86400"}, {}, 60.0),
            ({"Retry-After": "0"}, {}, 1.0),
            ({"Retry-After": "soon"}, {}, 2.0),
            ({"Retry-After": "Tue, 24 Nov 2026 08:00:09 GMT", "Date": "Tue, 24 Nov 2026 08:00:00 GMT"}, {}, 9.0),
            ({"Retry-After": "Tue, 24 Nov 2020 08:00:00 GMT", "Date": "Tue, 24 Nov 2026 08:00:00 GMT"}, {}, 1.0),
            ({}, {"retry_after_ms": 4000}, 4.0),
            ({}, {"retry_after_ms": -4000}, 2.0),
            ({"Retry-After": "7"}, {"retry_after_ms": 4000}, 7.0),
            ({}, {"eta_seconds": 10}, 5.5),
            ({}, {"eta_seconds": 400}, 10.0),
            ({}, {"eta_seconds": 1}, 2.0),
        ],
    )
    def test_the_delay_that_the_server_requests_is_kept(
        self, headers: dict[str, str], more: dict[str, Any], gap: float
    ) -> None:
        played = wait([status("running", headers, **more), reply(DONE)])
        assert gaps(played)[0] == pytest.approx(gap, rel=0.051)

    def test_a_long_poll_for_any_change_sends_the_etag(self) -> None:
        tagged = {"ETag": '"1"'}
        played = run_flow(StatusPoller(new_context(), "ext_1").next_change(), [status("queued", tagged)])
        assert "Prefer" not in played.sent[0].step.headers, "the first status call is not a long poll"
        poller = StatusPoller(new_context(), "ext_1")
        run_flow(poller.next_change(), [status("queued", tagged)])
        second = run_flow(poller.next_change(), [status("running", {"ETag": '"2"'}, 4.0)])
        assert second.sent[0].step.headers == {"Prefer": "wait=25", "If-None-Match": '"1"'}

    def test_a_304_is_not_a_change(self) -> None:
        poller = StatusPoller(new_context(), "ext_1")
        run_flow(poller.next_change(), [status("queued", {"ETag": '"1"'})])
        held = {"Preference-Applied": "wait=25", "ETag": '"1"'}
        played = run_flow(poller.next_change(), [reply(b"", 304, held, elapsed=25.0), status("running")])
        assert played.outcome == Status("ext_1", "running")
        assert gaps(played) == [25.0]


class TestRetries:
    def test_status_calls_are_retried_with_a_growing_backoff(self) -> None:
        failures = [refused(), reply("", 500), reply("<html>", 502), reply("", 503), reply("", 504), refused(sent=True)]
        played = wait([*failures, reply("<html>tunnel</html>"), reply('{"state": "run'), reply(DONE)])
        assert isinstance(played.outcome, Status)
        assert gaps(played)[:6] == [pytest.approx(0.525 * 2**n, abs=0.01) for n in range(5)] + [pytest.approx(15.75)]

    def test_retries_end_with_the_last_error(self) -> None:
        played = wait(repeat(refused()), patience=300)
        assert isinstance(played.outcome, errors.ConnectionFailed)
        assert played.outcome.job_id == "ext_1"
        assert 280 < played.sent[-1].at <= 300

    def test_a_valid_response_resets_the_retry_budget(self) -> None:
        answers = [*[refused()] * 15, status(), *[refused()] * 15, reply(DONE)]
        assert isinstance(wait(answers, patience=200).outcome, Status)

    def test_retry_after_of_a_503_is_kept_up_to_a_cap(self) -> None:
        for seconds, gap in (("9", 9.0), ("86400", 60.0), ("0", 0.5)):
            played = wait([reply("", 503, {"Retry-After": seconds}), reply(DONE)])
            assert gaps(played)[0] == pytest.approx(gap, rel=0.06)

    def test_a_429_is_retried_in_the_next_minute_then_every_ten_seconds(self) -> None:
        limited = reply({"error": "too many"}, 429, {"Date": "Fri, 15 Jan 2027 08:00:37 GMT"})
        played = wait([limited, limited, limited, reply(DONE)])
        assert isinstance(played.outcome, Status)
        assert gaps(played) == [pytest.approx(gap, rel=0.1) for gap in (23, 10, 10)]

    @pytest.mark.parametrize("second", range(0, 60, 7))
    def test_a_limited_minute_costs_at_most_a_minute(self, second: int) -> None:
        limited = reply({"error": "too many"}, 429, {"Date": f"Fri, 15 Jan 2027 08:00:{second:02} GMT"})
        (gap,) = gaps(wait([limited, reply(DONE)]))
        assert 60 - second <= gap <= 60

    def test_a_pause_applies_to_every_call_of_the_client(self) -> None:
        budget = RequestBudget(55)
        one, other = (CallContext(Options(jitter=0), 0.0, budget=budget) for _ in "ab")
        answer = reply({"error": "too many"}, 429, {"Date": "Fri, 15 Jan 2027 08:00:30 GMT"})
        run_flow(StatusPoller(one, "ext_1").poll(), [answer])
        assert other.step("GET", "/api/v1/status/ext_2").delay == 30
        assert budget.limited

    def test_a_server_that_never_sends_a_status_is_not_umrgen(self) -> None:
        played = wait(repeat(reply("<html>hello</html>")))
        assert isinstance(played.outcome, errors.NotUmrgen)
        assert len(played.sent) == Options().garbage_tries + 1

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (reply({"error": "Unauthorized: bad key"}, 401), errors.Unauthorized),
            (reply("", 403), errors.Forbidden),
            (reply("", 302, {"Location": "https://evil.example/x"}), errors.NotUmrgen),
            (reply({"error": "bad id"}, 400), errors.InvalidRequest),
            (reply({"error": "Job not found"}, 404), errors.JobNotFound),
        ],
    )
    def test_a_permanent_error_is_raised_immediately(self, answer: Reply, kind: type[Exception]) -> None:
        played = wait([answer])
        assert type(played.outcome) is kind
        assert len(played.sent) == 1


class TestDeadline:
    def test_the_timeout_error_names_the_job(self) -> None:
        played = wait(repeat(status()), timeout=10)
        assert isinstance(played.outcome, errors.WaitTimeout)
        assert f"umrgen wait {played.outcome.job_id}" in played.outcome.next
        assert played.sent[-1].at < 10

    def test_requests_are_limited_to_the_time_left(self) -> None:
        held = {"Preference-Applied": "wait=25"}
        played = wait(repeat(status("running", held, 25.0)), timeout=40)
        for sent in played.sent:
            assert sent.step.timeout <= 40 - sent.at
        assert [sent.step.headers.get("Prefer") for sent in played.sent] == ["wait=25", "wait=14"]

    def test_the_time_in_the_queue_has_its_own_limit(self) -> None:
        played = wait(repeat(status("queued")), queue_timeout=10)
        assert isinstance(played.outcome, errors.WaitTimeout)
        assert played.outcome.code == "queue_timeout"
        assert 9 <= played.sent[-1].at <= 12.1

    def test_long_polls_are_limited_to_the_queue_timeout(self) -> None:
        played = wait([lambda step: status("queued", {"Preference-Applied": "wait=10"}, 10.0)] * 3, queue_timeout=10)
        assert played.sent[0].step.headers["Prefer"] == "wait=10"

    def test_without_a_deadline_the_wait_continues(self) -> None:
        played = wait([*[status("running", {"Retry-After": "60"})] * 200, reply(DONE)], timeout=None)
        assert isinstance(played.outcome, Status)


def stopped(received: Reply | TransportFailure, seconds: float) -> Callable[[Any], Any]:
    """Return what a process receives that did not run for `seconds` after it had sent a request.

    The timer of the request fires late, unless a response had arrived before the standstill.
    """

    def receive(step: Any) -> Any:
        if isinstance(received, Reply):
            return replace(received, elapsed=seconds)
        return TransportFailure(str(received), at=step.timeout + seconds, sent=received.sent)

    return receive


def play(flow: Any, answers: Any) -> tuple[Any, float]:
    """Run a flow with answers that may arrive after the time of their step; return its outcome and the time."""
    now, supply = 0.0, iter(answers)
    try:
        step = next(flow)
        while True:
            now += max(0.0, step.delay)
            received = next(supply)
            received = received(step) if callable(received) else received
            if isinstance(received, Reply):
                now += received.elapsed
                step = flow.send(replace(received, at=now, wall=now))
            else:
                now += received.at
                step = flow.throw(TransportFailure(str(received), at=now, sent=received.sent))
    except StopIteration as result:
        return result.value, now
    except errors.UmrgenError as error:
        return error, now


class TestStandstill:
    """The process is stopped (SIGSTOP, a paused container), and continues `seconds` later."""

    @given(seconds=st.floats(700, 1e6), timely=st.booleans())
    def test_a_completed_job_is_found_although_the_deadline_has_passed(self, seconds: float, timely: bool) -> None:
        first = status() if timely else refused(sent=True)
        poller = StatusPoller(new_context(), "ext_1", seen=True)
        outcome, _ = play(poller.result(), [status(), stopped(first, seconds), reply(DONE)])
        assert isinstance(outcome, Status)
        assert poller.context.time_left > 0, "the image can be downloaded"

    @given(seconds=st.floats(700, 1e6))
    def test_a_job_that_still_runs_gets_a_last_look_and_the_error_reports_the_standstill(self, seconds: float) -> None:
        answers = chain([status(), stopped(refused(sent=True), seconds)], repeat(status()))
        outcome, at = play(StatusPoller(new_context(), "ext_1", seen=True).result(), answers)
        assert isinstance(outcome, errors.WaitTimeout)
        assert f"{seconds:.0f} s of the time" in str(outcome) or f"{seconds - 1:.0f}" in str(outcome)
        assert "umrgen wait ext_1" in (outcome.next or "")
        assert at <= 2 + 55 + seconds + 11, "a call has one last look"

    def test_the_deadline_is_extended_once(self) -> None:
        answers = [status(), *repeat(stopped(refused(sent=True), 1000), 3)]
        outcome, at = play(StatusPoller(new_context(), "ext_1", seen=True).result(), answers)
        assert isinstance(outcome, errors.WaitTimeout)
        assert at < 2200

    @given(seconds=st.floats(0, 1e6))
    def test_a_standstill_is_not_counted_as_a_failure(self, seconds: float) -> None:
        """Without a deadline: the server is unreachable just after the process continues."""
        answers = [status(), refused(sent=True), stopped(refused(sent=True), seconds), refused(), reply(DONE)]
        outcome, _ = play(StatusPoller(new_context(timeout=None), "ext_1", seen=True).result(), answers)
        assert isinstance(outcome, Status)

    @given(seconds=st.floats(100, 1e6))
    def test_a_standstill_is_no_stall_of_the_job(self, seconds: float) -> None:
        flow = StatusPoller(new_context(timeout=None, on_stall="raise"), "ext_1", seen=True).result()
        outcome, _ = play(flow, [status(), stopped(refused(sent=True), seconds), status(), reply(DONE)])
        assert isinstance(outcome, Status)

    def test_a_submit_is_repeated_under_its_key_after_its_deadline_has_passed(self) -> None:
        flow = submit(new_context(), {"prompt": "x"}, "key-1")
        outcome, _ = play(flow, [stopped(refused(sent=True), 3600), HEALTHY, CREATED])
        assert outcome.job_id == "ext_1"

    def test_the_status_calls_of_many_jobs_are_not_sent_in_a_burst(self) -> None:
        """On an older server, each job has its own calls. After an hour, all of them would be due."""

        def delays(standstill: float) -> list[float]:
            poller = BatchPoller(new_context(timeout=None), [f"ext_{n}" for n in range(20)])
            sent: list[float] = []

            def answer(step: Any) -> Any:
                sent.append(step.delay)
                return stopped(refused(sent=True), standstill)(step) if len(sent) == 30 else status()

            play(poller.next_finished(), chain([reply("", 404)], repeat(answer, 60), [reply(DONE)]))
            return [round(delay, 6) for delay in sent]

        assert delays(3600) == delays(0), "as after a request that timed out"

    def test_an_ordinary_delay_is_no_standstill(self) -> None:
        outcome, _ = play(
            StatusPoller(new_context(timeout=30), "ext_1", seen=True).result(), chain([status()], repeat(status()))
        )
        assert "stopped" not in str(outcome)


class TestStatusHandling:
    def test_a_stall_is_reported_once_and_the_wait_continues(self) -> None:
        events: list[Event] = []
        played = wait([*[status()] * 60, reply(DONE)], events)
        assert isinstance(played.outcome, Status)
        assert [event.kind for event in events].count("stalled") == 1

    def test_a_stall_is_raised_when_the_option_is_set(self) -> None:
        played = wait(repeat(status()), on_stall="raise", stall_after=30)
        assert isinstance(played.outcome, errors.JobStalled)
        assert 30 <= played.sent[-1].at < 33

    def test_progress_resets_the_stall_timer(self) -> None:
        steps = [status("running", progress={"step": n, "total": 99}) for n in range(99)]
        assert isinstance(wait([*steps, reply(DONE)], on_stall="raise").outcome, Status)

    def test_an_unknown_state_is_reported_once_and_the_wait_continues(self) -> None:
        events: list[Event] = []
        played = wait([status("paused"), status("paused"), reply(DONE)], events)
        assert isinstance(played.outcome, Status)
        assert [event.kind for event in events].count("unknown_state") == 1

    def test_a_running_job_may_be_queued_again(self) -> None:
        assert isinstance(wait([status("running"), status("queued"), status("running"), reply(DONE)]).outcome, Status)

    def test_a_deleted_job_has_another_code_than_an_unknown_one(self) -> None:
        missing = reply({"error": "Job not found"}, 404)
        never, gone = wait([missing]).outcome, wait([status(), missing]).outcome
        assert isinstance(never, errors.JobNotFound)
        assert isinstance(gone, errors.JobNotFound)
        assert (never.code, gone.code) == ("job_not_found", "job_gone")

    def test_completed_without_an_image_is_polled_again(self) -> None:
        empty = status("completed", results={"images": []}, image_url=None)
        assert isinstance(wait([empty, reply(DONE)]).outcome, Status)
        played = wait([empty, empty])
        assert isinstance(played.outcome, errors.OutputMissing)
        assert gaps(played) == [2.0]

    def test_the_image_is_read_from_the_results_of_an_older_server(self) -> None:
        played = wait([status("completed", results={"images": [{"url": IMAGE}]})])
        assert isinstance(played.outcome, Status)
        assert played.outcome.image_url == IMAGE

    def test_a_failed_job_is_raised_with_its_reason(self) -> None:
        failed = wait([status("failed", error="out of memory", error_code="engine_failed")]).outcome
        assert isinstance(failed, errors.JobFailed)
        assert (str(failed), failed.code) == ("out of memory", "engine_failed")


CREATED = reply({"success": True, "job_id": "ext_1"}, 202)
HEALTHY = reply({"status": "ok", "server": "umrgen"})
OLD = reply("<html>Cannot GET /healthz</html>", 404)


def make(answers: Any, events: list[Event] | None = None, wait_for_slot: bool = False, **options: Any) -> FlowRun[Any]:
    return run_flow(
        submit(new_context(events, **options), {"prompt": "x"}, "key-1", wait_for_slot=wait_for_slot), answers
    )


class TestSubmitting:
    def test_a_submit_sends_an_idempotency_key(self) -> None:
        played = make([CREATED])
        assert played.outcome.job_id == "ext_1"
        assert played.sent[0].step.headers["Idempotency-Key"] == "key-1"

    def test_an_unsent_submit_is_repeated_under_the_same_key(self) -> None:
        played = make([refused(), refused(), CREATED])
        assert played.outcome.job_id == "ext_1"
        assert {sent.step.headers["Idempotency-Key"] for sent in played.sent} == {"key-1"}

    @pytest.mark.parametrize("failure", [refused(sent=True), reply("", 500), reply("<html>", 502), reply("", 504)])
    def test_a_sent_submit_is_repeated_only_with_idempotency_support(self, failure: Any) -> None:
        assert make([failure, HEALTHY, CREATED]).outcome.job_id == "ext_1"
        played = make([failure, OLD, OLD])
        assert isinstance(played.outcome, errors.UmrgenError)
        assert played.outcome.sent
        assert "may have been created" in played.outcome.next
        assert [sent.step.method for sent in played.sent] == ["POST", "GET", "GET"]

    def test_a_sent_submit_is_not_repeated_before_support_is_known(self) -> None:
        played = make([refused(sent=True), refused(), refused(), HEALTHY, CREATED])
        assert [sent.step.method for sent in played.sent] == ["POST", "GET", "GET", "GET", "POST"]

    def test_a_503_with_a_code_is_retried_directly(self) -> None:
        draining = reply({"success": False, "error": "stopping", "code": "draining"}, 503, {"Retry-After": "5"})
        played = make([draining, CREATED])
        assert gaps(played) == [pytest.approx(5.25, abs=0.3)]

    @pytest.mark.parametrize(("member", "limited"), [({}, True), ({"status_url": "/api/v1/status/ext_1"}, False)])
    def test_the_request_budget_applies_to_older_servers(self, member: dict[str, str], limited: bool) -> None:
        context = new_context()
        run_flow(submit(context, {"prompt": "x"}, "key-1"), [reply({"success": True, "job_id": "ext_1"} | member, 202)])
        assert context.budget.limited is limited

    def test_a_rate_limited_submit_is_retried_until_the_deadline(self) -> None:
        limited = reply({"error": "slow down"}, 429, {"Retry-After": "20"})
        assert gaps(make([limited, limited, CREATED])) == [pytest.approx(21, abs=1.1)] * 2

    def test_a_concurrency_limit_is_raised_or_waited_for(self) -> None:
        taken = reply({"error": "CONCURRENT_LIMIT", "job_id": "ext_9"}, 429)
        refusal = make([taken]).outcome
        assert isinstance(refusal, errors.ConcurrencyLimit)
        assert refusal.job_id == "ext_9"
        played = make([taken, status(), reply(DONE), CREATED], wait_for_slot=True)
        assert played.outcome.job_id == "ext_1"
        assert [sent.step.path for sent in played.sent][1:3] == ["/api/v1/status/ext_9"] * 2

    def test_a_timeout_of_the_wait_for_a_slot_is_not_reported_as_an_earlier_failure(self) -> None:
        taken = reply({"error": "CONCURRENT_LIMIT", "job_id": "ext_9"}, 429)
        queued = chain([refused(), taken], repeat(status("queued")))
        played = make(queued, wait_for_slot=True, queue_timeout=20)
        assert isinstance(played.outcome, errors.WaitTimeout)

    def test_an_unreachable_server_is_reported_within_the_submit_budget(self) -> None:
        played = make(repeat(refused()))
        assert isinstance(played.outcome, errors.ConnectionFailed)
        assert not played.outcome.sent
        assert played.sent[-1].at <= Options().submit_patience

    def test_a_response_without_a_job_id_is_not_umrgen(self) -> None:
        assert isinstance(make([reply({"success": True})]).outcome, errors.NotUmrgen)
        assert isinstance(make([reply("<html>")]).outcome, errors.NotUmrgen)


def batch(jobs: list[dict[str, Any]], cursor: str = "1", unknown: list[str] | None = None, **more: Any) -> Reply:
    headers = {"Preference-Applied": "wait=25"}
    return reply({"jobs": jobs, "cursor": cursor, "unknown": unknown or []}, 200, headers, **more)


class TestBatchPoller:
    def all(self, job_ids: list[str], answers: Any, **options: Any) -> tuple[dict[str, Any], list[FlowRun[Any]]]:
        poller, plays, outcomes = BatchPoller(new_context(**options), job_ids), [], {}
        responses = iter(answers)
        while poller.pending:
            played = run_flow(poller.next_finished(), responses, start=poller.context.now)
            plays.append(played)
            if isinstance(played.outcome, errors.UmrgenError):
                raise played.outcome
            outcomes |= played.outcome
        return outcomes, plays

    def test_batch_calls_are_used_when_supported(self) -> None:
        done = [DONE | {"job_id": f"ext_{n}"} for n in range(3)]
        outcomes, plays = self.all(
            ["ext_0", "ext_1", "ext_2", "ext_9"],
            [batch([done[1]], "5", ["ext_9"]), batch([], "5", elapsed=25.0), batch([done[0], done[2]], "7")],
        )
        assert list(outcomes) == ["ext_1", "ext_9", "ext_0", "ext_2"]
        assert isinstance(outcomes["ext_9"], errors.JobNotFound)
        steps = [sent.step for played in plays for sent in played.sent]
        assert {step.path for step in steps} == {"/api/v1/status"}
        assert b'"since": "5"' in (steps[1].body or b"")

    def test_on_an_older_server_the_oldest_job_is_polled_most_often(self) -> None:
        numbers = iter(range(1000))

        def answer(step: Any) -> Reply:
            if step.method == "POST":
                return reply("<html>Cannot POST</html>", 404)
            number = next(numbers)
            return reply(DONE) if step.path.endswith("ext_0") and number > 20 else status()

        poller = BatchPoller(new_context(), ["ext_0", "ext_1", "ext_2"])
        played = run_flow(poller.next_finished(), repeat(answer))
        polled = [sent.step.path[-5:] for sent in played.sent[1:]]
        assert polled.count("ext_0") > polled.count("ext_1") > polled.count("ext_2") > 0
        assert list(played.outcome) == ["ext_0"]

    def test_single_calls_share_one_request_budget(self) -> None:
        answer = lambda step: reply("<html>", 404) if step.method == "POST" else status()  # noqa: E731
        poller = BatchPoller(new_context(timeout=300, requests_a_minute=20), [f"ext_{n}" for n in range(40)])
        played = run_flow(poller.next_finished(), repeat(answer))
        assert isinstance(played.outcome, errors.WaitTimeout)
        times = [sent.at for sent in played.sent]
        assert all(later - earlier >= 59.9 for earlier, later in zip(times[1:], times[21:], strict=False))
