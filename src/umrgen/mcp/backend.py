"""The interface between the tools and an UMRGEN server; one implementation uses the client, one the services."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from umrgen.model import Status

__all__ = ["ImageBackend"]


class ImageBackend(Protocol):
    """One server, for one caller. Every method raises UmrgenError."""

    delivery: str
    """The sentence of an answer about the images of a completed job: the next step."""

    def attend(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[str]:
        """Submit a job, and provide its id for the time of the call.

        A call that ends with an exception or a cancellation leaves its job to the next call with an equal request.
        """
        ...

    def watch(self, job_id: str) -> AsyncIterator[Status]:
        """Yield the job's status now, then each change; end when it is over, or when the server stops."""
        ...

    async def get(self, job_id: str) -> Status: ...
    async def cancel(self, job_id: str) -> Status: ...

    async def page(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the caller's last jobs, newest first: `job_id`, `state`, `prompt`."""
        ...

    async def deliver(self, status: Status) -> Sequence[str]:
        """Return where the images of a completed job are, for the agent: paths or URLs."""
        ...

    async def image(self, job_id: str, number: int) -> bytes:
        """Return an image of a completed job; `number` counts from 1."""
        ...

    async def describe(self) -> Mapping[str, Any]:
        """Return the server's capabilities."""
        ...
