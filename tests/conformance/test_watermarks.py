"""The conformance suite of watermarks: what the server relies on. Add a class to `WATERMARKS` to check it."""

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from support import draw_task
from umrgen.server.engines.procedural import ProceduralEngine
from umrgen.server.watermark import BadWatermark, Watermark, detected, load_watermark, payload_of, watermarked

WATERMARKS = ["example_watermark:ParityWatermark"]
LOWEST_PSNR = 36.0
"""Decibels: above it, a change of a photograph is difficult to see."""


class Silent:
    def __call__(self, *_: object) -> None:
        """Report nothing."""

    def together(self, images: int, /) -> None: ...

    def phase(self, *_: object) -> None:
        """Report nothing."""


@pytest.fixture(params=WATERMARKS)
def watermark(request: pytest.FixtureRequest) -> Watermark:
    return load_watermark(request.param)


@pytest.fixture(scope="module", params=[(512, 512), (520, 640)])
def pixels(request: pytest.FixtureRequest) -> NDArray[np.uint8]:
    height, width = request.param
    (drawn,) = ProceduralEngine().draw(draw_task("a boat at sunset", width, height, 1), Silent())
    return drawn


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def test_a_payload_is_found_again_and_the_image_hardly_changes(watermark: Watermark, pixels: NDArray[np.uint8]) -> None:
    before = pixels.copy()
    payload = payload_of("ext_1")
    marked = watermarked(watermark, pixels, payload)
    assert (pixels == before).all(), "the pixels of the caller are not changed"
    assert detected(watermark, marked) == payload
    assert psnr(pixels, marked) >= LOWEST_PSNR
    file = io.BytesIO()
    Image.fromarray(marked).save(file, "PNG")
    assert detected(watermark, np.asarray(Image.open(file))) == payload


def test_other_images_have_no_payload(watermark: Watermark, pixels: NDArray[np.uint8]) -> None:
    for image in (pixels, np.zeros_like(pixels), np.full((3, 5, 3), 200, np.uint8)):
        assert detected(watermark, image) is None


def test_payloads_are_64_bits_of_the_job_id() -> None:
    payloads = {payload_of(f"ext_{number}") for number in range(100)}
    assert len(payloads) == 100
    assert {len(payload) for payload in payloads} == {8}


@pytest.mark.parametrize("name", ["nowhere:Class", "example_watermark", "example_watermark:_bits", "json:JSONDecoder"])
def test_a_class_that_is_no_watermark_is_refused(name: str) -> None:
    with pytest.raises(BadWatermark, match="watermark"):
        load_watermark(name)


def test_a_watermark_that_fails_is_reported(pixels: NDArray[np.uint8]) -> None:
    failing = load_watermark("example_watermark:FailingWatermark")
    with pytest.raises(BadWatermark, match="RuntimeError"):
        watermarked(failing, pixels, b"12345678")
    assert detected(failing, pixels) is None
