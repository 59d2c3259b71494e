"""The webhook deliverer in virtual time, with the SQL of the real ledger: days of retries in milliseconds."""

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.leaping import LeapingLoop
from standardwebhooks.webhooks import hmac_data

from umrgen.server.domain.job import Change
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Key, LedgerUnavailable, Webhook, WebhookState
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.webhooks.address_policy import Allow
from umrgen.server.webhooks.deliverer import WebhookDeliverer
from umrgen.server.webhooks.delivery_result import PermanentFailure, TransientFailure
from umrgen.server.webhooks.delivery_result import ReceiverResponse as Response
from umrgen.server.webhooks.retry_schedule import DAY_MS, DELAYS, next_try, retry_after

START = 1_800_000_000_000
KEY = Key("key_1", b"h" * 32, "sid_a", "mine", 0)


class LoopClock:
    """The loop's time, and a wall clock that differs from it by `set_by` milliseconds."""

    set_by = 0

    def now(self) -> int:
        return START + self.set_by + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


Receiving = Callable[[int], Response | Exception]


@dataclass
class Sender:
    """A sender that needs `seconds` for each message; `receiving` returns the response to the n-th (from 1)."""

    receiving: Receiving = lambda number: Response(204)
    seconds: float = 0.1
    sent: list[tuple[float, str, dict[str, str], bytes]] = field(default_factory=list)
    pending: Counter[str] = field(default_factory=Counter)
    most_pending: Counter[str] = field(default_factory=Counter)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        self.sent.append((asyncio.get_running_loop().time(), url, dict(headers), body))
        response = self.receiving(len(self.sent))
        for name in (url, "all"):
            self.pending[name] += 1
            self.most_pending[name] = max(self.most_pending[name], self.pending[name])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.pending.subtract((url, "all"))
        if isinstance(response, Exception):
            raise response
        return response

    async def aclose(self) -> None:
        pass


class Setup:
    """A deliverer with a ledger, a clock and a sender."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.ledger = MemoryLedger()
        self.clock = LoopClock()
        self.attempts: list[WebhookState] = []
        self.deliverer = self.make_deliverer()

    def make_deliverer(self) -> WebhookDeliverer:
        self.deliverer = WebhookDeliverer(
            self.ledger.webhooks,
            self.ledger.jobs,
            self.ledger.keys,
            self.clock,
            Allow(),
            TaskLease(self.ledger.coordination, "webhooks", "worker", self.clock),
            random=lambda: 0.5,
            sender=self.sender,
            on_attempt=self.attempts.append,
        )
        return self.deliverer

    async def open(self) -> None:
        await self.ledger.open(lambda jobs: self.deliverer.notify(jobs))
        await self.ledger.keys.add(KEY)
        self.deliverer.start()

    async def end_job(self, job_id: str, url: str = "https://a.example/", session: str = "sid_a") -> None:
        spec = GenerationRequest("a boat", seed=1, webhook_url=url)
        await self.ledger.jobs.submit(job_id, session, spec, "fake", now=self.clock.now(), key_id="key_1")
        await self.ledger.jobs.change(job_id, Change.CANCEL, now=self.clock.now(), error="no", error_code="cancelled")

    async def webhook(self, job_id: str) -> Webhook:
        return (await self.ledger.webhooks.of_jobs([job_id]))[job_id]

    async def over(self, job_id: str) -> Webhook:
        async with asyncio.timeout(1e6):
            while (webhook := await self.webhook(job_id)).state is WebhookState.PENDING:  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(3)
        return webhook


def play(scenario: Callable[[Setup], Coroutine[Any, Any, None]], sender: Sender | None = None) -> Sender:
    """Run a scenario in virtual time, and return its sender."""
    sender = sender or Sender()

    async def run() -> None:
        setup = Setup(sender)
        await setup.open()
        try:
            await scenario(setup)
        finally:
            await setup.deliverer.stop(0)
            setup.ledger.discard()

    loop = LeapingLoop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return sender


class TestRetrySchedule:
    def test_the_delays_grow_to_a_day(self) -> None:
        at, attempts, times = 0, 1, []
        while (following := next_try(attempts, 0, at, asked=None, random=0.5)) is not None:
            times.append((following - at) // 1000)
            at, attempts = following, attempts + 1
        assert times == [5, 30, 120, 600, 1800, 3600, 7200, *[14400] * 5]
        assert DAY_MS - at < 14_400_000

    @given(st.integers(1, 99), st.integers(0, DAY_MS), st.none() | st.floats(0, 1e9), st.floats(0, 1))
    def test_a_retry_is_at_least_4_s_later_and_within_the_day(
        self, attempts: int, now: int, requested: float | None, jitter: float
    ) -> None:
        at = next_try(attempts, 0, now, asked=requested, random=jitter)
        if at is None:
            assert now + 1.2 * DELAYS[-1] * 1000 > DAY_MS
        else:
            assert now + 4000 <= at <= DAY_MS
            assert at - now <= 1.2 * DELAYS[-1] * 1000 + 1
            assert requested is None or at - now >= min(requested, DELAYS[-1]) * 1000

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("120", 120),
            (" 0 ", 0),
            ("9" * 400, 999_999_999),
            (formatdate(START / 1000 + 90, usegmt=True), 90),
            (formatdate(START / 1000 - 90, usegmt=True), 0),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
            ("Mon, 99 Foo 2026 00:00:00 GMT", None),
            ("²", None),
            ("Jan 99999999999999 12:00:00 2024", None),
            ("Mon, 01 Jan 2024 00:00:00 +9999999999", None),
        ],
    )
    def test_retry_after_is_parsed_in_both_forms(self, value: str, seconds: float | None) -> None:
        assert retry_after(value, START) == seconds

    @given(
        st.text() | st.from_regex(r"[A-Z][a-z]{2},? \d{1,20} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d{1,20}( [-+]?\w{1,12})?")
    )
    def test_any_retry_after_can_be_read_or_is_ignored(self, value: str) -> None:
        seconds = retry_after(value, START)
        assert seconds is None or seconds >= 0
        assert retry_after("Jan 99999999999999 12:00:00 2024", START) is None


class TestDelivering:
    def test_a_message_is_sent_once_at_the_end_of_its_job(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            assert await setup.over("ext_1") == await setup.webhook("ext_1")
            await asyncio.sleep(100_000)
            await setup.end_job("ext_2")
            webhook = await setup.over("ext_2")
            assert (webhook.state, webhook.attempts, webhook.last_error) == (WebhookState.DELIVERED, 1, None)
            assert webhook.delivered_at is not None
            await asyncio.sleep(100_000)

        sender = play(scenario)
        assert [round(at, 3) for at, *_ in sender.sent] == [0, pytest.approx(100_000, abs=5)]

    def test_the_same_message_is_sent_until_the_receiver_accepts_it(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 8)

        errors: list[Response | Exception] = [
            Response(500),
            Response(404),
            TransientFailure("no route"),
            OSError("a defect"),
        ]
        sender = play(scenario, Sender(lambda number: errors[number % 4] if number < 8 else Response(200)))
        assert len({(headers["webhook-id"], body) for _, _, headers, body in sender.sent}) == 1
        for at, _, headers, body in sender.sent:
            assert abs(int(headers["webhook-timestamp"]) - START // 1000 - at) < 2, "each attempt has a new timestamp"
            assert json.loads(body)["type"] == "job.failed"

    @pytest.mark.slow
    def test_a_message_fails_after_a_day(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 13)
            assert webhook.last_error == "the receiver responded 503; a day has passed since the job's end"
            await asyncio.sleep(100_000)

        assert len(play(scenario, Sender(lambda number: Response(503))).sent) == 13

    def test_a_retry_after_of_the_receiver_delays_the_next_attempt(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await setup.over("ext_1")

        answers = {
            1: Response(429, "600"),
            2: Response(503, "999999"),
            3: Response(503, "0"),
            4: Response(204),
        }
        times = [at for at, *_ in play(scenario, Sender(answers.__getitem__)).sent]
        waits = [round(after - before) for before, after in pairwise(times)]
        assert waits == [600, 14400, 120]

    def test_an_unreadable_retry_after_is_a_counted_attempt_with_the_usual_delay(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 4)

        unreadable = Response(503, "Jan 99999999999999 12:00:00 2024")
        times = [
            at for at, *_ in play(scenario, Sender(lambda number: unreadable if number < 4 else Response(204))).sent
        ]
        assert [round(after - before) for before, after in pairwise(times)] == [5, 30, 120]

    @pytest.mark.parametrize("response", [Response(410), PermanentFailure("not public")])
    def test_a_permanent_failure_is_not_retried(self, response: Response | Exception) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 1)

        assert len(play(scenario, Sender(lambda number: response)).sent) == 1

    def test_the_webhooks_of_a_revoked_key_are_not_sent(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await asyncio.sleep(1)
            assert (await setup.webhook("ext_1")).attempts == 1
            await setup.ledger.keys.revoke("key_1", now=setup.clock.now())
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 1)
            assert webhook.last_error == "the key that made the job is revoked"

        assert len(play(scenario, Sender(lambda number: Response(500))).sent) == 1

    def test_a_message_is_signed_with_the_secret_of_its_jobs_key(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await setup.over("ext_1")

        ((_, _, headers, body),) = play(scenario).sent
        assert headers["webhook-id"].encode() not in body
        key = hmac_data(KEY.hash, b"umrgen webhook")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac_data(key, signed)).decode()


class TestConcurrency:
    def test_at_most_8_messages_are_sent_concurrently_and_2_to_one_host(self) -> None:
        async def scenario(setup: Setup) -> None:
            for number in range(60):
                await setup.end_job(f"ext_{number}", f"https://{'abcdef'[number % 6]}.example/", f"sid_{number % 5}")
            for number in range(60):
                assert (await setup.over(f"ext_{number}")).state is WebhookState.DELIVERED

        sender = play(scenario, Sender(seconds=5))
        assert len(sender.sent) == 60
        assert sender.most_pending.pop("all") == 8
        assert set(sender.most_pending.values()) == {2}

    @pytest.mark.parametrize("how", ["stopped", "suspended", "restarted"])
    def test_a_backlog_is_not_sent_to_a_host_all_at_once(self, how: str) -> None:
        """Retries that were spread over minutes are all due when the server goes on."""

        async def scenario(setup: Setup) -> None:
            for number in range(100):
                await setup.end_job(f"ext_{number}", "https://a.example/")
            async with asyncio.timeout(1e6):
                while len(setup.sender.sent) < 100:  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(0.01)
            setup.sender.receiving = lambda number: Response(204)
            await asyncio.sleep(1)
            match how:
                case "stopped":
                    loop = asyncio.get_running_loop()
                    assert isinstance(loop, LeapingLoop)
                    loop.leap(3600)
                case "suspended":
                    setup.clock.set_by += 3_600_000
                    await asyncio.sleep(60)
                case "restarted":
                    await setup.deliverer.stop(0)
                    await asyncio.sleep(3600)
                    setup.make_deliverer().start()
            await setup.end_job("ext_other", "https://b.example/", "sid_b")
            webhook = await setup.over("ext_other")
            assert webhook.delivered_at is not None
            assert webhook.delivered_at - webhook.created_at <= 1000, "a backlog delays no other host"
            for number in range(100):
                assert (await setup.over(f"ext_{number}")).state is WebhookState.DELIVERED

        sender = play(scenario, Sender(lambda number: Response(500), seconds=0.01))
        times = [at for at, url, _, _ in sender.sent[100:] if "a.example" in url]
        assert len(times) == 100
        for first, sixth in zip(times, times[5:], strict=False):
            assert sixth - first >= 0.99, "five a second"
        assert times[-1] - times[0] < 40, "and not much slower"

    def test_slow_receivers_of_one_session_do_not_delay_the_messages_of_another(self) -> None:
        async def scenario(setup: Setup) -> None:
            for number in range(40):
                await setup.end_job(f"ext_{number}", f"https://slow{number}.example/", "sid_a")
            await setup.end_job("ext_b", "https://quick.example/", "sid_b")
            webhook = await setup.over("ext_b")
            assert webhook.delivered_at is not None
            assert webhook.delivered_at - webhook.created_at < 11_000

        assert play(scenario, Sender(seconds=10)).most_pending["all"] == 5


class TestFailures:
    @pytest.fixture(autouse=True)
    def quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL)

    @pytest.mark.parametrize(
        ("store", "method"),
        [
            ("webhooks", "due"),
            ("webhooks", "next_at"),
            ("keys", "get"),
            ("jobs", "get"),
            ("webhooks", "record_attempt"),
        ],
    )
    def test_messages_are_delivered_once_after_the_ledger_has_failed(
        self, store: str, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = 0

        async def scenario(setup: Setup) -> None:
            working = getattr(getattr(setup.ledger, store), method)

            async def failing(*args: Any, **kwargs: Any) -> Any:
                nonlocal tried
                tried += 1
                if asyncio.get_running_loop().time() < 60:
                    raise LedgerUnavailable("the disk is full")
                return await working(*args, **kwargs)

            monkeypatch.setattr(getattr(setup.ledger, store), method, failing)
            await setup.end_job("ext_1")
            webhook = await setup.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 1)

        sender = play(scenario)
        assert len(sender.sent) == 1, "a delivered message is not sent again"
        assert 0 < tried < 200, "the call is retried with a delay"

    def test_a_message_that_a_stop_interrupts_is_sent_by_the_next_deliverer(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await asyncio.sleep(1)
            stopping = asyncio.get_running_loop().time()
            await setup.deliverer.stop(3)
            assert asyncio.get_running_loop().time() - stopping == pytest.approx(3)
            assert (await setup.webhook("ext_1")).attempts == 0
            setup.sender.seconds = 1
            setup.make_deliverer().start()
            assert (await setup.over("ext_1")).attempts == 1

        sender = play(scenario, Sender(seconds=100))
        assert len({headers["webhook-id"] for _, _, headers, _ in sender.sent}) == 1

    def test_a_message_that_is_delivered_during_a_stop_is_recorded(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await asyncio.sleep(1)
            await setup.deliverer.stop(60)
            assert (await setup.webhook("ext_1")).state is WebhookState.DELIVERED

        play(scenario, Sender(seconds=30))

    def test_stop_now_ends_a_stop_without_waiting(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_later(2, setup.deliverer.stop_now)
            await setup.deliverer.stop(60)
            assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.5)
            await asyncio.sleep(100)
            assert len(setup.sender.sent) == 1

        play(scenario, Sender(seconds=30))

    def test_a_message_that_was_due_for_more_than_a_day_while_the_server_was_down_is_tried_once(self) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.deliverer.stop(0)
            await setup.end_job("ext_1")
            await asyncio.sleep(200_000)
            setup.make_deliverer().start()
            assert (await setup.over("ext_1")).state is WebhookState.DELIVERED

        play(scenario)

    @pytest.mark.parametrize("hours", [-1000, 20])
    def test_a_change_of_the_wall_clock_delays_no_retry(self, hours: int) -> None:
        async def scenario(setup: Setup) -> None:
            await setup.end_job("ext_1")
            await asyncio.sleep(1)
            setup.clock.set_by = hours * 3_600_000
            assert (await setup.over("ext_1")).state is WebhookState.DELIVERED
            assert asyncio.get_running_loop().time() < 100

        assert len(play(scenario, Sender(lambda number: Response(500 if number == 1 else 204))).sent) == 2


def test_each_recorded_attempt_is_observed() -> None:
    async def scenario(setup: Setup) -> None:
        await setup.end_job("ext_1")
        await setup.over("ext_1")
        assert setup.attempts == [WebhookState.PENDING, WebhookState.PENDING, WebhookState.DELIVERED]

    play(scenario, Sender(lambda number: Response(503) if number < 3 else Response(204)))
