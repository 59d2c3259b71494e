"""Engines on this machine: one process per device, replaced when it ends."""

import asyncio
from collections.abc import Mapping
from typing import Any

from umrgen.server.executors import WatchdogLimits
from umrgen.server.executors.pool import EnginePool
from umrgen.server.executors.subprocess.load_limit import load_limit
from umrgen.server.executors.subprocess.process import EngineProcess
from umrgen.server.signing import SigningOptions

__all__ = ["SubprocessExecutor"]


class SubprocessExecutor(EnginePool[EngineProcess]):
    """Implements `Executor` with `devices` processes of one engine."""

    def __init__(
        self,
        engine: str,
        options: Mapping[str, Any],
        *,
        devices: int = 1,
        watchdog: WatchdogLimits | None = None,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> None:
        super().__init__(devices, watchdog)
        self._engine = engine
        self._options = options
        self._signing = signing
        self._watermark = watermark

    async def _spawn(self, device: int) -> EngineProcess:
        return await EngineProcess.spawn(
            self._engine,
            self._options,
            device=device,
            load_timeout=await asyncio.to_thread(load_limit, self._watchdog.load_timeout, self._options),
            memory=self._watchdog.memory,
            signing=self._signing,
            watermark=self._watermark,
        )
