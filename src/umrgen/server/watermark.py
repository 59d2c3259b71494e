"""Imperceptible watermarks in the pixels: a hook for a class of the operator's, named `module:Class`."""

import hashlib
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    RgbPixels = NDArray[np.uint8]
    """RGB, shape (height, width, 3)."""

__all__ = ["PAYLOAD", "BadWatermark", "Watermark", "detected", "load_watermark", "payload_of", "watermarked"]

PAYLOAD = 8
"""Bytes of a payload."""


class BadWatermark(UmrgenError):
    """The watermark cannot be loaded, or did not do what it must."""

    code = "bad_watermark"


class Watermark(Protocol):
    """Puts a payload into pixels, and finds it again. Constructed without arguments, and used by one thread at a time.

    It runs in the process of an engine, and in that of a decoder, which has 1 GiB of memory and 15 s.
    """

    def embed(self, pixels: "RgbPixels", payload: bytes) -> "RgbPixels":
        """Return pixels of the same shape and type that contain the 8 bytes of `payload`."""
        ...

    def detect(self, pixels: "RgbPixels") -> bytes | None:
        """Return the payload in the pixels of any image; None when there is none."""
        ...


def load_watermark(name: str) -> Watermark:
    """Return the watermark called `module:Class`. Raises BadWatermark."""
    module, _, attribute = name.partition(":")
    try:
        watermark: Watermark = getattr(import_module(module), attribute)()
    except Exception as error:  # code of the operator's
        raise BadWatermark(f"the watermark {name!r} cannot be loaded: {type(error).__name__}") from None
    if not (callable(getattr(watermark, "embed", None)) and callable(getattr(watermark, "detect", None))):
        raise BadWatermark(f"the watermark {name!r} has no methods embed and detect")
    return watermark


def payload_of(job_id: str) -> bytes:
    """Return the payload of a job's images: 64 bits of a digest, from which the job's id cannot be derived."""
    return hashlib.sha256(b"umrgen watermark " + job_id.encode()).digest()[:PAYLOAD]


def watermarked(watermark: Watermark, pixels: "RgbPixels", payload: bytes) -> "RgbPixels":
    """Return the pixels with the payload. Raises BadWatermark if the class fails or returns something else."""
    try:
        marked = watermark.embed(pixels, payload)
        fits = (marked.shape, marked.dtype) == (pixels.shape, pixels.dtype)
    except Exception as error:  # code of the operator's
        raise BadWatermark(f"the watermark failed: {type(error).__name__}") from None
    if not fits:
        raise BadWatermark("the watermark returned pixels of another shape or type")
    return marked


def detected(watermark: Watermark, pixels: "RgbPixels") -> bytes | None:
    """Return the payload in the pixels; None without one, or when the class fails or returns something else."""
    try:
        found = watermark.detect(pixels)
    except Exception:  # code of the operator's, for an image of a caller's
        return None
    return found if isinstance(found, bytes) and len(found) == PAYLOAD else None
