"""The hashes by which a changed image is searched for: the bits that a strip or cut values leave known."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from umrgen.server.ledger.sql.bands import MAX_DISTANCE, distance
from umrgen.server.pdq import hash_of
from umrgen.server.query_hashes import find_strip, query_hashes

SIDE = 512
LOWER = (0, 480, SIDE, SIDE)


def landscape(seed: int = 1) -> Image.Image:
    """Return areas of light and dark with soft edges, from horizontal and vertical waves."""
    source = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    total = np.zeros((SIDE, SIDE))
    for frequency in range(1, 12):
        across, down, phase = source.normal(0, 4, 2)[0], source.normal(0, 4), source.uniform(0, 6.3)
        total += np.sin(2 * np.pi * (across * x + down * y) + phase) / frequency**0.5
    grey = (total - total.min()) / np.ptp(total) * 235 + 10
    colours = np.stack([grey, grey * 0.9 + 10, 245 - grey], axis=-1)
    return Image.fromarray(colours.astype(np.uint8))


def with_strip(box: tuple[int, int, int, int], colour: str, opacity: float = 1) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        covered = image.copy()
        draw = ImageDraw.Draw(covered)
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), colour)
        draw.text((box[0] + 8, box[1] + 6), "posted by someone", "red")
        return Image.blend(image, covered, opacity)

    return change


def brighter(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def distances(changed: Image.Image, original: Image.Image) -> list[int]:
    """Return the distance of each hash of a changed image from the one of the original."""
    own = int.from_bytes(hash_of(original))
    return [distance(int.from_bytes(pdq) ^ own, int.from_bytes(known)) for pdq, known in query_hashes(changed)]


@pytest.mark.parametrize(
    "change",
    [
        with_strip(LOWER, "black"),
        with_strip(LOWER, "white"),
        with_strip(LOWER, "black", 0.5),
        with_strip((0, 0, SIDE, 30), "navy"),
        with_strip((332, 480, SIDE, SIDE), "black"),
        brighter(1.4),
    ],
    ids=["black", "white", "translucent", "upper", "part of the width", "brighter"],
)
def test_a_changed_image_is_found_by_the_bits_that_are_known(change: Callable[[Image.Image], Image.Image]) -> None:
    originals = [landscape(seed) for seed in range(3)]
    found = [distances(change(image), image) for image in originals]
    assert all(min(each) <= MAX_DISTANCE for each in found), found
    others = [distances(change(image), other) for image, other in pairwise(originals)]
    assert all(min(each) > MAX_DISTANCE for each in others), others


def test_the_first_hash_is_that_of_the_image_as_it_is() -> None:
    image = landscape()
    for changed in (image, with_strip(LOWER, "black")(image)):
        pdq, known = query_hashes(changed)[0]
        assert pdq == hash_of(changed)
        assert int.from_bytes(known).bit_count() >= 200


def luma(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.convert("L"), np.float32)


@pytest.mark.parametrize("upper", [False, True])
def test_a_strip_is_found_by_its_edge(upper: bool) -> None:
    box = (0, 0, 300, 60) if upper else (0, 452, 300, SIDE)
    found = find_strip(luma(with_strip(box, "black")(landscape().point(lambda value: 100 + value // 2))))
    assert found is not None
    assert (found.upper, found.left) == (upper, 0)
    assert 60 <= found.rows <= 64
    assert 290 <= found.right <= 310


def test_an_image_without_a_line_has_no_strip() -> None:
    ramp = np.tile(np.linspace(0, 255, SIDE, dtype=np.float32)[:, None], (1, SIDE))
    assert find_strip(ramp) is None


def test_an_image_with_too_little_detail_has_no_hash_without_its_strip() -> None:
    plain = Image.new("RGB", (SIDE, SIDE), "silver")
    assert query_hashes(plain) == []
    noted = with_strip((0, 400, SIDE, SIDE), "black")(plain)
    assert len(query_hashes(noted)) <= 1
    assert len(query_hashes(with_strip(LOWER, "black")(landscape()))) == 2


@pytest.mark.parametrize("size", [(5, 5), (5, 700), (700, 5), (20, 3000)])
def test_small_and_narrow_images(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for pdq, known in query_hashes(Image.fromarray(noise)):
        assert (len(pdq), len(known)) == (32, 32)
