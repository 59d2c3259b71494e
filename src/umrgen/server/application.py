"""The composition root: makes all parts of a server, opens and closes them in order."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from umrgen import __version__
from umrgen.clock import Clock, SystemClock, seconds_since_boot
from umrgen.server.blobs import BlobStore
from umrgen.server.composition import ServiceParts, make_services
from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.executors import Executor
from umrgen.server.executors.routing import LiveEngines
from umrgen.server.http.app import make_app
from umrgen.server.implementations import (
    claim_blobs,
    make_blobs,
    make_ledger,
    make_signer,
    make_worker_id,
    own_executor,
)
from umrgen.server.ledger import Ledger, LedgerUnavailable
from umrgen.server.logs import set_log_level
from umrgen.server.metrics import Metrics
from umrgen.server.reload import applied, describe, need_restart
from umrgen.server.scheduler.attempt import AttemptContext, DispatchPolicy
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.scheduler.eta import Estimates
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.scheduler.preview_exchange import PreviewExchange
from umrgen.server.scheduler.previews import Previews
from umrgen.server.scheduler.registration import WorkerRegistration
from umrgen.server.services.admission import Admission
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.content_policy import load_policy
from umrgen.server.services.fingerprint_backfill import FingerprintBackfill
from umrgen.server.services.fingerprint_index import FingerprintIndex
from umrgen.server.services.image_cache import ImageCache
from umrgen.server.services.ledger_clock import LedgerClock
from umrgen.server.services.ledger_watch import LedgerWatch
from umrgen.server.services.retention import Retention, RetentionPolicy
from umrgen.server.services.signatures import Signatures
from umrgen.server.services.storage_health import StorageHealth
from umrgen.server.services.subscriptions import Subscriptions
from umrgen.server.settings import BadSettings, Settings
from umrgen.server.signing.status import SigningStatus
from umrgen.server.state import LedgerMark, file_bytes
from umrgen.server.tasks import cancelled
from umrgen.server.webhooks.address_policy import Allow
from umrgen.server.webhooks.deliverer import WebhookDeliverer

if TYPE_CHECKING:
    from umrgen.server.http.mcp import McpEndpoint

__all__ = ["Application"]

log = logging.getLogger(__name__)

LAST_DELIVERIES = 5.0
"""Seconds that webhooks in flight have when the server stops; the rest is sent after its restart."""


class Application:
    """One server: its ledger, blob store, engine, dispatcher and HTTP interface, from `open` to `close`."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        *,
        ledger: Ledger | None = None,
        blobs: BlobStore | None = None,
        executor: Executor | None = None,
    ) -> None:
        """The caller holds the state folder (`own_state`).

        `ledger`, `blobs` and `executor` replace those that the settings name: for tests.
        """
        worker = make_worker_id(settings)
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.set_build(
            version=__version__, engine=settings.engine, ledger=settings.ledger_kind, blobs=settings.blobs_kind
        )
        self.ledger = ledger or make_ledger(settings, self.metrics.commits.observe)
        self.blobs = blobs or make_blobs(settings, worker)
        clock = self._clock = LedgerClock(clock or SystemClock(), self.ledger.time)
        self.engines = LiveEngines(self.ledger.workers, clock, settings.engine)
        self.executor = executor or own_executor(settings, clock, self.engines)
        self.images = ImageCache(self.blobs, settings.cache << 20)
        self.subscriptions = Subscriptions(settings.held)
        self.previews = Previews(self.executor.show, self.subscriptions.wake)
        self.estimates = Estimates(clock, lambda: self.executor.capacity, lambda: self.executor.until_loaded)
        self.signatures = Signatures(settings.url_ttl, clock)
        self.signer = make_signer(settings)
        self.signing = SigningStatus(self.signer, clock) if self.signer else None
        refusal = self.signing.refusal if self.signing else lambda: None
        self.admission = Admission(self.executor, self.blobs, settings.disk_reserve << 20, refusal)
        self.storage = StorageHealth(self.blobs, self.ledger.coordination, self.admission, clock, worker)
        self.keys = ApiKeys(self.ledger.keys, clock)
        self.dispatcher = self._make_dispatcher(worker, clock)
        self.registration = WorkerRegistration(self.ledger.workers, self.executor, settings.engine, worker, clock)
        self.exchange = PreviewExchange(self.ledger.previews, self.previews, lambda: self.dispatcher.running, clock)
        self.retention = self._make_retention(worker, clock)
        mark = LedgerMark(None if settings.ledger == "memory" else settings.state / "ledger-mark")
        self._ledger_watch = LedgerWatch(mark, self.ledger.jobs, self.blobs, self.retention, clock)
        self.deliverer = self._make_deliverer(worker, clock)
        lease = TaskLease(self.ledger.coordination, "fingerprints", worker, clock)
        self.fingerprint_index = FingerprintIndex(self.ledger.fingerprints, clock, lease)
        lease = TaskLease(self.ledger.coordination, "fingerprint-backfill", worker, clock)
        self.fingerprint_backfill = FingerprintBackfill(self.ledger.fingerprints, self.blobs, clock, lease)
        self.services = make_services(self._parts(worker, clock))
        self._mcp = self._make_mcp() if settings.mcp else None
        self._chores: list[asyncio.Task[None]] = []

    def _make_dispatcher(self, worker: str, clock: Clock) -> Dispatcher:
        settings = self.settings
        policy = DispatchPolicy(
            settings.lease,
            settings.max_attempts,
            settings.max_interruptions,
            running_cap=settings.session_running,
            engine=settings.engine if settings.shares_ledger else "",
            prompt_in_files=settings.provenance_prompt == "full",
        )
        context = AttemptContext(self.ledger.jobs, self.executor, self.blobs, clock, policy, self.previews)
        return Dispatcher(context, worker)

    def _make_retention(self, worker: str, clock: Clock) -> Retention:
        ledger, keep = self.ledger, _retention_policy(self.settings)
        lease = TaskLease(ledger.coordination, "retention", worker, clock)
        elapsed = seconds_since_boot if isinstance(clock, SystemClock) else None
        return Retention(
            *(ledger.jobs, ledger.outputs, ledger.uploads, self.blobs, clock, keep, self.images.forget, lease),
            elapsed=elapsed,
        )

    def _make_deliverer(self, worker: str, clock: Clock) -> WebhookDeliverer:
        ledger, allow = self.ledger, Allow.of(self.settings.webhook_allow)
        lease = TaskLease(ledger.coordination, "webhooks", worker, clock)
        wire = partial(job_to_wire, sign=self.signatures.sign)
        observe = self.metrics.webhook_attempted
        return WebhookDeliverer(
            ledger.webhooks, ledger.jobs, ledger.keys, clock, allow, lease, wire=wire, on_attempt=observe
        )

    def _parts(self, worker: str, clock: Clock) -> ServiceParts:
        return ServiceParts(
            settings=self.settings,
            worker=worker,
            clock=clock,
            ledger=self.ledger,
            blobs=self.blobs,
            executor=self.executor,
            engines=self.engines,
            images=self.images,
            keys=self.keys,
            signatures=self.signatures,
            signer=self.signer,
            admission=self.admission,
            storage=self.storage,
            subscriptions=self.subscriptions,
            previews=self.previews,
            estimates=self.estimates,
            metrics=self.metrics,
            ledger_bytes=self._ledger_bytes,
        )

    def _ledger_bytes(self) -> int | None:
        """Return the size of the ledger's file with its write-ahead log; None if it is not a file."""
        if self.settings.ledger_kind != "sqlite":
            return None
        return file_bytes(self.settings.ledger_file)

    def _make_mcp(self) -> "McpEndpoint":
        """Return the tools for agents. Raises BadSettings without their packages, which are large."""
        try:
            from umrgen.server.http.mcp import McpEndpoint
        except ImportError as missing:
            raise BadSettings(
                f"the packages for MCP are not installed: {missing.name} is missing", next="pip install 'umrgen[mcp]'"
            ) from None
        return McpEndpoint(self.services)

    def app(self) -> ASGIApp:
        """Return the HTTP interface."""
        return make_app(self.services, self._mcp)

    async def open(self) -> None:
        """Open the ledger, and requeue the jobs that this server was running when it ended."""
        await self.ledger.open(self._on_change, self._on_foreign_change)
        try:
            await self._clock.compare()
            await self.engines.refresh()
            await claim_blobs(self.ledger, self.blobs)
            await self.signatures.load(self.ledger.coordination, self.settings.state / "url-secret")
            self.estimates.observe(await self.ledger.jobs.recent_runs(among=500))
            await self._ledger_watch.check()
            await self.dispatcher.recover()
            await self.services.submissions.recover()
        except BaseException:
            await self.ledger.close()
            raise

    def _watch_signing(self) -> None:
        """Log whether images can be signed, and add the metrics of it."""
        if (signing := self.signing) is not None:
            signing.trouble()
            self.metrics.watch_signing(lambda: float(signing.trouble() is None), signing.seconds_left)

    def start(self) -> None:
        """Start running jobs, as soon as the engine is loaded. Requests are served before that."""
        self._watch_signing()
        chores = [
            self.retention.run(),
            self.fingerprint_index.run(),
            self.fingerprint_backfill.run(),
            self.keys.keep_uses(),
            self._ledger_watch.run(),
            self.storage.run(),
            *([self._mcp.serve()] if self._mcp else []),
            *self._shared_chores(),
        ]
        self._chores = [asyncio.create_task(chore) for chore in chores]
        self.dispatcher.start()
        self.deliverer.start()

    def _shared_chores(self) -> list[Coroutine[Any, Any, None]]:
        """Return the tasks of a server whose ledger others use."""
        if not self.settings.shares_ledger:
            return []
        presence = self.registration.run() if self.settings.engines else self.engines.run()
        return [self._clock.run(), self.exchange.run(), presence]

    def reload(self, settings: Settings) -> None:
        """Apply those of the settings that can change while the server runs, and log what changed.

        Raises BadSettings; then none is applied.
        """
        policy = load_policy(settings.policy)  # its words may have changed, with the same name
        old, new = self.settings, replace(self.settings, **applied(settings))
        self.settings = self.services.settings = self.services.limits.settings = new
        self.services.hosts.allow(new.allowed_hosts)
        self.services.submissions.apply(policy, log_prompts=new.log_prompts)
        self.retention.keep = _retention_policy(new)
        self.admission.reserve_bytes = new.disk_reserve << 20
        set_log_level(new.log_level)
        log.info("reloaded: %s", describe(old, new, applied(new)) or "no value changed")
        if restart := need_restart(old, settings):
            log.warning("these settings need a restart: %s", restart)

    async def drain(self, limit: float) -> None:
        """Refuse new jobs, let running jobs finish within `limit` seconds, and answer the waiting calls."""
        self.admission.draining = True
        log.info("stopping: running jobs have %g s to finish", limit)
        await self.dispatcher.drain(limit)
        self.subscriptions.close()
        await self.deliverer.stop(min(limit, LAST_DELIVERIES))

    async def release_engine(self) -> None:
        """Unload the engine when the running jobs have ended, until a job waits for it."""
        await self.executor.unload()

    def stop_now(self) -> None:
        """Let `drain` return without waiting any longer."""
        self.dispatcher.stop_now()
        self.deliverer.stop_now()

    async def close(self) -> None:
        """Stop everything; without `drain`, running jobs are queued again. Any task may be cancelled already."""
        async with AsyncExitStack() as closing:  # whatever fails: no engine stays, and the ledger is closed last
            closing.push_async_callback(self.ledger.close)
            closing.push_async_callback(self.executor.stop)
            closing.push_async_callback(self.deliverer.stop, 0)
            self.stop_now()
            await self.dispatcher.drain(0)
            with suppress(LedgerUnavailable):  # the next start requeues them
                await self.dispatcher.requeue_left()
            await cancelled(*self._chores)
            with suppress(LedgerUnavailable):  # else the report expires
                await self.registration.end()
            await self.storage.stop()
            await self.keys.write_uses()
            await self._ledger_watch.write_mark()

    def _on_change(self, jobs: Sequence[Job]) -> None:
        self.metrics.observe(jobs)
        self._on_foreign_change(jobs)

    def _on_foreign_change(self, jobs: Sequence[Job]) -> None:
        """Observe jobs that another server of the ledger changed; that server counts them in its metrics."""
        self.estimates.observe(jobs)
        self.subscriptions.notify(jobs)
        self.dispatcher.notify(jobs)
        self.deliverer.notify(jobs)


def _retention_policy(settings: Settings) -> RetentionPolicy:
    return RetentionPolicy(
        settings.retain_days * 24, int(settings.retain_gib * 2**30), settings.upload_hours, settings.retain_records
    )
