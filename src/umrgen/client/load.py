"""A fixed load on a server, for `umrgen bench`: several callers, each of which draws one image after another."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from umrgen.client.async_client import AsyncClient
from umrgen.clock import Clock
from umrgen.errors import UmrgenError

__all__ = ["Load", "LoadResult", "run_load"]

SUBJECTS = ("a lighthouse", "an old harbour", "a mountain lake", "a market square", "a garden", "a train station")
SCENES = ("at dusk", "in winter", "after the rain", "in the morning fog", "at noon", "under the stars")


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers request. Sides in pixels; None: the server's default."""

    callers: int = 1
    images: int = 20
    """Of all callers together."""
    repeated: bool = False
    """One prompt with new seeds, instead of a new prompt for each image."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further parameters of each request: width, height, steps, model, ..."""

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the requests in their order; the same in every run."""
        for number in range(self.images):
            subject = SUBJECTS[0] if self.repeated else SUBJECTS[number % len(SUBJECTS)]
            scene = SCENES[0] if self.repeated else f"{SCENES[number // len(SUBJECTS) % len(SCENES)]}, number {number}"
            yield {"prompt": f"{subject} {scene}", "seed": number, **self.request}


@dataclass(slots=True)
class LoadResult:
    """The times of all images, in seconds."""

    seconds: float = 0.0
    """From the first request to the last image."""
    to_image: list[float] = field(default_factory=list)
    """From a request to its verified image in memory."""
    queued: list[float] = field(default_factory=list)
    """From a job's creation to its start, by the server's clock; empty for a server that does not report them."""
    bytes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By error code."""
    first_failures: dict[str, UmrgenError] = field(default_factory=dict)
    """The first error of each code."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures; times in seconds, None where there is no image."""
        return {
            "images": len(self.to_image),
            "failures": dict(self.failures),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(len(self.to_image) / self.seconds, 4) if self.seconds else None,
            "time_to_image": _percentiles(self.to_image),
            "queue_time": _percentiles(self.queued),
            "bytes": self.bytes,
        }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the nearest-rank percentiles."""
    if not values:
        return None
    ordered = sorted(values)
    return {f"p{share}": round(ordered[max(0, -(-share * len(ordered) // 100) - 1)], 4) for share in (50, 95)}


async def run_load(client: AsyncClient, load: Load, clock: Clock, on_image: Callable[[int], None]) -> LoadResult:
    """Run the load; `on_image` is called with the number of requests that are over. A failure ends no caller."""
    result, requests = LoadResult(), load.requests()
    began = clock.monotonic()

    async def caller() -> None:
        for request in requests:  # shared: each caller takes the next one
            try:
                await _draw(client, request, clock, result)
            except UmrgenError as error:
                result.failures[error.code] += 1
                result.first_failures.setdefault(error.code, error)
            on_image(len(result.to_image) + result.failures.total())

    await asyncio.gather(*(caller() for _ in range(load.callers)))
    result.seconds = clock.monotonic() - began
    return result


async def _draw(client: AsyncClient, request: dict[str, Any], clock: Clock, result: LoadResult) -> None:
    began = clock.monotonic()
    job = await client.submit(**request, wait_for_slot=True)
    status = await job.wait()
    image = await job.image()
    result.to_image.append(clock.monotonic() - began)
    result.bytes += image.bytes
    created, started = (status.raw.get(name) for name in ("created_at", "started_at"))
    if isinstance(created, int) and isinstance(started, int):
        result.queued.append((started - created) / 1000)
