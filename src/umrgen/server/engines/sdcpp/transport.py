"""The routes of sd-server. No other module uses them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.remote_http import RemoteHttp, ResponseLost
from umrgen.server.engines.sdcpp import answers
from umrgen.server.engines.sdcpp.answers import SdCapabilities, SdJob

__all__ = ["SdClient", "SdQueueFull"]

LARGEST_RESULT = 512 << 20
"""Bytes of a job with its images, in base64."""
TRANSFER_FACTOR = 4
"""Deadlines of a result, in deadlines of another call."""


class SdQueueFull(Exception):
    """The server accepts no further job now."""


class SdClient:
    """The client of one sd-server."""

    def __init__(self, url: str, timeout: float) -> None:
        self._http = RemoteHttp(url, timeout, "sd-server")

    async def close(self) -> None:
        await self._http.close()

    async def capabilities(self) -> SdCapabilities:
        status, body = await self._http.call("GET", "/sdcpp/v1/capabilities")
        if status != 200:
            raise ResponseLost(f"sd-server answered {status} to a call of its capabilities")
        return self._http.parse(answers.capabilities, body)

    async def submit(self, request: Mapping[str, Any]) -> str:
        """Submit a job, and return its id. Raises SdQueueFull, and EngineFailure for a request that is refused."""
        status, body = await self._http.call(
            "POST", "/sdcpp/v1/img_gen", content=msgspec.json.encode(request), patience=TRANSFER_FACTOR
        )
        if status == 202:
            return self._http.parse(answers.accepted, body)
        if status == 429:
            raise SdQueueFull
        if status == 400:
            raise EngineFailure(f"sd-server refuses the request: {self._http.parse(answers.refusal, body)}")
        raise ResponseLost(f"sd-server answered {status} to a job")

    async def job(self, job_id: str) -> SdJob | None:
        """Return a job; None if the server does not have it any more."""
        status, body = await self._http.call(
            "GET", f"/sdcpp/v1/jobs/{job_id}", limit=LARGEST_RESULT, patience=TRANSFER_FACTOR
        )
        if status in (404, 410):
            return None
        if status != 200:
            raise ResponseLost(f"sd-server answered {status} to the status of a job")
        return self._http.parse(answers.job, body)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job; no effect on one that is over."""
        await self._http.call("POST", f"/sdcpp/v1/jobs/{job_id}/cancel")
