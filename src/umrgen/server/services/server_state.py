"""The server's readiness, its figures for operators, and its capabilities for callers."""

from dataclasses import dataclass

from umrgen.model import LIMITS, State
from umrgen.server.blobs import BlobStore
from umrgen.server.engines import EngineInfo
from umrgen.server.executors import Executor
from umrgen.server.ledger import Caps, JobStore, OutputStore
from umrgen.server.services.admission import Admission
from umrgen.server.services.caller import Caller
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.subscriptions import Subscriptions

__all__ = ["Figures", "GuideFacts", "ServerCapabilities", "ServerState"]

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
    engine_up: bool


@dataclass(frozen=True, slots=True)
class ServerCapabilities:
    """The server's features and limits for one caller."""

    engine: str
    info: EngineInfo | None
    """None until the engine is loaded."""
    size_multiple: int
    max_steps: int
    longest_wait: int
    """Seconds of a long poll."""
    rate: int
    """The caller's requests per minute; 0: no limit, as in `caps`."""
    caps: Caps
    running_cap: int


@dataclass(frozen=True, slots=True)
class GuideFacts:
    """The facts about the server that the guide shows to everyone; sizes in pixels, the wait in seconds."""

    engine: str
    description: str
    features: tuple[str, ...]
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

    jobs: JobStore
    outputs: OutputStore
    blobs: BlobStore
    executor: Executor
    admission: Admission
    subscriptions: Subscriptions
    limits: RateLimits
    engine: str
    longest_wait: float
    running_cap: int

    def is_ready(self) -> bool:
        """Return whether the server accepts jobs and can run them."""
        return not self.admission.draining and self.executor.info is not None and not self.executor.trouble

    async def figures(self) -> Figures:
        """Return the present figures. Raises LedgerUnavailable and BlobStoreUnavailable."""
        counts = await self.jobs.count()
        return Figures(
            queued=counts[State.QUEUED],
            running=counts[State.RUNNING],
            waiting_calls=len(self.subscriptions),
            images_bytes=await self.outputs.kept_bytes(),
            free_bytes=await self.blobs.free_bytes(),
            engine_up=self.executor.trouble is None,
        )

    def capabilities(self, caller: Caller) -> ServerCapabilities:
        """Return the features and limits for this caller."""
        info = self.executor.info
        return ServerCapabilities(
            engine=self.engine,
            info=info,
            size_multiple=info.size_multiple if info else 1,
            max_steps=min(LIMITS.steps_max, info.max_steps if info else LIMITS.steps_max),
            longest_wait=int(self.longest_wait),
            rate=self.limits.rate(caller.key),
            caps=self.limits.caps(caller.key),
            running_cap=self.running_cap,
        )

    def guide_facts(self) -> GuideFacts:
        """Return the facts for the guide; until the engine is loaded, the limits of the API."""
        info = self.executor.info
        return GuideFacts(
            engine=self.engine,
            description=_DESCRIPTIONS.get(info.kind if info else "", ""),
            features=info.features if info else (),
            prompt_chars=LIMITS.prompt_chars,
            side_min=max(LIMITS.side_min, info.min_side) if info else LIMITS.side_min,
            side_max=min(LIMITS.side_max, info.max_side) if info else LIMITS.side_max,
            side_default=LIMITS.side_default,
            size_multiple=info.size_multiple if info else 1,
            max_steps=min(LIMITS.steps_max, info.max_steps if info else LIMITS.steps_max),
            default_steps=LIMITS.steps_default,
            longest_wait=int(self.longest_wait),
        )
