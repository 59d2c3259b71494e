"""The images that an engine returns are verified before they are stored."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from support import draw_task
from umrgen.image_files import verify
from umrgen.server import png as png_writing
from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.engines import EncodedImage, EngineCrashed, EngineInfo
from umrgen.server.engines.encoding import encoded
from umrgen.server.executors import verified
from umrgen.server.png import encode_png


def png(width: int = 16, height: int = 8) -> bytes:
    return encode_png(np.zeros((height, width, 3), np.uint8))


async def test_whole_images_of_any_size_are_accepted() -> None:
    images = await verified([EncodedImage(png(), "image/png"), EncodedImage(png(1, 3), "image/jpeg")])
    assert [(image.width, image.height) for image in images] == [(16, 8), (1, 3)]
    assert [image.media_type for image in images] == ["image/png", "image/png"], (
        "the type of the content, not the reported one"
    )


@pytest.mark.parametrize("data", [b"", b"no image", png()[:-1], png() + b"x"])
async def test_data_that_is_not_one_whole_image_is_refused(data: bytes) -> None:
    with pytest.raises(EngineCrashed):
        await verified([EncodedImage(png(), "image/png"), EncodedImage(data, "image/png")])


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
async def test_a_job_without_images_or_with_too_many_is_a_crash(count: int) -> None:
    with pytest.raises(EngineCrashed, match=f"it returned {count} images"):
        await verified([EncodedImage(png(), "image/png")] * count)


def test_pixels_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        encoded(np.zeros((8, 8), np.uint8), draw_task("a boat"), EngineInfo("fake", "procedural", "1"))


@pytest.mark.parametrize("installed", [True, False])
def test_a_png_has_the_same_pixels_with_and_without_the_faster_compression(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(png_writing, "isal_zlib", None)
    elif png_writing.isal_zlib is None:
        pytest.skip("isal is not installed")
    pixels = np.random.default_rng(3).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    data = encode_png(pixels)
    assert verify(data).width == 30
    with Image.open(BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), pixels)
