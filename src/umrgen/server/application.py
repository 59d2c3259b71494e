"""The composition root: puts the server together, and is the only place that chooses implementations."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.blobs import BLOB_STORES, BlobStore, BlobStoreUnavailable
from umrgen.server.clock import Clock, SystemClock
from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.executors import EXECUTORS, Executor, WatchdogLimits
from umrgen.server.http import Services, openapi, ops, studio
from umrgen.server.http.api import events, v1
from umrgen.server.http.api import outputs as output_calls
from umrgen.server.http.api import status as status_calls
from umrgen.server.http.api.status import to_problem
from umrgen.server.http.middleware import SecurityMiddleware
from umrgen.server.http.problems import Problem, on_problem, on_refusal
from umrgen.server.ledger import LEDGERS, Ledger, LedgerUnavailable
from umrgen.server.metrics import Metrics
from umrgen.server.scheduler.attempt import AttemptContext, DispatchPolicy
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.scheduler.eta import Estimates
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.scheduler.previews import Previews
from umrgen.server.services.admission import Admission
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.authentication import Authentication
from umrgen.server.services.cancellations import Cancellations
from umrgen.server.services.content_policy import load_policy
from umrgen.server.services.image_cache import Images
from umrgen.server.services.job_waits import JobWaits
from umrgen.server.services.limits import FailureThrottle, Limits
from umrgen.server.services.one_time_links import OneTimeLinks
from umrgen.server.services.outputs import Outputs
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.retention import Retention, RetentionPolicy
from umrgen.server.services.server_state import ServerState
from umrgen.server.services.signatures import Signatures
from umrgen.server.services.submissions import Submissions
from umrgen.server.services.subscriptions import Subscriptions
from umrgen.server.services.uploads import Uploads
from umrgen.server.settings import Settings
from umrgen.server.state import worker_id
from umrgen.server.webhooks.address_policy import Allow
from umrgen.server.webhooks.deliverer import WebhookDeliverer

__all__ = ["Application", "open_keys"]

log = logging.getLogger(__name__)

LAST_POST = 5.0
"""Seconds that webhooks on their way have to arrive when the server stops; the rest follow after its restart."""


def _make(table: Mapping[str, str], name: str, *args: Any, **kwargs: Any) -> Any:
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)(*args, **kwargs)


def _ledger(settings: Settings, observe_commit: Callable[[float], None] = lambda seconds: None) -> Ledger:
    """Return the ledger that the settings name, not opened yet."""
    ledger: Ledger
    if settings.ledger == "memory":
        ledger = _make(LEDGERS, "memory")
    else:
        ledger = _make(LEDGERS, "sqlite", settings.ledger_file, observe_commit)
    return ledger


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[ApiKeys]:
    """Open the API keys of the server that these settings describe, whether it runs or not."""
    ledger = _ledger(settings)
    await ledger.open(lambda jobs: None)
    try:
        yield ApiKeys(ledger.keys, SystemClock())
    finally:
        await ledger.close()


class Application:
    """One server: its ledger, storage, engine, dispatcher and interfaces, from `open` to `close`."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        """The caller holds the state folder (`own_state`)."""
        clock = clock or SystemClock()
        worker = worker_id(settings.state)
        self.settings = settings
        self.metrics = Metrics()
        self.ledger = _ledger(settings, self.metrics.commits.observe)
        self.blobs: BlobStore = _make(BLOB_STORES, "local", settings.blobs_folder, worker)
        watchdog = WatchdogLimits(
            settings.stall_after, settings.cancel_grace, settings.load_timeout, settings.engine_memory
        )
        self.executor: Executor = _make(
            EXECUTORS,
            settings.executor,
            settings.engine,
            settings.options_of_engine,
            devices=settings.devices,
            watchdog=watchdog,
        )
        self.keys = ApiKeys(self.ledger.keys, clock)
        self.subscriptions = Subscriptions(settings.held)
        self.previews = Previews(self.executor.show, self.subscriptions.wake)
        self.estimates = Estimates(clock, lambda: self.executor.capacity)
        policy = DispatchPolicy(
            settings.lease, settings.max_attempts, settings.max_interruptions, running_cap=settings.session_running
        )
        self.attempt_context = AttemptContext(self.ledger.jobs, self.executor, self.blobs, clock, policy, self.previews)
        lease = partial(TaskLease, self.ledger.coordination, holder=worker, clock=clock)
        self.dispatcher = Dispatcher(self.attempt_context, worker)
        self.images = Images(self.blobs, settings.cache << 20)
        keep = RetentionPolicy(settings.retain_days * 24, int(settings.retain_gib * 2**30), settings.upload_hours)
        self.retention = Retention(
            self.ledger.outputs, self.ledger.uploads, self.blobs, clock, keep, self.images.forget, lease("retention")
        )
        allow = Allow.of(settings.webhook_allow)
        self.signatures = signatures = Signatures(settings.url_ttl, clock)
        self.deliverer = WebhookDeliverer(
            self.ledger.webhooks,
            self.ledger.jobs,
            self.ledger.keys,
            clock,
            allow,
            lease("webhooks"),
            wire=partial(job_to_wire, sign=signatures.sign),
        )
        limits = Limits(settings, clock)
        self.admission = admission = Admission(self.executor, self.blobs, settings.disk_reserve << 20)
        uploads = Uploads(self.ledger.uploads, self.blobs, clock, admission, settings.upload_hours)
        authentication = Authentication(self.keys, limits, FailureThrottle(settings.failed_logins, "API keys", clock))
        outputs = Outputs(
            outputs=self.ledger.outputs,
            uploads=self.ledger.uploads,
            images=self.images,
            keys=self.keys,
            signatures=signatures,
            authentication=authentication,
            guesses=FailureThrottle(settings.missed_outputs, "image URLs", clock),
        )
        submissions = Submissions(
            jobs=self.ledger.jobs,
            clock=clock,
            admission=admission,
            executor=self.executor,
            uploads=uploads,
            limits=limits,
            policy=load_policy(settings.policy),
            webhooks_allowed=allow,
            engine=settings.engine,
            log_prompts=settings.log_prompts,
        )
        state = ServerState(
            jobs=self.ledger.jobs,
            outputs=self.ledger.outputs,
            blobs=self.blobs,
            executor=self.executor,
            admission=admission,
            subscriptions=self.subscriptions,
            limits=limits,
            engine=settings.engine,
            longest_wait=settings.max_wait,
            running_cap=settings.session_running,
        )
        self.services = Services(
            settings=settings,
            clock=clock,
            keys=self.keys,
            hosts=AllowedHosts(settings.allowed_hosts, settings.host),
            job_waits=JobWaits(
                self.ledger.jobs,
                self.estimates,
                self.subscriptions,
                self.keys,
                limits,
                self.previews,
                self.ledger.webhooks,
                settings.max_wait,
            ),
            limits=limits,
            authentication=authentication,
            outputs=outputs,
            tickets=OneTimeLinks(clock),
            uploads=uploads,
            state=state,
            submissions=submissions,
            cancellations=Cancellations(self.ledger.jobs, clock),
            signatures=signatures,
            metrics=self.metrics,
        )
        self._chores: list[asyncio.Task[None]] = []

    def routes(self) -> list[Route]:
        """All calls but those that are answered ahead of the router."""
        return [route for part in (v1, ops, openapi, studio) for route in part.routes(self.services)]

    def app(self) -> ASGIApp:
        services = self.services
        handlers: dict[Any, Any] = {
            Problem: on_problem,
            Refusal: on_refusal,
            LedgerUnavailable: _on_unavailable,
            BlobStoreUnavailable: _on_unavailable,
            HTTPException: _on_http_error,
            Exception: _on_failure,
        }
        inner = Starlette(routes=self.routes(), exception_handlers=handlers)
        inner.router.redirect_slashes = False  # no redirects: a client might send its key along
        ahead = (  # below a path that ends in a slash, or at the path
            (status_calls.PATH, ("GET",), status_calls.status),
            (events.PATH, ("GET",), events.events),
            (output_calls.PATH, ("GET", "HEAD"), output_calls.outputs),
            (v1.SUBMIT, ("POST",), v1.submit),
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            asked: str = scope["path"]
            for path, methods, handler in ahead:
                there = asked.startswith(path) if path.endswith("/") else asked == path
                if there and scope["method"] in methods:
                    await handler(services, scope, receive, send)
                    return
            await inner(scope, receive, send)

        app_with_checks: ASGIApp = SecurityMiddleware(app, self.settings, services.hosts, self.metrics)
        if self.settings.allowed_origins:
            app_with_checks = _for_browsers(app_with_checks, self.settings.allowed_origins)
        if self.settings.trusted_proxies:
            app_with_checks = wrap_asgi_with_proxy_headers(app_with_checks, list(self.settings.trusted_proxies))
        return app_with_checks

    async def open(self) -> None:
        """Open the ledger and take up what an earlier server left unfinished."""
        await self.ledger.open(self._on_change, self._on_foreign_change)
        try:
            await self.signatures.load(self.ledger.coordination, self.settings.state / "url-secret")
            self.estimates.observe(await self.ledger.jobs.recent_runs(among=500))
            await self.dispatcher.recover()
        except BaseException:
            await self.ledger.close()
            raise

    def start(self) -> None:
        """Let jobs run, as soon as the engine is up; callers are served meanwhile."""
        self._chores = [asyncio.create_task(chore) for chore in (self.retention.run(), self.keys.keep_uses())]
        self.dispatcher.start()
        self.deliverer.start()

    async def drain(self, limit: float) -> None:
        """Accept nothing more, let running jobs finish within `limit` seconds, answer all who wait."""
        self.admission.draining = True
        log.info("stopping: what runs has %g s to finish", limit)
        await self.dispatcher.drain(limit)
        self.subscriptions.close()
        await self.deliverer.stop(min(limit, LAST_POST))

    def stop_now(self) -> None:
        """Let `drain` return without waiting any longer."""
        self.dispatcher.stop_now()
        self.deliverer.stop_now()

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.keys.write_uses()
        await self.deliverer.stop(0)
        await self.executor.stop()
        await self.ledger.close()

    def _on_change(self, jobs: Sequence[Job]) -> None:
        self.metrics.observe(jobs)
        self._on_foreign_change(jobs)

    def _on_foreign_change(self, jobs: Sequence[Job]) -> None:
        """Observe jobs that another server of the ledger changed; that server counts them in its metrics."""
        self.estimates.observe(jobs)
        self.subscriptions.notify(jobs)
        self.dispatcher.notify(jobs)
        self.deliverer.notify(jobs)


def _for_browsers(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Allow pages of these origins to call, and to read the responses (CORS)."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Prefer",
            "Range",
        ],
        expose_headers=["ETag", "Location", "Preference-Applied", "Retry-After", "RateLimit", "Repr-Digest"],
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in the API's one shape."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid_request")
    return Problem(code, headers=error.headers).response()


async def _on_unavailable(request: Request, error: Exception) -> Response:
    return to_problem(error).response()


async def _on_failure(request: Request, error: Exception) -> Response:
    return Problem("internal").response()
