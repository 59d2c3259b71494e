"""Decoding the images of callers: each in a process of its own, with limits on memory and time.

Image decoders have had vulnerabilities. The file type follows from the content, not from the name or the Content-Type.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from umrgen.server.reencode import HEAD, INSPECT, KEEP, REFUSALS
from umrgen.server.running_time import RunningTimeout
from umrgen.server.services.refusal import Refusal

__all__ = ["MAX_BYTES", "Decoders", "InspectedImage", "Receptions", "ReencodedImage"]

MAX_BYTES = 10 << 20
SECONDS = 20.0
"""The timeout of a decoder process."""
ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
"""The variables that the decoder process gets; others contain keys."""
DECODERS = 2
"""Images that are decoded concurrently: each decoder may use all memory that its limit allows."""
PER_SENDER, IN_ALL = 2, 16
"""Images that are received concurrently; more are refused with Retry-After."""


@dataclass(frozen=True, slots=True)
class ReencodedImage:
    """The pixels of an image; width and height in pixels."""

    width: int
    height: int
    png: bytes
    archive: bytes = b""
    """Of its C2PA manifest; b"" without one."""


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """The values read from an image."""

    hashes: Sequence[tuple[bytes, bytes]]
    """Perceptual hashes to search for, each with the mask of its known bits; [] for an image with too little detail."""
    manifest: dict[str, Any]
    """The C2PA manifest: whether it is `present`, `valid` (None: not checked) and `trusted`, and its `signer`."""
    watermark: str | None = None
    """The payload of the watermark, in hex."""


class Decoders:
    """Runs a bounded number of decoder processes."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(DECODERS)

    async def reencode(self, data: bytes, *, keep_manifest: bool = False) -> "ReencodedImage":
        """Return the pixels of the image in `data`. Raises Refusal."""
        out = await self._run(data, *([KEEP] if keep_manifest else []))
        if len(out) <= HEAD.size:
            raise _unusable("the image cannot be decoded")
        width, height, length = HEAD.unpack_from(out)
        end = HEAD.size + length
        return ReencodedImage(width, height, out[end:], out[HEAD.size : end])

    async def inspect(self, data: bytes, trust: str = "", watermark: str = "") -> InspectedImage:
        """Return what is found in the image. Raises Refusal.

        `trust`: a file with the roots of trusted signers, `watermark`: the class that detects it; "": none.
        """
        found = json.loads(await self._run(data, INSPECT, trust, watermark))
        hashes = [(bytes.fromhex(pdq), bytes.fromhex(known)) for pdq, known in found["hashes"]]
        return InspectedImage(hashes, found["manifest"], found["watermark"])

    async def _run(self, data: bytes, *arguments: str) -> bytes:
        async with self._free:
            return await _decoded(data, *arguments)


class Receptions:
    """Bounds the images that are received concurrently: of each sender, and in all."""

    def __init__(self, in_all: int = IN_ALL) -> None:
        self._in_all = in_all
        self._receiving: Counter[str] = Counter()

    @contextmanager
    def receive(self, sender: str) -> Iterator[None]:
        """Count an image while it is received. Raises Refusal `rate_limited` at the limit."""
        if self._receiving[sender] >= PER_SENDER or self._receiving.total() >= self._in_all:
            raise _busy()
        self._receiving[sender] += 1
        try:
            yield
        finally:
            self._receiving[sender] -= 1
            if not self._receiving[sender]:
                del self._receiving[sender]


def _busy() -> Refusal:
    return Refusal("rate_limited", "too many images are being uploaded", retry_after=2)


def _unusable(detail: str) -> Refusal:
    return Refusal("unsupported_media_type", detail, field="file")


async def _decoded(data: bytes, *arguments: str) -> bytes:
    """Return the output of a decoder for the image in `data`. Raises Refusal."""
    try:
        process = await _decoder(*arguments)
    except OSError:
        raise _busy() from None  # the limit of processes or open files is reached
    try:
        async with RunningTimeout(SECONDS):
            out, _ = await process.communicate(data)
    except TimeoutError:
        raise _unusable(f"the image was not decoded within {SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode in REFUSALS:
        raise _unusable(REFUSALS[process.returncode])
    if process.returncode != 0:
        raise _unusable("the image cannot be decoded")
    return out


async def _decoder(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # do not import modules from the working folder
        "-m",
        "umrgen.server.reencode",
        *arguments,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
