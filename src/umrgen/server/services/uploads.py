"""Reference images: decoded in a separate process and encoded again, so that only pixels remain."""

import asyncio
import hashlib
import secrets
from contextlib import ExitStack, suppress
from weakref import WeakValueDictionary

from umrgen.clock import Clock
from umrgen.model import LIMITS
from umrgen.server.blobs import BlobStore, BlobStoreUnavailable
from umrgen.server.domain.references import archive_name, upload_name
from umrgen.server.ledger import LedgerUnavailable, Upload, UploadsFull, UploadStore
from umrgen.server.services.admission import Admission
from umrgen.server.services.caller import Caller
from umrgen.server.services.decoding import Decoders, Receptions, ReencodedImage
from umrgen.server.services.refusal import Refusal

__all__ = ["Reservation", "Upload", "Uploads"]

HOUR = 3_600_000


class Uploads:
    """Stores, lists and deletes reference images."""

    def __init__(
        self,
        uploads: UploadStore,
        blobs: BlobStore,
        clock: Clock,
        admission: Admission,
        hours: float,
        decoders: Decoders,
        receptions: Receptions,
        *,
        keep_manifests: bool = False,
    ) -> None:
        """`hours`: how long retention keeps a reference image. `keep_manifests`: for the server that signs images."""
        self._keep_manifests = keep_manifests
        self._lifetime = int(hours * HOUR)
        self._uploads = uploads
        self._blobs = blobs
        self._clock = clock
        self._admission = admission
        self._decoders = decoders
        self._receptions = receptions
        self._adding: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Locks by session and digest: of concurrent uploads of one image, the second finds the record of the first."""

    async def admit(self, caller: Caller) -> "Reservation":
        """Return a reservation for one image, before its body is read. Raises Refusal."""
        await self._admission.check_upload()
        return Reservation(self, caller.session_id, self._receptions)

    async def add(self, session_id: str, data: bytes) -> Upload:
        """Decode an image, encode its pixels again, and store it. Raises Refusal; then nothing was stored.

        The same image again has the same record. The record is written before the file, so that no crash leaves a file
        without a record.
        """
        image = await self._decoders.reencode(data, keep_manifest=self._keep_manifests)
        upload = Upload(
            name=upload_name(secrets.token_hex(16), has_archive=bool(image.archive)),
            session_id=session_id,
            bytes=len(image.png),
            sha256=hashlib.sha256(image.png).hexdigest(),
            width=image.width,
            height=image.height,
            created_at=self._clock.now(),
        )
        async with self._adding.setdefault((session_id, upload.sha256), asyncio.Lock()):
            return await self._store(upload, image)

    async def _store(self, upload: Upload, image: ReencodedImage) -> Upload:
        session_id = upload.session_id
        try:
            known = await self._uploads.add(upload, cap=LIMITS.references)
        except UploadsFull:
            raise Refusal("too_many_references") from None
        if known is not upload:
            return known
        try:
            if (archive := archive_name(upload.name)) is not None:
                await self._blobs.put(session_id, archive, image.archive)
            await self._blobs.put(session_id, upload.name, image.png)
            await self._uploads.mark_stored(session_id, upload.name)
        except BaseException as error:
            await asyncio.shield(self._undo(upload))
            if isinstance(error, BlobStoreUnavailable):
                raise Refusal("storage_full", "the image could not be stored") from None
            raise
        return upload

    async def _undo(self, upload: Upload) -> None:
        """Delete the files, then their record. Retention deletes a file that this cannot delete."""
        with suppress(BlobStoreUnavailable, LedgerUnavailable):
            await self._delete(upload.session_id, upload.name)
            await self._uploads.remove(upload.session_id, upload.name)

    async def all(self, caller: Caller) -> list[Upload]:
        """Return the caller's reference images, oldest first."""
        return await self._uploads.of_session(caller.session_id)

    def expires_at(self, upload: Upload) -> int:
        """Return when retention deletes an upload, in ms since the epoch."""
        return upload.created_at + self._lifetime

    async def missing(self, caller: Caller, names: tuple[str, ...]) -> list[str]:
        """Return those of `names` that are not reference images of the caller."""
        return [name for name in names if await self._uploads.get(caller.session_id, name) is None]

    async def remove(self, caller: Caller, name: str) -> None:
        """Delete a reference image. Raises Refusal `reference_not_found`."""
        if not await self._uploads.remove(caller.session_id, name):
            raise Refusal("reference_not_found")
        with suppress(BlobStoreUnavailable):  # else retention deletes it
            await self._delete(caller.session_id, name)

    async def _delete(self, session_id: str, name: str) -> None:
        await self._blobs.delete(session_id, name)
        if (archive := archive_name(name)) is not None:
            await self._blobs.delete(session_id, archive)


class Reservation:
    """A reservation for one upload while it is received, as a context manager."""

    def __init__(self, uploads: Uploads, session_id: str, receptions: Receptions) -> None:
        self._uploads = uploads
        self._session_id = session_id
        self._receptions = receptions
        self._counted = ExitStack()

    def __enter__(self) -> "Reservation":
        """Count the upload. Raises Refusal `rate_limited` at the limit of concurrent uploads."""
        self._counted.enter_context(self._receptions.receive(self._session_id))
        return self

    def __exit__(self, *_: object) -> None:
        self._counted.close()

    async def add(self, data: bytes) -> Upload:
        """Store the image. Raises Refusal; then nothing was stored."""
        return await self._uploads.add(self._session_id, data)
