"""PNG to JPEG or WebP, for callers that ask for these types."""

import asyncio
import logging
from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.provenance import mark, read
from umrgen.provenance.containers import manifest_size

if TYPE_CHECKING:
    from umrgen.provenance import Provenance
    from umrgen.server.signing import ManifestSigner

__all__ = ["convert"]


log = logging.getLogger(__name__)


async def convert(data: bytes, media_type: str, *, quality: int, signer: "ManifestSigner | None" = None) -> bytes:
    """Return an image that this server has verified as a file of another type, with its provenance; on a thread.

    `quality`: 0 to 100. A file that has the type already is returned as it is. A signed image is signed again, with
    the original as its parent.
    """
    return await asyncio.to_thread(_convert, data, media_type, quality, signer)


def _convert(data: bytes, media_type: str, quality: int, signer: "ManifestSigner | None") -> bytes:
    from PIL import Image

    kind = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}[media_type]
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.format == kind:
            return data
        result = BytesIO()
        image.convert("RGB").save(result, kind, quality=quality)
    record = read(data)
    converted = mark(result.getvalue(), record) if record else result.getvalue()
    return _signed(converted, data, record, signer) if signer is not None and manifest_size(data) else converted


def _signed(converted: bytes, original: bytes, record: "Provenance | None", signer: "ManifestSigner") -> bytes:
    from umrgen.server.signing import SigningFailed

    try:
        return signer.sign(converted, record, original=original)
    except SigningFailed as error:
        log.error("a converted image is not signed: %s", error)
        return converted
