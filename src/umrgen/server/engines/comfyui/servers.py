"""The ComfyUI servers of an engine: which ones respond, how many prompts each may have, and which one gets a job."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from umrgen.model import LIMITS
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EngineCrashed, EngineFailure, EngineInfo
from umrgen.server.engines.comfyui.transport import ComfyClient
from umrgen.server.engines.remote_http import ServerUnreachable

__all__ = ["ComfyServer", "ComfyServers", "models_of", "parse_urls"]

log = logging.getLogger(__name__)

FAILURES = 2
"""Health checks in a row after which a server that accepts connections does not count as responding."""
LARGEST_CAPACITY = 64
HOST = re.compile(r"[\w.:%-]+")

Check = Callable[["ComfyServer", str], Awaitable[None]]
"""Checks a server that has begun to respond, with its version. Raises EngineFailure and EngineCrashed."""


def parse_urls(urls: str | list[str]) -> list[tuple[str, int]]:
    """Return the base URLs and capacities of `URL`, `URL*2`, or several with commas. Raises ValueError."""
    if not isinstance(urls, str) and not (isinstance(urls, list) and all(isinstance(url, str) for url in urls)):
        raise ValueError(f"url must be a text or a list; got {urls!r}")
    texts = [text for item in ([urls] if isinstance(urls, str) else urls) for text in item.split(",") if text.strip()]
    parsed = [_parse_url(text.strip()) for text in texts]
    if not parsed:
        raise ValueError("url must have one URL or more")
    if len({url for url, _ in parsed}) < len(parsed):
        raise ValueError("url has the same URL twice; write URL*2 for two prompts at a time")
    return parsed


def _parse_url(text: str) -> tuple[str, int]:
    url, star, count = text.partition("*")
    capacity = int(count) if count.isdecimal() else 0
    parts = urlsplit(url)
    valid = parts.scheme in ("http", "https") and HOST.fullmatch(parts.hostname or "") and parts.port != 0
    if not valid or parts.query or parts.fragment:
        raise ValueError(f"url must be such as http://127.0.0.1:8188; got {_without_password(text)!r}")
    if star and not 1 <= capacity <= LARGEST_CAPACITY:
        raise ValueError(f"a capacity must be 1 to {LARGEST_CAPACITY}; got {count!r}")
    return url.rstrip("/"), capacity or 1


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


class ComfyServer:
    """One server."""

    def __init__(self, client: ComfyClient, capacity: int) -> None:
        self.client = client
        self.address = _without_password(client.url)
        """For the log; callers do not see it."""
        self.capacity = capacity
        self.info: EngineInfo | None = None
        """What the workflow can do here; known when it responds for the first time."""
        self.seed_max = LIMITS.seed_max
        """The largest seed that the workflow's inputs accept here."""
        self.chooses_ids = False
        """Whether its version ignores the id of a prompt, and chooses one."""
        self.responds = False
        self.busy = 0
        """Prompts of this process."""
        self.warm: Hashable = None
        """The models that the last prompt used."""
        self.trouble = ""
        """The reason why it is not used, for the operator."""
        self._failures = 0

    @contextmanager
    def slot(self, models: Hashable) -> Iterator[None]:
        """Count a prompt of this server."""
        self.busy += 1
        self.warm = models
        try:
            yield
        finally:
            self.busy -= 1

    async def refresh(self, check: Check) -> bool:
        """Find out whether the server responds, and check it when it has begun to. Return whether it has begun to."""
        try:
            version = await self.client.version()
            self._failures = 0
            if self.responds:
                return False
            self.chooses_ids = _chooses_ids(version)
            await check(self, version)
        except (EngineCrashed, EngineFailure) as error:
            self._failed(error)
            return False
        self.responds, self.trouble, self.warm = True, "", None
        log.info("ComfyUI at %s responds", self.address)
        return True

    def _failed(self, error: EngineCrashed | EngineFailure) -> None:
        self._failures += 1
        if self.responds and self._failures < FAILURES and not isinstance(error, ServerUnreachable):
            return
        if self.responds or self.trouble != str(error):
            log.warning("ComfyUI at %s is not used: %s", self.address, error)
        self.responds, self.trouble = False, str(error)

    def lost(self, error: EngineCrashed) -> None:
        """Observe a call that failed."""
        if isinstance(error, ServerUnreachable):
            self._failed(error)


class ComfyServers:
    """All servers of an engine."""

    def __init__(self, servers: Iterable[ComfyServer]) -> None:
        self.all = tuple(servers)

    @property
    def capacity(self) -> int:
        return sum(server.capacity for server in self.all if server.responds)

    def responding(self) -> list[ComfyServer]:
        return [server for server in self.all if server.responds]

    async def refresh(self, check: Check) -> bool:
        """Check all servers. Return whether one has begun to respond."""
        return any(await asyncio.gather(*(server.refresh(check) for server in self.all)))

    def choose(self, request: GenerationRequest, without: Iterable[ComfyServer] = ()) -> ComfyServer | None:
        """Return the server for a job: one with a free place whose models are loaded, or the one with least work."""
        there = [server for server in self.responding() if server not in without and _can_draw(server, request)]
        models = models_of(request)
        return min(there, key=lambda server: _preference(server, models), default=None)

    async def unload(self) -> None:
        """Unload the models of all servers that respond."""
        for server in self.responding():
            try:
                await server.client.free()
                server.warm = None
            except EngineCrashed as error:
                server.lost(error)
                log.warning("ComfyUI at %s did not unload its models: %s", server.address, error)

    async def close(self) -> None:
        await asyncio.gather(*(server.client.close() for server in self.all))


def models_of(request: GenerationRequest) -> Hashable:
    """Return the models that a request needs in memory."""
    return request.model, tuple(lora.name for lora in request.loras)


def _can_draw(server: ComfyServer, request: GenerationRequest) -> bool:
    """Return whether the server has the files that the request names."""
    if server.info is None:
        return False
    loras = {lora.name for lora in request.loras}
    return request.model in (None, *server.info.models) and loras <= {*server.info.loras}


def _chooses_ids(version: str) -> bool:
    """Return whether a version may ignore the id of a prompt: the early ones of 0.3 do, and their numbers vary."""
    return version in ("", "unknown") or version.removeprefix("v").startswith(("0.0.", "0.1.", "0.2.", "0.3."))


def _preference(server: ComfyServer, models: Hashable) -> tuple[bool, bool, bool, float]:
    """Return a sort key: a free place, then loaded models, then a server without other models, then its load."""
    full = server.busy >= server.capacity
    other = server.warm is not None and server.warm != models
    return full, server.warm != models, other, server.busy / server.capacity
