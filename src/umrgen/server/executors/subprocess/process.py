"""One engine process: frames in, frames out, and how it ended."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from umrgen.server.engines import EngineCrashed, EngineStalled
from umrgen.server.executors.channel import ProcessChannel
from umrgen.server.executors.frames import FrameError
from umrgen.server.executors.link import INVALID, SECRETS, EngineLink
from umrgen.server.signing import SigningOptions

__all__ = ["EngineProcess"]

INBOX = 32
"""Frames of a job that are buffered; an engine that sends more must wait."""


class EngineProcess(EngineLink):
    """A running engine process."""

    def __init__(self, channel: ProcessChannel) -> None:
        super().__init__(INBOX)
        self._channel = channel
        self._ended = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start_command(cls, *command: str, environment: Mapping[str, str] | None = None) -> "EngineProcess":
        return cls(await ProcessChannel.start(*command, environment=environment))

    @classmethod
    async def spawn(
        cls,
        engine: str,
        options: Mapping[str, Any],
        *,
        device: int = 0,
        load_timeout: float,
        memory: int = 0,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> "EngineProcess":
        """Start an engine and wait until it is loaded, at most `load_timeout` seconds.

        The process finds the number of its device in UMRGEN_DEVICE. `memory` is its limit in MiB (0: none). Raises
        EngineFailure and EngineCrashed.
        """
        process = await cls.start_command(
            sys.executable,
            "-m",
            "umrgen.server.executors.subprocess.worker",
            engine,
            json.dumps(options),
            str(memory),
            signing.to_json() if signing is not None else "null",
            watermark,
            # An engine needs no key, so nothing that it prints or dumps can contain one.
            environment={name: value for name, value in os.environ.items() if name not in SECRETS}
            | {"UMRGEN_DEVICE": str(device)},
        )
        try:
            await process.loaded(load_timeout)
        except BaseException as error:
            await process.kill()
            if isinstance(error, TimeoutError):
                error = EngineStalled(f"it was not loaded after {load_timeout:g} s")
            if isinstance(error, EngineCrashed):
                raise EngineCrashed(f"the engine {engine} did not start: {error}") from None
            raise
        return process

    @property
    def alive(self) -> bool:
        return self._channel.returncode is None and not self._ended

    @property
    def pid(self) -> int:
        return self._channel.pid

    async def ended(self) -> None:
        await self._channel.wait()

    def end(self) -> None:
        self._ended = True
        self._channel.end()

    async def kill(self) -> None:
        self._ended = True
        await self._channel.kill()
        self._reader.cancel()
        await asyncio.wait({self._reader})
        self._publish_end(EngineCrashed(self._channel.how_it_ended()))

    def _write(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._channel.write(head, body)

    async def _drain(self) -> None:
        await self._channel.drain()

    async def _read(self) -> None:
        try:
            while True:
                await self._deliver(await self._channel.frame())
        except (asyncio.IncompleteReadError, OSError):
            end = EngineCrashed(await self._channel.wait_for_end())
        except (FrameError, ValueError, RecursionError):
            self.end()
            end = EngineCrashed(INVALID)
        finally:
            self._channel.close()
        self._publish_end(end)
