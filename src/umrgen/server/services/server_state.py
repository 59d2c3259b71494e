"""The server's readiness, its figures for operators, and its capabilities for callers."""

from collections.abc import Callable
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.model import LIMITS
from umrgen.server.blobs import BlobStore
from umrgen.server.engines import EngineInfo
from umrgen.server.executors import EngineState, Executor, engine_state
from umrgen.server.ledger import Caps, JobStore, OutputStore, WebhookStore
from umrgen.server.services.admission import Admission
from umrgen.server.services.caller import Caller
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.storage_health import StorageHealth
from umrgen.server.services.subscriptions import Subscriptions

__all__ = ["EngineState", "Figures", "GuideFacts", "ServerCapabilities", "ServerState"]

_DESCRIPTIONS = {
    "procedural": "It has no model: it draws landscapes, buildings and skies from the words of the prompt that are in "
    "its vocabulary.",
    "model": "It is an image model.",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Present values for the metrics; sizes in bytes."""

    queued: int
    running: int
    waiting_calls: int
    images_bytes: int
    free_bytes: int | None
    reserve_bytes: int
    engine_up: bool
    queue_age: float
    """Seconds since the oldest queued job was submitted; 0 without one."""
    webhooks_pending: int
    ledger_bytes: int | None
    """None for a ledger that is not a file."""
    ready: bool


@dataclass(frozen=True, slots=True)
class ServerCapabilities:
    """The server's features and limits for one caller."""

    engine: str
    info: EngineInfo | None
    """None until the engine is loaded."""
    engine_state: EngineState
    size_multiple: int
    max_steps: int
    longest_wait: int
    """Seconds of a long poll."""
    rate: int
    """The caller's requests per minute; 0: no limit, as in `caps`."""
    caps: Caps
    running_cap: int
    default_steps: int
    used_today: int
    """The jobs that the caller's session has submitted today (UTC)."""
    queued: int
    """The queued jobs of all callers."""
    refusal: str | None
    """The code with which a job would be refused now, whoever submits it; None when jobs are accepted."""


@dataclass(frozen=True, slots=True)
class GuideFacts:
    """The facts about the server that the guide shows to everyone; sizes in pixels, the wait in seconds."""

    engine: str
    description: str
    features: tuple[str, ...]
    models: tuple[str, ...]
    prompt_chars: int
    side_min: int
    side_max: int
    side_default: int
    size_multiple: int
    max_steps: int
    default_steps: int
    longest_wait: int


@dataclass(frozen=True, slots=True)
class ServerState:
    """Answers questions about the server itself."""

    clock: Clock
    jobs: JobStore
    outputs: OutputStore
    webhooks: WebhookStore
    blobs: BlobStore
    executor: Executor
    admission: Admission
    subscriptions: Subscriptions
    limits: RateLimits
    engine: str
    longest_wait: float
    running_cap: int
    storage: StorageHealth
    ledger_bytes: Callable[[], int | None]
    """Measures the ledger's file."""
    draws: bool = True
    """Whether this server has an engine; without one, others draw its jobs."""

    async def is_ready(self) -> bool:
        """Return whether the server accepts jobs, can run them, and can store their images and records."""
        loaded = self.executor.info is not None or not self.draws
        runs = loaded and not self.admission.draining and not self.admission.trouble
        return runs and await self.storage.is_well()

    async def figures(self) -> Figures:
        """Return the present figures. Raises LedgerUnavailable and BlobStoreUnavailable."""
        counts, oldest = await self.jobs.count(), await self.jobs.oldest_queued()
        return Figures(
            queued=counts.queued,
            running=counts.running,
            waiting_calls=len(self.subscriptions),
            images_bytes=await self.outputs.kept_bytes(),
            free_bytes=await self.blobs.free_bytes(),
            reserve_bytes=self.admission.reserve_bytes,
            engine_up=self.engine_state != "unavailable",
            queue_age=0.0 if oldest is None else max(0, self.clock.now() - oldest) / 1000,
            webhooks_pending=await self.webhooks.count_pending(),
            ledger_bytes=self.ledger_bytes(),
            ready=await self.is_ready(),
        )

    @property
    def engine_state(self) -> EngineState:
        """Whether the engine can draw now; without one, whether a worker lives."""
        if self.draws:
            return engine_state(self.executor)
        return "elsewhere" if self.executor.loaded else "unavailable"

    @property
    def info(self) -> EngineInfo | None:
        """The engine's description; None until it is loaded."""
        return self.executor.info

    @property
    def models(self) -> tuple[str, ...]:
        """The names that a request may give as its model."""
        return self.executor.info.models if self.executor.info else ()

    def default_steps(self, model: str | None = None) -> int:
        """Return the steps of a request that gives none: the default of its model, or the engine's."""
        info = self.executor.info
        return info.steps_of(model) if info else LIMITS.steps_default

    async def _refusal(self) -> str | None:
        try:
            await self.admission.check_job()
        except Refusal as refusal:
            return refusal.code
        return None

    async def capabilities(self, caller: Caller) -> ServerCapabilities:
        """Return the features and limits for this caller, and the present load. Raises LedgerUnavailable."""
        info = self.executor.info
        return ServerCapabilities(
            engine=self.engine,
            info=info,
            engine_state=self.engine_state,
            size_multiple=info.size_multiple if info else 1,
            max_steps=min(LIMITS.steps_max, info.max_steps if info else LIMITS.steps_max),
            longest_wait=int(self.longest_wait),
            rate=self.limits.rate(caller.key),
            caps=self.limits.caps(caller.key),
            running_cap=self.running_cap,
            default_steps=self.default_steps(),
            used_today=(await self.jobs.count(caller.session_id, now=self.clock.now())).submitted,
            queued=(await self.jobs.count()).queued,
            refusal=await self._refusal(),
        )

    def guide_facts(self) -> GuideFacts:
        """Return the facts for the guide; until the engine is loaded, the limits of the API."""
        info = self.executor.info
        return GuideFacts(
            engine=self.engine,
            description=_DESCRIPTIONS.get(info.kind if info else "", ""),
            features=info.features if info else (),
            models=info.models if info else (),
            prompt_chars=LIMITS.prompt_chars,
            side_min=max(LIMITS.side_min, info.min_side) if info else LIMITS.side_min,
            side_max=min(LIMITS.side_max, info.max_side) if info else LIMITS.side_max,
            side_default=LIMITS.side_default,
            size_multiple=info.size_multiple if info else 1,
            max_steps=min(LIMITS.steps_max, info.max_steps if info else LIMITS.steps_max),
            default_steps=self.default_steps(),
            longest_wait=int(self.longest_wait),
        )
