"""The webhook deliverer: sends due webhooks to their receivers, and records each result.

A message is sent until it has arrived, so a receiver may get it twice: when the server dies between the
answer and its record. Its `webhook-id` is then the same.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Protocol

import msgspec

from umrgen import __version__
from umrgen.server.clock import Clock
from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.ledger import JobStore, Key, KeyStore, LedgerUnavailable, Webhook, WebhookState, WebhookStore
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.webhooks.address_policy import Allow
from umrgen.server.webhooks.delivery_result import Answer, PermanentFailure, TransientFailure, judge
from umrgen.server.webhooks.retry_schedule import FURTHEST, next_try, retry_after
from umrgen.server.webhooks.signing import secret_of, sign

__all__ = ["ConcurrencyLimits", "WebhookDeliverer", "payload"]

log = logging.getLogger(__name__)

AFTER_TROUBLE = 1.0
"""Seconds until a ledger that could not be read or written is tried again."""
LONGEST_REST = 60.0
"""Seconds after which the deliverer looks again even if nothing is due: the clock may have been set."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How much of everything at once."""

    at_once: int = 8
    to_host: int = 2
    of_session: int = 4
    """Receivers of one caller that are slow do not hold up those of the others."""
    seconds: float = 10.0
    """For one attempt, from the look-up of the name to the end of the answer."""
    answer_bytes: int = 64 << 10


class Sender(Protocol):
    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...
    async def aclose(self) -> None: ...


def payload(job: Job, data: Mapping[str, Any]) -> bytes:
    """The message that `job` is over, with the job as it is answered; the same however often it is sent."""
    ended = datetime.fromtimestamp((job.completed_at or 0) / 1000, UTC)
    return msgspec.json.encode(
        {
            "type": f"job.{job.state.value}",
            "timestamp": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
        }
    )


class WebhookDeliverer:
    """Delivers what the ledger says is due, from `start` to `stop`."""

    def __init__(
        self,
        webhooks: WebhookStore,
        jobs: JobStore,
        keys: KeyStore,
        clock: Clock,
        allow: Allow,
        lease: TaskLease,
        *,
        wire: Callable[[Job], Mapping[str, Any]] = job_to_wire,
        bounds: ConcurrencyLimits = ConcurrencyLimits(),
        random: Callable[[], float] = random.random,
        carrier: Sender | None = None,
    ) -> None:
        self._webhooks = webhooks
        self._jobs = jobs
        self._keys = keys
        self._clock = clock
        self._allow = allow
        self._lease = lease
        self._wire = wire
        self._bounds = bounds
        self._random = random
        self._carrier = carrier
        self._woken = asyncio.Event()
        self._sending: dict[str, Webhook] = {}
        """Those on their way, by their ids."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None

    # --- life ---

    def start(self) -> None:
        self._serving = asyncio.create_task(self._serve())

    def notify(self, jobs: Sequence[Job]) -> None:
        """Take note of a commit: a job that is over may have a webhook."""
        if any(job.over and job.spec.webhook_url for job in jobs):
            self._woken.set()

    async def stop(self, limit: float) -> None:
        """Send no more; let what is on its way arrive within `limit` seconds. The rest is sent after a restart."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit)
        self.stop_now()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._carrier is not None:
            await self._carrier.aclose()

    def stop_now(self) -> None:
        """Let `stop` wait for nothing any longer."""
        if self._serving is not None:
            self._serving.cancel()
        for task in self._tasks:
            task.cancel()

    # --- which, and when ---

    async def _serve(self) -> None:
        while True:
            self._woken.clear()
            try:
                now = self._clock.now()
                await self._send_due(now)
                following = await self._webhooks.next_at(after=now)
                if following is not None and following - now > FURTHEST * 1000:
                    await self._send_due(following)  # nothing is put off so far: the clock was set back
                pause = LONGEST_REST if following is None else min((following - now) / 1000, LONGEST_REST)
            except LedgerUnavailable as error:
                log.error("no webhook can be sent: %s", error)
                pause = AFTER_TROUBLE
            except Exception:
                log.exception("the webhooks could not be looked through")
                pause = AFTER_TROUBLE
            await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Until something happens, or `seconds` have passed."""
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self._woken.wait()),
            asyncio.create_task(self._clock.sleep(seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _send_due(self, now: int) -> None:
        """Send all due webhooks that the limits allow; each one that ends makes room for the next."""
        bounds = self._bounds
        while room := bounds.at_once - len(self._sending):
            hosts = Counter(webhook.host for webhook in self._sending.values())
            sessions = Counter(webhook.session_id for webhook in self._sending.values())
            due = await self._webhooks.due(
                now=now,
                limit=room,
                ids=self._sending.keys(),
                hosts=[host for host, count in hosts.items() if count >= bounds.to_host],
                sessions=[session for session, count in sessions.items() if count >= bounds.of_session],
            )
            if not due or not await self._lease.held():  # another server of the ledger delivers them
                return
            for webhook in due:
                # The first of them always may go, so every round gets further.
                if hosts[webhook.host] < bounds.to_host and sessions[webhook.session_id] < bounds.of_session:
                    hosts[webhook.host] += 1
                    sessions[webhook.session_id] += 1
                    self._send_off(webhook)

    def _send_off(self, webhook: Webhook) -> None:
        self._sending[webhook.id] = webhook
        task = asyncio.create_task(self._deliver(webhook))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one delivery ---

    async def _deliver(self, webhook: Webhook) -> None:
        try:
            stands = await self._attempt(webhook)
            await self._note(stands)
        except LedgerUnavailable as error:
            log.error("webhook %s: %s", webhook.id, error)
            await self._clock.sleep(AFTER_TROUBLE)
        finally:
            del self._sending[webhook.id]
            self._woken.set()

    async def _attempt(self, webhook: Webhook) -> Webhook:
        """The webhook as it stands after one more attempt."""
        key = await self._keys.get(webhook.key_id)
        if key is None or key.revoked_at is not None:  # one that has ended by itself made the job in its time
            return _failed(webhook, "the key that made the job is revoked")
        job = await self._jobs.get(webhook.job_id)
        if job is None:
            return _failed(webhook, "the job is no longer there")
        webhook = replace(webhook, attempts=webhook.attempts + 1)
        try:
            judge(await self._send(webhook, key, job))
        except PermanentFailure as hopeless:
            return _failed(webhook, str(hopeless))
        except TransientFailure as trouble:
            return self._later(webhook, str(trouble), trouble.retry_after)
        except Exception:
            log.exception("webhook %s could not be sent", webhook.id)
            return self._later(webhook, "this server failed to send it")
        return replace(
            webhook, state=WebhookState.DELIVERED, next_at=None, delivered_at=self._clock.now(), last_error=None
        )

    async def _send(self, webhook: Webhook, key: Key, job: Job) -> Answer:
        carrier = self._carrier
        if carrier is None:
            # Most servers never send one, so what sending needs is imported now, beside the others' work.
            post = await asyncio.to_thread(import_module, "umrgen.server.webhooks.sender")
            carrier = self._carrier = self._carrier or post.HttpSender(
                self._allow, seconds=self._bounds.seconds, answer_bytes=self._bounds.answer_bytes
            )
        body = payload(job, self._wire(job))
        headers = sign(secret_of(key.hash), webhook.id, self._clock.now() // 1000, body) | {
            "content-type": "application/json",
            "user-agent": f"umrgen/{__version__}",
        }
        return await carrier.send(webhook.url, headers, body)

    def _later(self, webhook: Webhook, words: str, asked: str | None = None) -> Webhook:
        now = self._clock.now()
        next_at = next_try(
            webhook.attempts,
            webhook.created_at,
            now,
            asked=None if asked is None else retry_after(asked, now),
            random=self._random(),
        )
        if next_at is None:
            return _failed(webhook, f"{words}; a day has passed")
        return replace(webhook, next_at=next_at, last_error=words)

    async def _note(self, webhook: Webhook) -> None:
        """Write down how it stands, however long that takes: what is not on record is sent again."""
        while True:
            try:
                await self._webhooks.record_attempt(
                    webhook.id,
                    state=webhook.state,
                    attempts=webhook.attempts,
                    next_at=webhook.next_at,
                    delivered_at=webhook.delivered_at,
                    last_error=webhook.last_error,
                )
                return
            except LedgerUnavailable as error:
                log.error("webhook %s: %s", webhook.id, error)
                await self._clock.sleep(AFTER_TROUBLE)


def _failed(webhook: Webhook, words: str) -> Webhook:
    return replace(webhook, state=WebhookState.FAILED, next_at=None, last_error=words)
