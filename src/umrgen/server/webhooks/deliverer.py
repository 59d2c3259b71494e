"""The webhook deliverer: sends due webhooks to their receivers, and records each result.

Delivery is at least once: a receiver gets a message twice when the server is killed between the response and its
record. Both have the same `webhook-id`.
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
from umrgen.clock import Clock
from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.ledger import JobStore, Key, KeyStore, LedgerUnavailable, Webhook, WebhookState, WebhookStore
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.webhooks.address_policy import Allow
from umrgen.server.webhooks.delivery_result import PermanentFailure, ReceiverResponse, TransientFailure, classify
from umrgen.server.webhooks.retry_schedule import FURTHEST, next_try, retry_after
from umrgen.server.webhooks.signing import secret_of, sign

__all__ = ["ConcurrencyLimits", "WebhookDeliverer", "payload"]

log = logging.getLogger(__name__)

AFTER_TROUBLE = 1.0
"""Seconds until an operation that the ledger refused is tried again."""
LONGEST_PAUSE = 60.0
"""Seconds after which the deliverer reads the ledger again even if nothing is due: the clock may have been set, or
the server that held the lease may have ended."""
LATE_MS = 60_000
"""Milliseconds after which a due message is late: the server was down, or did not run, for example."""
LATE_INTERVAL = 0.2
"""Seconds between the starts of late deliveries to one host, to which a backlog is not sent all at once."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many deliveries are in flight at most, and the limits of each."""

    total: int = 8
    per_host: int = 2
    per_session: int = 4
    """A caller with slow receivers does not delay the deliveries of others."""
    seconds: float = 10.0
    """For one attempt, from resolving the name to the end of the response."""
    response_bytes: int = 64 << 10


class Sender(Protocol):
    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> ReceiverResponse: ...
    async def aclose(self) -> None: ...


def payload(job: Job, data: Mapping[str, Any]) -> bytes:
    """Return the message that `job` is over, with `data`, its status answer; equal each time it is sent."""
    ended = datetime.fromtimestamp((job.completed_at or 0) / 1000, UTC)
    return msgspec.json.encode(
        {
            "type": f"job.{job.state.value}",
            "timestamp": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
        }
    )


class WebhookDeliverer:
    """Delivers the webhooks that are due in the ledger, from `start` to `stop`."""

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
        sender: Sender | None = None,
        on_attempt: Callable[[WebhookState], None] = lambda state: None,
    ) -> None:
        """`on_attempt` is called with the state in which each recorded attempt left its webhook."""
        self._webhooks = webhooks
        self._jobs = jobs
        self._keys = keys
        self._clock = clock
        self._allow = allow
        self._lease = lease
        self._wire = wire
        self._bounds = bounds
        self._random = random
        self._sender = sender
        self._on_attempt = on_attempt
        self._woken = asyncio.Event()
        self._sending: dict[str, Webhook] = {}
        """The webhooks in flight, by id."""
        self._late_hosts: dict[str, float] = {}
        """The hosts that have just got a late message, and the monotonic time until which they get no other."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None

    # --- life ---

    def start(self) -> None:
        self._serving = asyncio.create_task(self._serve())

    def notify(self, jobs: Sequence[Job]) -> None:
        """Observe a commit: a job that is over may have a webhook."""
        if any(job.over and job.request.webhook_url for job in jobs):
            self._woken.set()

    async def stop(self, limit: float) -> None:
        """Start no more deliveries, and wait up to `limit` seconds for those in flight. A restart sends the rest."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit)
        self.stop_now()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sender is not None:
            await self._sender.aclose()

    def stop_now(self) -> None:
        """Let `stop` return without waiting any longer."""
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
                    await self._send_due(following)  # no delay is that long: the clock was set back
                pause = LONGEST_PAUSE if following is None else min((following - now) / 1000, LONGEST_PAUSE)
                pause = LATE_INTERVAL if self._late_hosts else pause
            except LedgerUnavailable as error:
                log.error("no webhook can be sent: %s", error)
                pause = AFTER_TROUBLE
            except Exception:
                log.exception("the due webhooks could not be read")
                pause = AFTER_TROUBLE
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        """Wait until `notify` or a finished delivery wakes the deliverer, or `seconds` have passed."""
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
        """Start the due deliveries that the limits allow; each that ends makes room for the next."""
        bounds = self._bounds
        while room := bounds.total - len(self._sending):
            hosts = Counter(webhook.host for webhook in self._sending.values())
            sessions = Counter(webhook.session_id for webhook in self._sending.values())
            due = await self._webhooks.due(
                now=now,
                limit=room,
                ids=self._sending.keys(),
                hosts=[host for host, count in hosts.items() if count >= bounds.per_host] + self._spared_hosts(),
                sessions=[session for session, count in sessions.items() if count >= bounds.per_session],
            )
            if not due or not await self._lease.held():  # another server of the ledger delivers them
                return
            for webhook in due:
                # The first of them is always within the limits, so each round starts at least one.
                if webhook.host in self._late_hosts:
                    continue
                if hosts[webhook.host] < bounds.per_host and sessions[webhook.session_id] < bounds.per_session:
                    hosts[webhook.host] += 1
                    sessions[webhook.session_id] += 1
                    self._note_late(webhook, now)
                    self._start_delivery(webhook)

    def _note_late(self, webhook: Webhook, now: int) -> None:
        if webhook.next_at is not None and now - webhook.next_at > LATE_MS:
            self._late_hosts[webhook.host] = self._clock.monotonic() + LATE_INTERVAL

    def _spared_hosts(self) -> list[str]:
        """Return the hosts that get no message now, because they have just got a late one."""
        now = self._clock.monotonic()
        self._late_hosts = {host: until for host, until in self._late_hosts.items() if until > now}
        return list(self._late_hosts)

    def _start_delivery(self, webhook: Webhook) -> None:
        self._sending[webhook.id] = webhook
        task = asyncio.create_task(self._deliver(webhook))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one delivery ---

    async def _deliver(self, webhook: Webhook) -> None:
        try:
            await self._record(await self._attempt(webhook))
        except LedgerUnavailable as error:
            log.error("webhook %s: %s", webhook.id, error)
            await self._clock.sleep(AFTER_TROUBLE)
        finally:
            del self._sending[webhook.id]
            self._woken.set()

    async def _attempt(self, webhook: Webhook) -> Webhook:
        """Make one attempt; return the webhook with its result."""
        key = await self._keys.get(webhook.key_id)
        if key is None or key.revoked_at is not None:  # a key that expired was valid when it made the job
            return _failed(webhook, "the key that made the job is revoked")
        job = await self._jobs.get(webhook.job_id)
        if job is None or job.deleted_at is not None:
            return _failed(webhook, "the job no longer exists")
        webhook = replace(webhook, attempts=webhook.attempts + 1)
        try:
            classify(await self._send(webhook, key, job))
            return replace(
                webhook, state=WebhookState.DELIVERED, next_at=None, delivered_at=self._clock.now(), last_error=None
            )
        except PermanentFailure as failure:
            return _failed(webhook, str(failure))
        except Exception as failure:  # any failure is a counted attempt: one that is not would be repeated at once
            return self._failed_attempt(webhook, failure)

    def _failed_attempt(self, webhook: Webhook, failure: Exception) -> Webhook:
        if isinstance(failure, TransientFailure):
            return self._retry_later(webhook, str(failure), failure.retry_after)
        log.error("webhook %s could not be sent", webhook.id, exc_info=failure)
        return self._retry_later(webhook, "the server failed to send it")

    async def _send(self, webhook: Webhook, key: Key, job: Job) -> ReceiverResponse:
        sender = self._sender
        if sender is None:
            # Most servers never send a webhook, so the sender is imported on first use, in a thread.
            sender_module = await asyncio.to_thread(import_module, "umrgen.server.webhooks.sender")
            sender = self._sender = self._sender or sender_module.HttpSender(
                self._allow, seconds=self._bounds.seconds, response_bytes=self._bounds.response_bytes
            )
        body = payload(job, self._wire(job))
        headers = sign(secret_of(key.hash), webhook.id, self._clock.now() // 1000, body) | {
            "content-type": "application/json",
            "user-agent": f"umrgen/{__version__}",
        }
        return await sender.send(webhook.url, headers, body)

    def _retry_later(self, webhook: Webhook, reason: str, asked: str | None = None) -> Webhook:
        now = self._clock.now()
        next_at = next_try(
            webhook.attempts,
            webhook.created_at,
            now,
            asked=None if asked is None else retry_after(asked, now),
            random=self._random(),
        )
        if next_at is None:
            return _failed(webhook, f"{reason}; a day has passed since the job's end")
        return replace(webhook, next_at=next_at, last_error=reason)

    async def _record(self, webhook: Webhook) -> None:
        """Write the result, and retry until the ledger accepts it: a delivery without a record is sent again."""
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
                self._on_attempt(webhook.state)
                return
            except LedgerUnavailable as error:
                log.error("webhook %s: %s", webhook.id, error)
                await self._clock.sleep(AFTER_TROUBLE)


def _failed(webhook: Webhook, reason: str) -> Webhook:
    return replace(webhook, state=WebhookState.FAILED, next_at=None, last_error=reason)
