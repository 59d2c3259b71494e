"""Reference images: what comes in is decoded far from here and encoded anew, so that only pixels remain.

Decoders of images have had holes. The one here runs in a process of its own, for one image, with little
memory and little time; what it cannot read is refused, whatever it calls itself.
"""

import asyncio
import hashlib
import secrets
import sys
from contextlib import suppress

from umrgen.errors import UmrgenError
from umrgen.jobs import LIMITS
from umrgen.server.clock import Clock
from umrgen.server.ledger import Ledger, Upload
from umrgen.server.reencode import HEAD, REFUSALS
from umrgen.server.storage import Storage

__all__ = ["MAX_BYTES", "UnusableImage", "Uploads"]

MAX_BYTES = 10 << 20
SECONDS = 20.0
AT_ONCE = 2
"""Images decoded at a time: each may take its whole allowance of memory."""


class UnusableImage(UmrgenError):
    """These bytes are no image that is taken here."""

    code = "unsupported_media_type"


class Uploads:
    """A session's reference images."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, storing: set[str]) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._storing = storing
        self._turns = asyncio.Semaphore(AT_ONCE)

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
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # what lies in the working folder is not ours
        "-m",
        "umrgen.server.reencode",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
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
