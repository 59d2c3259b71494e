"""The perceptual hash: the one that other programs compute, and what changes of an image do to it."""

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from umrgen.server.pdq import hash_of, pdq_hash

# Computed by pdqhash 0.2.8, Meta's implementation in C++, from `pattern(height, width)`.
REFERENCE = (
    ((64, 64), "e63135b1d7b095814d835493669b5699aa9c5a4cac4e2b33d5d78d9872c76a4e", 100),
    ((512, 512), "8e3337b1dd3115834c93549362bb96d92a9c5acca94e6b63b59f899852cf424e", 100),
    ((777, 333), "c63335b1df3091814c935493629bd6d9aa9c5a4ca9ce6b73959f899852cf4a4e", 100),
    ((1024, 1024), "863337b3dd3111834c935493629bd6d92a9c5acca9ce6b63b59f899852cf424e", 100),
    ((40, 100), "cd233560c7309da0cd83d4b3629b56b9aa9c5a4ca8ce2b33d597cd9852c77a4e", 100),
)


def pattern(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width].astype(np.int64) * 1024 // np.array([height, width])[:, None, None]
    return (((x - 300) ** 2 // 900 + (y - 700) ** 2 // 700 + x * y // 2000) % 256).astype(np.uint8)


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@pytest.mark.parametrize(("shape", "hash", "quality"), REFERENCE)
def test_the_hash_is_that_of_the_reference_implementation(shape: tuple[int, int], hash: str, quality: int) -> None:
    """But for a bit or two, of a frequency that is at the median within the precision of its numbers."""
    found, measured = pdq_hash(pattern(*shape))
    assert distance(found, bytes.fromhex(hash)) <= 2
    assert measured == quality


def test_an_image_that_was_saved_again_or_scaled_has_nearly_the_same_hash() -> None:
    image = Image.fromarray(pattern(600, 800)).convert("RGB")
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=30)
    changed = [Image.open(jpeg), image.resize((400, 300)), image.point(lambda value: value * 0.8)]
    assert all(distance(hash_of(image), hash_of(each)) <= 20 for each in changed)
    assert distance(hash_of(image), hash_of(image.rotate(90))) > 80


def test_an_image_with_too_little_detail_has_no_hash() -> None:
    ramp = np.mgrid[:256, :256][1] // 4
    for pixels in (np.zeros((256, 256)), ramp, np.zeros((4, 400))):
        assert hash_of(Image.fromarray(pixels.astype(np.uint8))) == b""


def test_a_large_or_transparent_image_is_hashed_as_it_is_shown() -> None:
    image = Image.fromarray(pattern(600, 800))
    large = image.resize((3200, 2400))
    assert distance(hash_of(image), hash_of(large)) <= 8
    hidden = Image.merge("LA", (image, Image.new("L", image.size, 0)))
    assert hash_of(hidden) == b"", "all of it is transparent"
