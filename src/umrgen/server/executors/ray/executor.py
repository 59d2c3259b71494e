"""Engines in actors of a Ray cluster: one for each GPU, or part of one, as far as its nodes have them."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from umrgen.server.engines import EngineCrashed, EngineStalled
from umrgen.server.executors import WatchdogLimits
from umrgen.server.executors.pool import FIRST_DELAY, LAST_SECONDS, EnginePool, start_failure
from umrgen.server.executors.ray.connection import LOST, ActorLink, RayConnection
from umrgen.server.executors.ray.spec import EngineSpec, RaySpec
from umrgen.server.running_time import RunningTimeout
from umrgen.server.signing import SigningOptions
from umrgen.server.tasks import cancelled

__all__ = ["RayExecutor"]

log = logging.getLogger(__name__)

CONNECT_SECONDS = 120.0
"""Ray itself stops trying after a minute."""
LONGEST_DELAY = 10.0
"""Seconds until Ray is tried again."""
PATIENCE = 10.0
"""Seconds without a node for an engine until that is logged."""


class RayExecutor(EnginePool[ActorLink]):
    """Implements `Executor` with up to `devices` actors, each placed on a node when it has the resources."""

    def __init__(
        self,
        engine: str,
        options: Mapping[str, Any],
        *,
        address: str,
        resources: Mapping[str, float],
        devices: int = 1,
        watchdog: WatchdogLimits | None = None,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> None:
        super().__init__(devices, watchdog)
        signing_options = signing.to_json() if signing is not None else "null"
        spec = EngineSpec(engine, options, self._watchdog.memory, signing_options, watermark)
        self._spec = RaySpec(address, resources, spec)
        self._connection: RayConnection | None = None
        self._connected = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._warned = False
        """Whether it was logged, since an engine was loaded, that no node has the resources."""

    # --- the connection ---

    async def ready(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._stay_connected())
        await super().ready()

    async def _stay_connected(self) -> None:
        """Connect to Ray, and again whenever the connection ends, until cancelled."""
        delay = FIRST_DELAY
        while True:
            try:
                self._connection = await RayConnection.open(self._spec, CONNECT_SECONDS)
            except Exception as error:  # no engine would be started again without this task
                self.trouble = start_failure(error)
                log.error("%s; trying again in %.0f s", self.trouble, delay)
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)
                continue
            self.trouble, delay = None, FIRST_DELAY
            self._connected.set()
            await self._connection.lost()
            self.trouble = LOST
            await self._connection.close()

    async def _current(self) -> RayConnection:
        while self._connection is None or not self._connection.alive:
            self._connected.clear()
            await self._connected.wait()
        return self._connection

    async def stop(self) -> None:
        if self._connecting is not None:
            await cancelled(*self._keepers, self._connecting, limit=LAST_SECONDS)
            self._connecting = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        await super().stop()

    # --- engines ---

    async def _spawn(self, device: int) -> ActorLink:
        while True:
            connection = await self._current()
            link = connection.engine()
            try:
                await self._load(link)
            except EngineCrashed as error:
                link.end()
                if connection.alive:
                    raise type(error)(f"the engine {self._spec.engine.engine} did not start: {error}") from None
            except BaseException:
                link.end()
                raise
            else:
                self._warned = False
                return link

    async def _load(self, link: ActorLink) -> None:
        """Wait until Ray has placed the engine on a node, and until it is loaded there."""
        await self._place(link)
        limit = self._watchdog.load_timeout
        try:
            await link.loaded(limit)
        except TimeoutError:
            raise EngineStalled(f"it was not loaded after {limit:g} s") from None

    async def _place(self, link: ActorLink) -> None:
        """Wait for a node, without a limit: one may be added, or an autoscaler may start one for the waiting actor."""
        for seconds, effect in ((PATIENCE, self._warn), (self._watchdog.load_timeout, self._note_trouble)):
            try:
                async with RunningTimeout(seconds):
                    return await link.placed()
            except TimeoutError:
                effect()
        return await link.placed()

    def _warn(self) -> None:
        if not self.capacity and not self._warned:
            self._warned = True
            log.warning("%s; jobs wait until one has", self._no_node())

    def _note_trouble(self) -> None:
        if not self.capacity:
            self.trouble = self._no_node()

    def _no_node(self) -> str:
        needed = ", ".join(f"{name}={number:g}" for name, number in self._spec.resources.items())
        return f"no node of the Ray cluster has {needed} free, which an engine needs (ray_resources)"
