"""What an engine gives is looked at before it is anybody's picture."""

import numpy as np
import pytest

from umrgen.server.engines import DrawRequest
from umrgen.server.executors import EngineCrashed, checked
from umrgen.server.png import encode_png

REQUEST = DrawRequest("a boat", width=16, height=8, steps=1, seed=1)


def png(width: int, height: int) -> bytes:
    return encode_png(np.zeros((height, width, 3), np.uint8))


async def test_a_whole_picture_is_taken() -> None:
    picture = await checked(png(16, 8), REQUEST)
    assert (picture.width, picture.height, picture.media_type) == (16, 8, "image/png")


@pytest.mark.parametrize(("width", "height"), [(8, 16), (16, 16), (1, 1)])
async def test_another_size_is_refused(width: int, height: int) -> None:
    with pytest.raises(EngineCrashed, match=f"{width} × {height}"):
        await checked(png(width, height), REQUEST)


@pytest.mark.parametrize("data", [b"", b"no image", png(16, 8)[:-1], png(16, 8) + b"x"])
async def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(EngineCrashed):
        await checked(data, REQUEST)
