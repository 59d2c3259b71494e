"""PDQ, the perceptual hash of images that Meta published: 256 bits, of which similar images share most.

Each step before the comparison with the median is linear, and the two box filters and the 64 samples of a side are
one: each sample is a weighted sum of few pixels. So a 1024² image is hashed in a few milliseconds, at its full size.
Products of large matrices are avoided: BLAS uses all processors for them, and waits for each on a loaded machine.
"""

from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["BYTES", "MIN_QUALITY", "hash_of", "pdq_hash"]

BYTES = 32
"""Of a hash."""
MIN_QUALITY = 50
"""Images with less detail (0 to 100) have a hash that says nothing: PDQ's authors recommend this bound."""
_SAMPLES = 64
_FREQUENCIES = 16
_SMALLEST = 5
"""Pixels of a side; PDQ does not hash smaller images."""

_LARGEST = 2048
"""Pixels of a side; a larger image is scaled down before it is hashed."""

Matrix = NDArray[np.float32]


def hash_of(image: "Image.Image") -> bytes:
    """Return the hash of an image, on a white ground where it is transparent; b"" for one with too little detail.

    Raises what Pillow raises for an image that cannot be decoded.
    """
    from PIL import Image

    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    grey = image.convert("L")
    grey.thumbnail((_LARGEST, _LARGEST))
    found, quality = pdq_hash(np.asarray(grey))
    return found if quality >= MIN_QUALITY else b""


def pdq_hash(grey: NDArray[np.uint8] | Matrix) -> tuple[bytes, int]:
    """Return the hash and the quality (0 to 100) of an image's luma (ITU-R BT.601), of shape (height, width).

    The bits are in PDQ's order, the highest first, as in its hexadecimal form. An image with a side below 5 pixels has
    a hash of zeros and the quality 0.
    """
    height, width = grey.shape
    if min(height, width) < _SMALLEST:
        return bytes(BYTES), 0
    samples = _sampled(_sampled(grey, height).T, width).T
    found = _frequencies() @ samples @ _frequencies().T
    bits = found.ravel() > np.partition(found.ravel(), 127)[127]
    return np.packbits(bits[::-1]).tobytes(), _quality(samples)


def _quality(samples: Matrix) -> int:
    """Return PDQ's measure of detail: the sum of the differences of neighbours, each rounded toward 0."""
    steps = [np.trunc(np.diff(samples, axis=axis) * (100 / 255)) for axis in (0, 1)]
    return min(100, int(sum(np.abs(step).sum() for step in steps)) // 90)


@cache
def _frequencies() -> Matrix:
    """Return the 16 frequencies after the lowest of the discrete cosine transform of 64 samples."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    sample = 2 * np.arange(_SAMPLES)[None, :] + 1
    waves = np.cos(np.pi / 2 / _SAMPLES * frequency * sample)
    return np.asarray(np.sqrt(2 / _SAMPLES) * waves, np.float32)


def _sampled(pixels: NDArray[np.uint8] | Matrix, side: int) -> Matrix:
    """Return 64 rows, each a sum of the rows around its centre."""
    return np.stack([(weights * pixels[rows]).sum(axis=0) for rows, weights in _sampling(side)])


@lru_cache(64)
def _sampling(side: int) -> list[tuple[slice, Matrix]]:
    """Return the rows that are summed for each sample, and their weights: two box filters around its centre."""
    centres = ((np.arange(_SAMPLES) + 0.5) * side / _SAMPLES).astype(int)
    pixels = np.eye(side)[centres]
    weights = pixels if side == _SAMPLES else _blurred(_blurred(pixels))
    found = []
    for each in weights.astype(np.float32):
        used = np.flatnonzero(each)
        rows = slice(int(used[0]), int(used[-1]) + 1)
        found.append((rows, each[rows, None]))
    return found


def _blurred(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of the pixels before a box filter, for weights of those after it.

    At the edges, the filter averages the pixels that there are.
    """
    side = weights.shape[1]
    window = (side + 2 * _SAMPLES - 1) // (2 * _SAMPLES)
    after = (window + 2) // 2 - 1
    at = np.arange(side)
    averaged = np.minimum(at + after, side - 1) - np.maximum(at + after - window + 1, 0) + 1
    sums = np.cumsum(np.pad(weights / averaged, ((0, 0), (1, 0))), axis=1)
    found: NDArray[np.float64] = sums[:, np.minimum(at - after + window, side)] - sums[:, np.maximum(at - after, 0)]
    return found
