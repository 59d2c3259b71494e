"""Reference images: what comes in is decoded far from here and encoded anew, so that only pixels remain.

Decoders of images have had holes. The one here runs in a process of its own, for one image, with little
memory and little time; what it cannot read is refused, whatever it calls itself.
"""

import asyncio
import hashlib
import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from umrgen.errors import UmrgenError
from umrgen.jobs import LIMITS
from umrgen.server.clock import Clock
from umrgen.server.ledger import Ledger, Upload, UploadsFull
from umrgen.server.reencode import HEAD, REFUSALS
from umrgen.server.storage import Storage

__all__ = ["MAX_BYTES", "TooBusy", "UnusableImage", "Uploads"]

MAX_BYTES = 10 << 20
SECONDS = 20.0
_NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
"""Of the environment: it holds keys, which are nothing for a process that reads strangers' bytes."""
AT_ONCE = 2
"""Images decoded at a time: each may take its whole allowance of memory."""
OF_SESSION = 2
IN_ALL = 16
"""Images that come in at a time; more are asked to come again."""


class UnusableImage(UmrgenError):
    """These bytes are no image that is taken here."""

    code = "unsupported_media_type"


class TooBusy(UmrgenError):
    """Too many images are being taken at the moment."""

    code = "rate_limited"
    retryable = True


class Uploads:
    """A session's reference images."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, storing: set[str]) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._storing = storing
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def admitted(self, session_id: str) -> Iterator[None]:
        """Room for one image that comes in. Raises TooBusy, before anything of it is read."""
        if self._under_way[session_id] >= OF_SESSION or self._under_way.total() >= IN_ALL:
            raise TooBusy
        self._under_way[session_id] += 1
        try:
            yield
        finally:
            self._under_way[session_id] -= 1
            if not self._under_way[session_id]:
                del self._under_way[session_id]

    async def check_room(self, session_id: str) -> None:
        """Raises UploadsFull when the session has as many as it may."""
        if len(await self._ledger.uploads(session_id)) >= LIMITS.references:
            raise UploadsFull

    async def add(self, session_id: str, data: bytes) -> Upload:
        """Take an image. Raises UnusableImage, UploadsFull, OSError; then nothing of it is left."""
        async with self._turns:
            width, height, png = await _encode_anew(data)
        upload = Upload(
            name=f"ref_{secrets.token_hex(16)}.png",
            session_id=session_id,
            bytes=len(png),
            sha256=hashlib.sha256(png).hexdigest(),
            width=width,
            height=height,
            created_at=self._clock.now(),
        )
        self._storing.add(upload.name)
        try:
            await self._storage.put(session_id, upload.name, png)
            try:
                await self._ledger.add_upload(upload, cap=LIMITS.references)
            except UmrgenError:
                with suppress(OSError):
                    await self._storage.delete(session_id, upload.name)
                raise
        finally:
            self._storing.discard(upload.name)
        return upload

    async def all(self, session_id: str) -> list[Upload]:
        return await self._ledger.uploads(session_id)

    async def missing(self, session_id: str, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that are no references of this session."""
        return [name for name in names if await self._ledger.upload(session_id, name) is None]

    async def remove(self, session_id: str, name: str) -> bool:
        """Whether there was one of that name."""
        if not await self._ledger.remove_upload(session_id, name):
            return False
        with suppress(OSError):  # the next sweep finds it
            await self._storage.delete(session_id, name)
        return True


async def _encode_anew(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and PNG of the image in `data`. Raises UnusableImage."""
    try:
        process = await _decoder()
    except OSError:
        raise TooBusy from None  # no process or no file is to be had
    try:
        async with asyncio.timeout(SECONDS):
            out, _ = await process.communicate(data)
    except TimeoutError:
        raise UnusableImage("the image takes too long to decode") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode in REFUSALS:
        raise UnusableImage(REFUSALS[process.returncode])
    if process.returncode != 0 or len(out) <= HEAD.size:
        raise UnusableImage("the image cannot be decoded")
    width, height = HEAD.unpack_from(out)
    return width, height, out[HEAD.size :]


async def _decoder() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # what lies in the working folder is not ours
        "-m",
        "umrgen.server.reencode",
        env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
