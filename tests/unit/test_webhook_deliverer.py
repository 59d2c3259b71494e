"""The courier on a clock that leaps: days of deliveries in a moment, on the real ledger's SQL."""

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
    """The loop's own time, and a wall clock that goes with it until somebody sets it."""

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
    """Takes `seconds` for each message, and answers as `receiving` says of the n-th one (from 1)."""

    receiving: Receiving = lambda number: Response(204)
    seconds: float = 0.1
    sent: list[tuple[float, str, dict[str, str], bytes]] = field(default_factory=list)
    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        self.sent.append((asyncio.get_running_loop().time(), url, dict(headers), body))
        answer = self.receiving(len(self.sent))
        for name in (url, "all"):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.now.subtract((url, "all"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        pass


class Desk:
    """A courier at work."""

    def __init__(self, carrier: Sender) -> None:
        self.carrier = carrier
        self.ledger = MemoryLedger()
        self.clock = LoopClock()
        self.deliverer = self.hire()

    def hire(self) -> WebhookDeliverer:
        self.deliverer = WebhookDeliverer(
            self.ledger.webhooks,
            self.ledger.jobs,
            self.ledger.keys,
            self.clock,
            Allow(),
            TaskLease(self.ledger.coordination, "webhooks", "worker", self.clock),
            random=lambda: 0.5,
            sender=self.carrier,
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
            while (webhook := await self.webhook(job_id)).state is WebhookState.PENDING:  # noqa: ASYNC110 - on a clock that leaps
                await asyncio.sleep(3)
        return webhook


def play(story: Callable[[Desk], Coroutine[Any, Any, None]], carrier: Sender | None = None) -> Sender:
    """Tell a story on a clock that leaps; give what was sent."""
    carrier = carrier or Sender()

    async def told() -> None:
        desk = Desk(carrier)
        await desk.open()
        try:
            await story(desk)
        finally:
            await desk.deliverer.stop(0)
            desk.ledger.discard()

    loop = LeapingLoop()
    try:
        loop.run_until_complete(told())
    finally:
        loop.close()
    return carrier


class TestPatience:
    def test_the_delays_grow_to_a_day(self) -> None:
        at, attempts, times = 0, 1, []
        while (following := next_try(attempts, 0, at, asked=None, random=0.5)) is not None:
            times.append((following - at) // 1000)
            at, attempts = following, attempts + 1
        assert times == [5, 30, 120, 600, 1800, 3600, 7200, *[14400] * 5]
        assert DAY_MS - at < 14_400_000

    @given(st.integers(1, 99), st.integers(0, DAY_MS), st.none() | st.floats(0, 1e9), st.floats(0, 1))
    def test_it_is_never_at_once_and_never_after_the_day(
        self, attempts: int, now: int, asked: float | None, chance: float
    ) -> None:
        at = next_try(attempts, 0, now, asked=asked, random=chance)
        if at is None:
            assert now + 1.2 * DELAYS[-1] * 1000 > DAY_MS
        else:
            assert now + 4000 <= at <= DAY_MS
            assert at - now <= 1.2 * DELAYS[-1] * 1000 + 1
            assert asked is None or at - now >= min(asked, DELAYS[-1]) * 1000

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
        ],
    )
    def test_both_forms_of_retry_after(self, value: str, seconds: float | None) -> None:
        assert retry_after(value, START) == seconds


class TestDelivering:
    def test_each_message_is_sent_once_as_soon_as_its_job_is_over(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            assert await desk.over("ext_1") == await desk.webhook("ext_1")
            await asyncio.sleep(100_000)
            await desk.end_job("ext_2")
            webhook = await desk.over("ext_2")
            assert (webhook.state, webhook.attempts, webhook.last_error) == (WebhookState.DELIVERED, 1, None)
            assert webhook.delivered_at is not None
            await asyncio.sleep(100_000)

        carrier = play(story)
        assert [round(at, 3) for at, *_ in carrier.sent] == [0, pytest.approx(100_000, abs=5)]

    def test_a_receiver_that_is_down_for_hours_gets_the_same_message_in_the_end(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            webhook = await desk.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 8)

        errors: list[Response | Exception] = [
            Response(500),
            Response(404),
            TransientFailure("no route"),
            OSError("a bug"),
        ]
        carrier = play(story, Sender(lambda number: errors[number % 4] if number < 8 else Response(200)))
        assert len({(headers["webhook-id"], body) for _, _, headers, body in carrier.sent}) == 1
        for at, _, headers, body in carrier.sent:
            assert abs(int(headers["webhook-timestamp"]) - START // 1000 - at) < 2, "each attempt is signed anew"
            assert json.loads(body)["type"] == "job.failed"

    @pytest.mark.slow
    def test_after_a_day_it_is_given_up(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            webhook = await desk.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 13)
            assert webhook.last_error == "the receiver responded 503; a day has passed since the job's end"
            await asyncio.sleep(100_000)

        assert len(play(story, Sender(lambda number: Response(503))).sent) == 13

    def test_a_receiver_may_ask_for_more_time(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await desk.over("ext_1")

        answers = {
            1: Response(429, "600"),
            2: Response(503, "999999"),
            3: Response(503, "0"),
            4: Response(204),
        }
        times = [at for at, *_ in play(story, Sender(answers.__getitem__)).sent]
        waits = [round(after - before) for before, after in pairwise(times)]
        assert waits == [600, 14400, 120]

    @pytest.mark.parametrize("answer", [Response(410), PermanentFailure("not public")])
    def test_some_answers_are_final(self, answer: Response | Exception) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            webhook = await desk.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 1)

        assert len(play(story, Sender(lambda number: answer)).sent) == 1

    def test_a_revoked_keys_webhooks_are_not_sent(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await asyncio.sleep(1)
            assert (await desk.webhook("ext_1")).attempts == 1
            await desk.ledger.keys.revoke("key_1", now=desk.clock.now())
            webhook = await desk.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.FAILED, 1)
            assert webhook.last_error == "the key that made the job is revoked"

        assert len(play(story, Sender(lambda number: Response(500))).sent) == 1

    def test_every_message_is_signed_with_its_own_keys_secret(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await desk.over("ext_1")

        ((_, _, headers, body),) = play(story).sent
        assert headers["webhook-id"].encode() not in body
        key = hmac_data(KEY.hash, b"umrgen webhook")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac_data(key, signed)).decode()


class TestBounds:
    def test_few_at_once_and_fewer_to_one_host(self) -> None:
        async def story(desk: Desk) -> None:
            for number in range(60):
                await desk.end_job(f"ext_{number}", f"https://{'abcdef'[number % 6]}.example/", f"sid_{number % 5}")
            for number in range(60):
                assert (await desk.over(f"ext_{number}")).state is WebhookState.DELIVERED

        carrier = play(story, Sender(seconds=5))
        assert len(carrier.sent) == 60
        assert carrier.most.pop("all") == 8
        assert set(carrier.most.values()) == {2}

    def test_slow_receivers_of_one_caller_hold_up_no_other(self) -> None:
        async def story(desk: Desk) -> None:
            for number in range(40):
                await desk.end_job(f"ext_{number}", f"https://slow{number}.example/", "sid_a")
            await desk.end_job("ext_b", "https://quick.example/", "sid_b")
            webhook = await desk.over("ext_b")
            assert webhook.delivered_at is not None
            assert webhook.delivered_at - webhook.created_at < 11_000

        assert play(story, Sender(seconds=10)).most["all"] == 5


class TestTrouble:
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
    def test_a_ledger_that_fails_for_a_while_loses_nothing(
        self, store: str, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = 0

        async def story(desk: Desk) -> None:
            working = getattr(getattr(desk.ledger, store), method)

            async def failing(*args: Any, **kwargs: Any) -> Any:
                nonlocal tried
                tried += 1
                if asyncio.get_running_loop().time() < 60:
                    raise LedgerUnavailable("the disk is full")
                return await working(*args, **kwargs)

            monkeypatch.setattr(getattr(desk.ledger, store), method, failing)
            await desk.end_job("ext_1")
            webhook = await desk.over("ext_1")
            assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 1)

        carrier = play(story)
        assert len(carrier.sent) == 1, "what has arrived is not sent again"
        assert 0 < tried < 200, "it is tried again, and not in a rush"

    def test_a_courier_that_stops_leaves_what_has_not_arrived_to_the_next(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await asyncio.sleep(1)
            stopping = asyncio.get_running_loop().time()
            await desk.deliverer.stop(3)
            assert asyncio.get_running_loop().time() - stopping == pytest.approx(3)
            assert (await desk.webhook("ext_1")).attempts == 0
            desk.carrier.seconds = 1
            desk.hire().start()
            assert (await desk.over("ext_1")).attempts == 1

        carrier = play(story, Sender(seconds=100))
        assert len({headers["webhook-id"] for _, _, headers, _ in carrier.sent}) == 1

    def test_what_arrives_while_it_stops_is_noted(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await asyncio.sleep(1)
            await desk.deliverer.stop(60)
            assert (await desk.webhook("ext_1")).state is WebhookState.DELIVERED

        play(story, Sender(seconds=30))

    def test_a_second_order_to_stop_is_obeyed_at_once(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_later(2, desk.deliverer.stop_now)
            await desk.deliverer.stop(60)
            assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.5)
            await asyncio.sleep(100)
            assert len(desk.carrier.sent) == 1

        play(story, Sender(seconds=30))

    def test_one_that_waited_out_its_day_while_the_server_was_down_is_tried_once_more(self) -> None:
        async def story(desk: Desk) -> None:
            await desk.deliverer.stop(0)
            await desk.end_job("ext_1")
            await asyncio.sleep(200_000)
            desk.hire().start()
            assert (await desk.over("ext_1")).state is WebhookState.DELIVERED

        play(story)

    @pytest.mark.parametrize("hours", [-1000, 20])
    def test_a_clock_that_is_set_holds_nothing_back(self, hours: int) -> None:
        async def story(desk: Desk) -> None:
            await desk.end_job("ext_1")
            await asyncio.sleep(1)
            desk.clock.set_by = hours * 3_600_000
            assert (await desk.over("ext_1")).state is WebhookState.DELIVERED
            assert asyncio.get_running_loop().time() < 100

        assert len(play(story, Sender(lambda number: Response(500 if number == 1 else 204))).sent) == 2
