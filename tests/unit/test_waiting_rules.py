"""The waiting rules, played without a clock or a socket: what is sent, when, and what comes of it."""

from collections.abc import Callable, Mapping
from itertools import pairwise, repeat
from typing import Any

import pytest

from umrgen import errors
from umrgen.client.flow import CallContext, Event, Options, Reply, TransportFailure
from umrgen.client.flows.submit import submit
from umrgen.client.flows.wait import Watch
from umrgen.client.flows.wait_many import WatchMany
from umrgen.model import Status
from umrgen.testing import Played, play, reply

IMAGE = "/outputs/s/a.png?session_id=s"
DONE = {"state": "completed", "image_url": IMAGE}


def run(events: list[Event] | None = None, **options: Any) -> CallContext:
    notify: Callable[[Event], None] = (lambda event: None) if events is None else events.append
    return CallContext(Options(**options), 0.0, notify=notify, random=lambda: 0.5)


def refused(at: float = 0.0, *, sent: bool = False) -> TransportFailure:
    return TransportFailure("connection refused", at=at, sent=sent)


def status(
    state: str = "running", headers: Mapping[str, str] | None = None, elapsed: float = 0.0, **more: Any
) -> Reply:
    return reply({"state": state} | more, 200, headers, elapsed=elapsed)


def wait(answers: Any, events: list[Event] | None = None, **options: Any) -> Played[Status]:
    return play(Watch(run(events, **options), "ext_1").result(), answers)


def gaps(played: Played[Any]) -> list[float]:
    return [round(later.at - earlier.at, 3) for earlier, later in pairwise(played.sent)]


class TestPace:
    def test_without_a_word_every_3_s_while_queued_and_2_s_while_running(self) -> None:
        played = wait([status("queued"), status("queued"), status(), status(), reply(DONE)])
        assert gaps(played) == [3.0, 3.0, 2.0, 2.0]
        assert isinstance(played.outcome, Status)

    @pytest.mark.parametrize("chance", [0.0, 0.999])
    def test_the_two_intervals_vary_by_a_tenth(self, chance: float) -> None:
        vary = CallContext(Options(), 0.0, random=lambda: chance)
        played = play(Watch(vary, "ext_1").result(), [status("queued"), status(), reply(DONE)])
        expected = [3.0 * (0.9 + 0.2 * chance), 2.0 * (0.9 + 0.2 * chance)]
        assert gaps(played) == [pytest.approx(gap, abs=0.001) for gap in expected]

    def test_a_server_that_holds_is_asked_again_at_once(self) -> None:
        held = {"Preference-Applied": "wait=25"}
        played = wait([status("queued", held, 25.0), status("running", held, 25.0), reply(DONE, 200, held)])
        assert gaps(played) == [25.0, 25.0]
        assert {sent.step.headers["Prefer"] for sent in played.sent} == {"wait=25"}

    def test_a_server_that_says_it_holds_and_does_not_is_not_stormed(self) -> None:
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
    def test_the_servers_word_wins(self, headers: dict[str, str], more: dict[str, Any], gap: float) -> None:
        played = wait([status("running", headers, **more), reply(DONE)])
        assert gaps(played)[0] == pytest.approx(gap, rel=0.051)

    def test_every_change_is_asked_for_by_version(self) -> None:
        tagged = {"ETag": '"1"'}
        played = play(Watch(run(), "ext_1").next_change(), [status("queued", tagged)])
        assert "Prefer" not in played.sent[0].step.headers, "the first look is not held"
        watch = Watch(run(), "ext_1")
        play(watch.next_change(), [status("queued", tagged)])
        second = play(watch.next_change(), [status("running", {"ETag": '"2"'}, 4.0)])
        assert second.sent[0].step.headers == {"Prefer": "wait=25", "If-None-Match": '"1"'}

    def test_a_304_is_no_change(self) -> None:
        watch = Watch(run(), "ext_1")
        play(watch.next_change(), [status("queued", {"ETag": '"1"'})])
        held = {"Preference-Applied": "wait=25", "ETag": '"1"'}
        played = play(watch.next_change(), [reply(b"", 304, held, elapsed=25.0), status("running")])
        assert played.outcome == Status("ext_1", "running")
        assert gaps(played) == [25.0]


class TestPatience:
    def test_a_status_outlasts_minutes_of_trouble(self) -> None:
        trouble = [refused(), reply("", 500), reply("<html>", 502), reply("", 503), reply("", 504), refused(sent=True)]
        played = wait([*trouble, reply("<html>tunnel</html>"), reply('{"state": "run'), reply(DONE)])
        assert isinstance(played.outcome, Status)
        assert gaps(played)[:6] == [pytest.approx(0.525 * 2**n, abs=0.01) for n in range(5)] + [pytest.approx(15.75)]

    def test_it_ends_and_says_so(self) -> None:
        played = wait(repeat(refused()), patience=300)
        assert isinstance(played.outcome, errors.ConnectionFailed)
        assert played.outcome.job_id == "ext_1"
        assert 280 < played.sent[-1].at <= 300

    def test_a_good_answer_starts_it_anew(self) -> None:
        answers = [*[refused()] * 15, status(), *[refused()] * 15, reply(DONE)]
        assert isinstance(wait(answers, patience=200).outcome, Status)

    def test_retry_after_of_a_503_is_kept_to_within_reason(self) -> None:
        for asked, gap in (("9", 9.0), ("86400", 60.0), ("0", 0.5)):
            played = wait([reply("", 503, {"Retry-After": asked}), reply(DONE)])
            assert gaps(played)[0] == pytest.approx(gap, rel=0.06)

    def test_a_429_is_waited_out(self) -> None:
        limited = reply({"error": "too many"}, 429)
        played = wait([limited, limited, limited, reply(DONE)])
        assert isinstance(played.outcome, Status)
        assert gaps(played) == [pytest.approx(gap, rel=0.06) for gap in (6, 12, 24)]

    def test_a_server_never_understood_is_not_umrgen(self) -> None:
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
    def test_what_will_not_pass_is_raised_at_once(self, answer: Reply, kind: type[Exception]) -> None:
        played = wait([answer])
        assert type(played.outcome) is kind
        assert len(played.sent) == 1


class TestTheDeadline:
    def test_it_is_kept_and_names_the_job(self) -> None:
        played = wait(repeat(status()), timeout=10)
        assert isinstance(played.outcome, errors.WaitTimeout)
        assert f"umrgen wait {played.outcome.job_id}" in played.outcome.next
        assert played.sent[-1].at < 10

    def test_requests_are_cut_to_what_is_left(self) -> None:
        held = {"Preference-Applied": "wait=25"}
        played = wait(repeat(status("running", held, 25.0)), timeout=40)
        for sent in played.sent:
            assert sent.step.timeout <= 40 - sent.at
        assert [sent.step.headers.get("Prefer") for sent in played.sent] == ["wait=25", "wait=14"]

    def test_the_time_in_the_queue_has_its_own(self) -> None:
        played = wait(repeat(status("queued")), queue_timeout=10)
        assert isinstance(played.outcome, errors.WaitTimeout)
        assert played.outcome.code == "queue_timeout"
        assert 9 <= played.sent[-1].at <= 12.1

    def test_held_calls_are_cut_to_it_too(self) -> None:
        played = wait([lambda step: status("queued", {"Preference-Applied": "wait=10"}, 10.0)] * 3, queue_timeout=10)
        assert played.sent[0].step.headers["Prefer"] == "wait=10"

    def test_without_one_it_waits_on(self) -> None:
        played = wait([*[status("running", {"Retry-After": "60"})] * 200, reply(DONE)], timeout=None)
        assert isinstance(played.outcome, Status)


class TestWhatAStatusMeans:
    def test_a_stall_is_told_once_and_ends_nothing(self) -> None:
        events: list[Event] = []
        played = wait([*[status()] * 60, reply(DONE)], events)
        assert isinstance(played.outcome, Status)
        assert [event.kind for event in events].count("stalled") == 1

    def test_a_stall_may_be_raised(self) -> None:
        played = wait(repeat(status()), on_stall="raise", stall_after=30)
        assert isinstance(played.outcome, errors.JobStalled)
        assert 30 <= played.sent[-1].at < 33

    def test_progress_is_no_stall(self) -> None:
        steps = [status("running", progress={"step": n, "total": 99}) for n in range(99)]
        assert isinstance(wait([*steps, reply(DONE)], on_stall="raise").outcome, Status)

    def test_an_unknown_state_is_waited_through(self) -> None:
        events: list[Event] = []
        played = wait([status("paused"), status("paused"), reply(DONE)], events)
        assert isinstance(played.outcome, Status)
        assert [event.kind for event in events].count("unknown_state") == 1

    def test_a_state_may_go_backwards(self) -> None:
        assert isinstance(wait([status("running"), status("queued"), status("running"), reply(DONE)]).outcome, Status)

    def test_gone_is_told_from_never_known(self) -> None:
        missing = reply({"error": "Job not found"}, 404)
        never, gone = wait([missing]).outcome, wait([status(), missing]).outcome
        assert isinstance(never, errors.JobNotFound)
        assert isinstance(gone, errors.JobNotFound)
        assert (never.code, gone.code) == ("job_not_found", "job_gone")

    def test_completed_without_an_image_gets_one_more_look(self) -> None:
        empty = status("completed", results={"images": []}, image_url=None)
        assert isinstance(wait([empty, reply(DONE)]).outcome, Status)
        played = wait([empty, empty])
        assert isinstance(played.outcome, errors.OutputMissing)
        assert gaps(played) == [2.0]

    def test_an_old_servers_first_minute(self) -> None:
        played = wait([status("completed", results={"images": [{"url": IMAGE}]})])
        assert isinstance(played.outcome, Status)
        assert played.outcome.image_url == IMAGE

    def test_failed_is_raised_with_its_reason(self) -> None:
        failed = wait([status("failed", error="out of memory", error_code="engine_failed")]).outcome
        assert isinstance(failed, errors.JobFailed)
        assert (str(failed), failed.code) == ("out of memory", "engine_failed")


RECEIPT = reply({"success": True, "job_id": "ext_1"}, 202)
HEALTHY = reply({"status": "ok"})
OLD = reply("<html>Cannot GET /healthz</html>", 404)


def make(answers: Any, events: list[Event] | None = None, wait_for_slot: bool = False, **options: Any) -> Played[Any]:
    return play(submit(run(events, **options), {"prompt": "x"}, "key-1", wait_for_slot=wait_for_slot), answers)


class TestSubmitting:
    def test_once_and_under_a_key(self) -> None:
        played = make([RECEIPT])
        assert played.outcome["job_id"] == "ext_1"
        assert played.sent[0].step.headers["Idempotency-Key"] == "key-1"

    def test_what_never_arrived_is_sent_again_under_the_same_key(self) -> None:
        played = make([refused(), refused(), RECEIPT])
        assert played.outcome["job_id"] == "ext_1"
        assert {sent.step.headers["Idempotency-Key"] for sent in played.sent} == {"key-1"}

    @pytest.mark.parametrize("trouble", [refused(sent=True), reply("", 500), reply("<html>", 502), reply("", 504)])
    def test_what_may_have_arrived_is_repeated_only_where_keys_are_kept(self, trouble: Any) -> None:
        assert make([trouble, HEALTHY, RECEIPT]).outcome["job_id"] == "ext_1"
        played = make([trouble, OLD])
        assert isinstance(played.outcome, errors.UmrgenError)
        assert played.outcome.sent
        assert "may have been made" in played.outcome.next
        assert [sent.step.method for sent in played.sent] == ["POST", "GET"]

    def test_while_that_is_unknown_nothing_is_repeated(self) -> None:
        played = make([refused(sent=True), refused(), refused(), HEALTHY, RECEIPT])
        assert [sent.step.method for sent in played.sent] == ["POST", "GET", "GET", "GET", "POST"]

    def test_a_refusal_with_a_code_is_sent_again(self) -> None:
        draining = reply({"success": False, "error": "stopping", "code": "draining"}, 503, {"Retry-After": "5"})
        played = make([draining, RECEIPT])
        assert gaps(played) == [pytest.approx(5.25, abs=0.3)]

    def test_a_rate_limit_is_waited_out(self) -> None:
        limited = reply({"error": "slow down"}, 429, {"Retry-After": "20"})
        assert gaps(make([limited, limited, RECEIPT])) == [pytest.approx(21, abs=1.1)] * 2

    def test_a_slot_taken_is_said_or_waited_for(self) -> None:
        taken = reply({"error": "CONCURRENT_LIMIT", "job_id": "ext_9"}, 429)
        refusal = make([taken]).outcome
        assert isinstance(refusal, errors.ConcurrencyLimit)
        assert refusal.job_id == "ext_9"
        played = make([taken, status(), reply(DONE), RECEIPT], wait_for_slot=True)
        assert played.outcome["job_id"] == "ext_1"
        assert [sent.step.path for sent in played.sent][1:3] == ["/api/v1/status/ext_9"] * 2

    def test_no_answer_at_all_ends_soon(self) -> None:
        played = make(repeat(refused()))
        assert isinstance(played.outcome, errors.ConnectionFailed)
        assert not played.outcome.sent
        assert played.sent[-1].at <= Options().submit_patience

    def test_the_receipt_must_name_a_job(self) -> None:
        assert isinstance(make([reply({"success": True})]).outcome, errors.NotUmrgen)
        assert isinstance(make([reply("<html>")]).outcome, errors.NotUmrgen)


def batch(jobs: list[dict[str, Any]], cursor: str = "1", unknown: list[str] | None = None, **more: Any) -> Reply:
    headers = {"Preference-Applied": "wait=25"}
    return reply({"jobs": jobs, "cursor": cursor, "unknown": unknown or []}, 200, headers, **more)


class TestMany:
    def all(self, job_ids: list[str], answers: Any, **options: Any) -> tuple[dict[str, Any], list[Played[Any]]]:
        many, plays, over = WatchMany(run(**options), job_ids), [], {}
        supply = iter(answers)
        while many.pending:
            played = play(many.next_over(), supply, start=many.run.now)
            plays.append(played)
            if isinstance(played.outcome, errors.UmrgenError):
                raise played.outcome
            over |= played.outcome
        return over, plays

    def test_one_call_for_all_where_the_server_can(self) -> None:
        done = [DONE | {"job_id": f"ext_{n}"} for n in range(3)]
        over, plays = self.all(
            ["ext_0", "ext_1", "ext_2", "ext_9"],
            [batch([done[1]], "5", ["ext_9"]), batch([], "5", elapsed=25.0), batch([done[0], done[2]], "7")],
        )
        assert list(over) == ["ext_1", "ext_9", "ext_0", "ext_2"]
        assert isinstance(over["ext_9"], errors.JobNotFound)
        steps = [sent.step for played in plays for sent in played.sent]
        assert {step.path for step in steps} == {"/api/v1/status"}
        assert b'"since": "5"' in (steps[1].body or b"")

    def test_in_turns_on_an_older_server_the_oldest_most_often(self) -> None:
        finished = iter(range(1000))

        def answer(step: Any) -> Reply:
            if step.method == "POST":
                return reply("<html>Cannot POST</html>", 404)
            number = next(finished)
            return reply(DONE) if step.path.endswith("ext_0") and number > 20 else status()

        many = WatchMany(run(), ["ext_0", "ext_1", "ext_2"])
        played = play(many.next_over(), repeat(answer))
        asked = [sent.step.path[-5:] for sent in played.sent[1:]]
        assert asked.count("ext_0") > asked.count("ext_1") > asked.count("ext_2") > 0
        assert list(played.outcome) == ["ext_0"]

    def test_within_a_budget_for_all_of_them(self) -> None:
        answer = lambda step: reply("<html>", 404) if step.method == "POST" else status()  # noqa: E731
        many = WatchMany(run(timeout=300, requests_a_minute=20), [f"ext_{n}" for n in range(40)])
        played = play(many.next_over(), repeat(answer))
        assert isinstance(played.outcome, errors.WaitTimeout)
        times = [sent.at for sent in played.sent]
        assert all(later - earlier >= 59.9 for earlier, later in zip(times[1:], times[21:], strict=False))
