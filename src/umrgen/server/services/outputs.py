"""Images: found by their record, for any client that has the URL."""

import math
from dataclasses import dataclass

from umrgen.model import State
from umrgen.server.domain.job import Job, Output, image_of_thumbnail
from umrgen.server.ledger import Key, OutputExpired, OutputStore, UploadStore
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.authentication import Authentication
from umrgen.server.services.image_cache import ImageCache
from umrgen.server.services.limits import FailureThrottle
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.signatures import Signatures
from umrgen.server.services.thumbnails import Thumbnails

__all__ = ["OutputLink", "Outputs"]


@dataclass(frozen=True, slots=True)
class OutputLink:
    """The parts of an image's URL. They are looked up in the ledger and never used as a path."""

    session_id: str
    name: str
    shown_session_id: str
    """The session in the query, which repeats that of the path (as the guide requires)."""
    expires: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Returns finished images and reference images. The URL is the capability; a key is not needed."""

    outputs: OutputStore
    uploads: UploadStore
    images: ImageCache
    thumbnails: Thumbnails
    keys: ApiKeys
    signatures: Signatures
    authentication: Authentication
    guesses: FailureThrottle
    """Counts wrong image URLs by client address."""

    async def fetch(
        self, link: OutputLink, *, secret: str | None, address: str, redirects: bool = False
    ) -> tuple[Output, bytes | str]:
        """Return the record of an image and its bytes, or (if `redirects`) a URL that has them. Raises Refusal.

        `secret` is the API key of the request, if any. A wrong URL counts as a request of the key, or without a key
        against the address.
        """
        key = None if secret is None else await self._key(secret, address)
        if key is None and (wait := self.guesses.wait(address)):
            detail = "this address has requested too many wrong image URLs; send an API key to request more"
            raise Refusal("rate_limited", detail, retry_after=math.ceil(wait))
        try:
            return await self._find(link, redirects)
        except Refusal as refusal:
            if refusal.code in ("forbidden_output", "output_not_found"):
                self._count_guess(key, address)
            raise

    async def of_job(self, job: Job) -> list[tuple[Output, bytes]]:
        """Return the images of a job that is over, with their records.

        Raises Refusal: `job_failed`, or `output_expired` when an image was deleted.
        """
        if job.state is not State.COMPLETED:
            raise Refusal("job_failed", job.error, job_id=job.id)
        images = []
        for output in job.outputs:
            data = await self.images.get(output.session_id, output.name)
            if data is None:
                raise Refusal("output_expired", "the image was deleted", job_id=job.id)
            images.append((output, data))
        return images

    async def _key(self, secret: str, address: str) -> Key | None:
        key = await self.keys.check(secret)
        if key is None:
            self.authentication.failures.record_failure(address)
        return key

    def _count_guess(self, key: Key | None, address: str) -> None:
        if key is None:
            self.guesses.record_failure(address)
        else:
            self.authentication.count_request(key)

    async def _find(self, link: OutputLink, redirects: bool) -> tuple[Output, bytes | str]:
        if link.shown_session_id != link.session_id:
            raise Refusal("forbidden_output", "session_id is missing or wrong")
        if self.signatures.enabled:
            path = f"/outputs/{link.session_id}/{link.name}"
            if not self.signatures.is_valid(path, link.expires, link.signature):
                raise Refusal("forbidden_output", "the signature is missing or wrong")
            if self.signatures.is_expired(link.expires):
                raise Refusal("output_expired", "this URL has expired; the job's status has a new one")
        if (image := image_of_thumbnail(link.name)) is not None:
            return await self._thumbnail(link.session_id, image)
        output = await self._record(link.session_id, link.name)
        if output is None:
            raise Refusal("output_not_found")
        if redirects and (url := await self.images.url_for(output.session_id, output.name)):
            return output, url
        data = await self.images.get(output.session_id, output.name)
        if data is None:
            raise Refusal("output_not_found")
        return output, data

    async def _thumbnail(self, session_id: str, image: str) -> tuple[Output, bytes]:
        """Return the thumbnail of an image; the image itself if no thumbnail of it can be made."""
        output = await self._image(session_id, image)
        if output is None:
            raise Refusal("output_not_found")
        if found := await self.thumbnails.get(output):
            return found
        data = await self.images.get(session_id, image)
        if data is None:
            raise Refusal("output_not_found")
        return output, data

    async def _image(self, session_id: str, name: str) -> Output | None:
        try:
            return await self.outputs.get(session_id, name)
        except OutputExpired:
            raise Refusal("output_expired", "the image was deleted, by its owner or by retention") from None

    async def _record(self, session_id: str, name: str) -> Output | None:
        """Return the record of an image, or that of a reference image in the same form; None without one."""
        output = await self._image(session_id, name)
        if output is not None:
            return output
        upload = await self.uploads.get(session_id, name)
        if upload is None:
            return None
        return Output(
            upload.name, session_id, upload.bytes, upload.sha256, upload.width, upload.height, upload.media_type
        )
