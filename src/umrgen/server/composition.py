"""The services of a server, made of its stores, engines and settings."""

from collections.abc import Callable
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.blobs import BlobStore
from umrgen.server.executors import Executor
from umrgen.server.executors.routing import LiveEngines, OwnEngineRouter
from umrgen.server.http import Services
from umrgen.server.ledger import Ledger
from umrgen.server.metrics import Metrics
from umrgen.server.scheduler.eta import Estimates
from umrgen.server.scheduler.previews import Previews
from umrgen.server.services.admission import Admission
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.authentication import Authentication
from umrgen.server.services.call_references import CallReferences
from umrgen.server.services.cancellations import Cancellations
from umrgen.server.services.content_policy import load_policy
from umrgen.server.services.decoding import Decoders, Receptions
from umrgen.server.services.image_cache import ImageCache
from umrgen.server.services.job_edits import JobEdits
from umrgen.server.services.job_waits import JobWaits
from umrgen.server.services.limits import AddressLimit, FailureThrottle, RateLimits
from umrgen.server.services.one_time_links import OneTimeLinks
from umrgen.server.services.outputs import Outputs
from umrgen.server.services.remembered_devices import RememberedDevices
from umrgen.server.services.server_state import ServerState
from umrgen.server.services.signatures import Signatures
from umrgen.server.services.storage_health import StorageHealth
from umrgen.server.services.submissions import Submissions
from umrgen.server.services.subscriptions import Subscriptions
from umrgen.server.services.templates import Templates
from umrgen.server.services.thumbnails import Thumbnails
from umrgen.server.services.uploads import Uploads
from umrgen.server.services.verifications import Verifications
from umrgen.server.settings import Settings
from umrgen.server.signing import ManifestSigner
from umrgen.server.state import LINKS
from umrgen.server.webhooks.address_policy import Allow

__all__ = ["ServiceParts", "make_services"]

PUBLIC_VERIFICATIONS = 10
"""Images that an address may have verified a minute without an API key."""
PUBLIC_RECEPTIONS = 4
"""Images of all callers without an API key that are verified at a time."""


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """What the services share with the rest of the server: implementations, caches and settings."""

    settings: Settings
    worker: str
    """The id of this server among those of its ledger."""
    clock: Clock
    ledger: Ledger
    blobs: BlobStore
    executor: Executor
    engines: LiveEngines
    """The engines of the workers, for a server that has none of its own."""
    images: ImageCache
    keys: ApiKeys
    signatures: Signatures
    signer: ManifestSigner | None
    admission: Admission
    storage: StorageHealth
    subscriptions: Subscriptions
    previews: Previews
    estimates: Estimates
    metrics: Metrics
    ledger_bytes: Callable[[], int | None]
    """Returns the size of the ledger's file; None if it is not a file."""


def make_services(parts: ServiceParts) -> Services:
    """Return the services that the handlers of the HTTP interface call."""
    settings, ledger, clock = parts.settings, parts.ledger, parts.clock
    limits = RateLimits(settings, clock)
    devices = RememberedDevices(ledger.keys, clock)
    failures = FailureThrottle(settings.failed_logins, "API keys", clock)
    authentication = Authentication(parts.keys, devices, limits, failures)
    decoders, receptions = Decoders(), Receptions()
    uploads = _uploads(parts, decoders, receptions)
    return Services(
        settings=settings,
        clock=clock,
        keys=parts.keys,
        hosts=AllowedHosts(settings.allowed_hosts, settings.host),
        job_waits=_job_waits(parts, limits),
        limits=limits,
        authentication=authentication,
        devices=devices,
        outputs=_outputs(parts, authentication),
        tickets=OneTimeLinks(settings.state / LINKS, clock),
        uploads=uploads,
        templates=Templates(ledger.templates, clock),
        call_references=CallReferences(uploads),
        state=_server_state(parts, limits),
        submissions=_submissions(parts, limits, uploads),
        cancellations=Cancellations(ledger.jobs, clock),
        job_edits=JobEdits(ledger.jobs, ledger.outputs, parts.blobs, clock, parts.images.forget),
        signatures=parts.signatures,
        verifications=_verifications(parts, decoders, receptions),
        metrics=parts.metrics,
        signer=parts.signer,
    )


def _uploads(parts: ServiceParts, decoders: Decoders, receptions: Receptions) -> Uploads:
    settings = parts.settings
    return Uploads(
        parts.ledger.uploads,
        parts.blobs,
        parts.clock,
        parts.admission,
        settings.upload_hours,
        decoders,
        receptions,
        keep_manifests=settings.signing is not None,
    )


def _job_waits(parts: ServiceParts, limits: RateLimits) -> JobWaits:
    ledger = parts.ledger
    return JobWaits(
        ledger.jobs,
        parts.estimates,
        parts.subscriptions,
        parts.keys,
        limits,
        parts.previews,
        ledger.webhooks,
        parts.settings.max_wait,
    )


def _verifications(parts: ServiceParts, decoders: Decoders, receptions: Receptions) -> Verifications:
    settings = parts.settings
    return Verifications(
        parts.ledger.fingerprints,
        decoders,
        receptions,
        AddressLimit(PUBLIC_VERIFICATIONS, parts.clock),
        Receptions(PUBLIC_RECEPTIONS),
        settings.public_verify,
        settings.trusted_roots,
        settings.watermark,
    )


def _outputs(parts: ServiceParts, authentication: Authentication) -> Outputs:
    outputs, clock = parts.ledger.outputs, parts.clock
    return Outputs(
        outputs=outputs,
        uploads=parts.ledger.uploads,
        images=parts.images,
        thumbnails=Thumbnails(outputs, parts.blobs, parts.images, clock),
        keys=parts.keys,
        signatures=parts.signatures,
        authentication=authentication,
        guesses=FailureThrottle(parts.settings.missed_outputs, "image URLs", clock),
    )


def _submissions(parts: ServiceParts, limits: RateLimits, uploads: Uploads) -> Submissions:
    settings = parts.settings
    return Submissions(
        jobs=parts.ledger.jobs,
        calls=parts.ledger.calls,
        worker=parts.worker,
        clock=parts.clock,
        admission=parts.admission,
        router=OwnEngineRouter(parts.executor, settings.engine) if settings.engines else parts.engines,
        uploads=uploads,
        limits=limits,
        policy=load_policy(settings.policy),
        webhooks_allowed=Allow.of(settings.webhook_allow),
        log_prompts=settings.log_prompts,
        on_accepted=parts.metrics.job_accepted,
    )


def _server_state(parts: ServiceParts, limits: RateLimits) -> ServerState:
    settings, ledger = parts.settings, parts.ledger
    return ServerState(
        clock=parts.clock,
        jobs=ledger.jobs,
        outputs=ledger.outputs,
        blobs=parts.blobs,
        executor=parts.executor,
        admission=parts.admission,
        subscriptions=parts.subscriptions,
        limits=limits,
        engine=settings.engine,
        longest_wait=settings.max_wait,
        running_cap=settings.session_running,
        storage=parts.storage,
        webhooks=ledger.webhooks,
        ledger_bytes=parts.ledger_bytes,
        draws=settings.engines,
    )
