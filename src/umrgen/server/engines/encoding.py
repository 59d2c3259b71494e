"""From what an engine returns to files: PNG with provenance, signed if configured, and small JPEG previews."""

import logging
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.errors import UmrgenError
from umrgen.image_files import verify
from umrgen.provenance import mark
from umrgen.server.engines import DrawTask, EncodedImage, EngineFailure, EngineInfo
from umrgen.server.engines.provenance import record_of
from umrgen.server.pdq import hash_of
from umrgen.server.png import encode_png
from umrgen.server.thumbnails import thumbnail, thumbnail_of_file
from umrgen.server.watermark import BadWatermark, payload_of, watermarked

if TYPE_CHECKING:
    from PIL import Image

    from umrgen.provenance import Provenance
    from umrgen.server.engines import Pixels
    from umrgen.server.signing import ManifestSigner
    from umrgen.server.watermark import Watermark

__all__ = ["encoded", "fingerprint", "preview_jpeg"]

log = logging.getLogger(__name__)

PREVIEW_SIDE = 384
"""Pixels; the longer side of a preview."""
LARGEST_PREVIEW = 16 << 20
"""Bytes, and pixels, of a preview that an engine encoded."""
LARGEST_HASHED = 32_000_000
"""Pixels of an image that is hashed: as many as an upload may have."""


def encoded(
    image: "Pixels | EncodedImage",
    task: DrawTask,
    info: EngineInfo,
    batch: int = 1,
    signer: "ManifestSigner | None" = None,
    watermark: "Watermark | None" = None,
) -> EncodedImage:
    """Return the image as a file that states how it was made, and its thumbnail.

    `batch`: the number of images drawn together.

    Pixels become a PNG, with the watermark; those of an encoded image are not encoded again. A final one is returned as
    it is, and so is a damaged one, which the verification refuses. Raises ValueError for pixels of another shape or
    type, and EngineFailure for an image that cannot be watermarked, or cannot be signed although it must be.
    """
    if watermark is not None and not isinstance(image, EncodedImage):
        image = _watermarked(image, task, watermark)
    pdq = fingerprint(image)
    if isinstance(image, EncodedImage) and image.final:
        return replace(image, pdq=pdq)
    record = record_of(task, info, batch)
    file = _marked(image, record)
    if file is image:
        return replace(file, pdq=pdq)
    small = thumbnail_of_file(image.data, record) if isinstance(image, EncodedImage) else thumbnail(image, record)
    done = file if signer is None else _signed(file, task, record, signer)
    return replace(done, thumbnail=small, pdq=pdq)


def _watermarked(pixels: "Pixels", task: DrawTask, watermark: "Watermark") -> "Pixels":
    try:
        return watermarked(watermark, pixels, payload_of(task.job_id))
    except BadWatermark as error:
        raise EngineFailure(str(error)) from None


def fingerprint(image: "Pixels | EncodedImage") -> bytes:
    """Return the perceptual hash of an image, by which it is recognised when it was changed since.

    Returns b"" for one that cannot be decoded, is too large, or has too little detail to be recognised.
    """
    from PIL import Image

    try:
        with _opened(image) if isinstance(image, EncodedImage) else Image.fromarray(image) as picture:
            if picture.width * picture.height > LARGEST_HASHED:
                return b""
            return hash_of(picture)
    except Exception:  # Pillow raises many types, and the verification refuses a damaged image
        return b""


def _opened(image: EncodedImage) -> "Image.Image":
    from PIL import Image

    return Image.open(BytesIO(image.data), formats=("PNG", "JPEG", "WEBP"))


def _marked(image: "Pixels | EncodedImage", record: "Provenance") -> EncodedImage:
    if not isinstance(image, EncodedImage):
        return EncodedImage(mark(encode_png(image), record), "image/png")
    try:
        verify(image.data)
        return EncodedImage(mark(image.data, record), image.media_type)
    except UmrgenError:
        return image


def _signed(image: EncodedImage, task: DrawTask, record: "Provenance", signer: "ManifestSigner") -> EncodedImage:
    from umrgen.server.signing import SigningFailed

    try:
        return EncodedImage(signer.sign(image.data, record, task.references, task.archives), image.media_type)
    except SigningFailed as error:
        log.error("job %s: the image is not signed: %s", task.job_id, error)
        if signer.options.required:
            raise EngineFailure(f"the image cannot be signed: {error}") from None
        return image


def preview_jpeg(image: "Pixels | EncodedImage") -> bytes:
    """Return a small JPEG of an unfinished image; b"" for one that cannot be decoded, or is too large."""
    from PIL import Image

    try:
        if isinstance(image, EncodedImage):
            with _opened(replace(image, data=image.data[:LARGEST_PREVIEW])) as picture:
                if picture.width * picture.height > LARGEST_PREVIEW:
                    return b""
                picture.draft("RGB", (PREVIEW_SIDE, PREVIEW_SIDE))
                return _thumbnail(picture.convert("RGB"))
        return _thumbnail(Image.fromarray(image))
    except Exception:  # the decoder raises many types, and a preview is not worth the loss of the job
        log.info("a preview of the engine cannot be decoded")
        return b""


def _thumbnail(picture: "Image.Image") -> bytes:
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    result = BytesIO()
    picture.save(result, "JPEG", quality=70)
    return result.getvalue()
