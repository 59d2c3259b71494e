"""The tools' backend over the client: any UMRGEN server, older ones included. Images become files in a folder."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umrgen.client.async_client import AsyncClient
from umrgen.client.job import AsyncJob
from umrgen.clock import Clock, SystemClock
from umrgen.errors import OutputMissing, TargetUnusable, Unsupported
from umrgen.model import State, Status

__all__ = ["ClientBackend"]

UNCLAIMED_SECONDS = 600.0
"""Seconds in which an equal call takes the job of a call that was cut off, as on the server."""


@dataclass
class _CutOff:
    """A call that was cut off: its request, to be sent again under the same idempotency key, or its job."""

    request: Mapping[str, Any]
    body: Mapping[str, Any]
    key: str
    job: AsyncJob | None = None
    until: float = 0.0


class ClientBackend:
    """Implements `ImageBackend`. Connects with the first call."""

    def __init__(self, connect: Callable[[], Awaitable[AsyncClient]], folder: Path, clock: Clock | None = None) -> None:
        """`connect` is called once; `folder` gets the images, and is created with the first one."""
        self.delivery = "The image is saved. Report its path; view_image shows a small copy."
        self._connect = connect
        self._folder = folder
        self._clock = clock or SystemClock()
        self._client: AsyncClient | None = None
        self._jobs: dict[str, AsyncJob] = {}
        self._cut_off: list[_CutOff] = []

    async def _connected(self) -> AsyncClient:
        if self._client is None:
            self._client = await self._connect()
        return self._client

    @asynccontextmanager
    async def attend(self, request: Mapping[str, Any]) -> AsyncIterator[str]:
        client = await self._connected()
        call = self._take(request) or _CutOff(request, _with_seed(request), secrets.token_hex(16))
        try:
            if call.job is None:
                call.job = await client.submit(**call.body, idempotency_key=call.key)
            self._jobs[call.job.id] = call.job
            yield call.job.id
        except BaseException:
            call.until = self._clock.monotonic() + UNCLAIMED_SECONDS
            self._cut_off.append(call)
            raise

    def _take(self, request: Mapping[str, Any]) -> _CutOff | None:
        """Return and remove the oldest equal call that was cut off in the last ten minutes and has not failed."""
        now = self._clock.monotonic()
        self._cut_off = [call for call in self._cut_off if call.until > now]
        for call in self._cut_off:
            if call.request == request and not _has_failed(call.job):
                self._cut_off.remove(call)
                return call
        return None

    async def _job(self, job_id: str) -> AsyncJob:
        if job_id not in self._jobs:
            self._jobs[job_id] = (await self._connected()).job(job_id)
        return self._jobs[job_id]

    async def watch(self, job_id: str) -> AsyncGenerator[Status, None]:
        job = await self._job(job_id)
        async with aclosing(job.watch()) as changes:  # type: ignore[type-var]
            async for status in changes:
                yield status

    async def get(self, job_id: str) -> Status:
        return await (await self._job(job_id)).status()

    async def cancel(self, job_id: str) -> Status:
        return await (await self._job(job_id)).cancel()

    async def page(self, limit: int) -> Sequence[Mapping[str, Any]]:
        client = await self._connected()
        try:
            jobs = [dict(job.raw) async for job in client.jobs(limit=limit)]
        except Unsupported:
            if client.journal is None:
                raise
            entries = client.journal.entries()[::-1]
            jobs = [{"job_id": one.job_id, "state": one.end, "prompt": one.request.get("prompt")} for one in entries]
        return [{name: job.get(name) for name in ("job_id", "state", "prompt")} for job in jobs[:limit]]

    async def deliver(self, status: Status) -> Sequence[str]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise TargetUnusable(
                f"the folder {self._folder} cannot be created",
                job_id=status.job_id,
                next="Start `umrgen mcp` with --folder and a folder that can be written.",
            ) from None
        job = await self._job(status.job_id)
        saved = await job.download_all(self._folder / f"{status.job_id}.png", again=True)
        return [str(image.path.resolve()) for image in saved]

    async def image(self, job_id: str, number: int) -> bytes:
        status = await self.get(job_id)
        paths = await self.deliver(status) if status.state == State.COMPLETED else ()
        if len(paths) < number:
            reason = f"the job is {status.state}" if not paths else f"the job has {len(paths)} images"
            raise OutputMissing(reason, job_id=job_id, next="Call wait_for_job first.")
        return Path(paths[number - 1]).read_bytes()

    async def describe(self) -> Mapping[str, Any]:
        client = await self._connected()
        try:
            return (await client.capabilities()).raw
        except Unsupported:
            return {"server": client.transport.base_url, "note": "an older server, which does not describe itself"}

    @property
    def unfinished(self) -> bool:
        """True if a job was not over in its last response."""
        return any(not isinstance(job.outcome, Status) for job in self._jobs.values())

    async def aclose(self) -> None:
        """Close the connections. Jobs continue on the server."""
        if self._client is not None:
            await self._client.aclose()


def _with_seed(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request with a seed, so that it stays the same when it is sent again."""
    return dict(request) if request.get("seed", -1) != -1 else {**request, "seed": secrets.randbits(32)}


def _has_failed(job: AsyncJob | None) -> bool:
    return job is not None and isinstance(job.outcome, Status) and job.outcome.state == State.FAILED
