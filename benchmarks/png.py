"""The time to write a PNG of 1024 × 1024 pixels on one core: with ISA-L, with zlib's run lengths, and by Pillow.

    python benchmarks/png.py

The picture is drawn by the procedural engine, with the noise of a camera's sensor, which makes a photograph slow to
compress. The three take turns, and the best of seven rounds counts: other programs use the machine too.
"""

import io
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from umrgen.server import png
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask
from umrgen.server.engines.procedural import ProceduralEngine

ROUNDS = 7
NOISE = 3.0
"""The standard deviation of the noise, of 255."""


class Silent:
    def __call__(self, *_: Any) -> None:
        """Report nothing."""

    def together(self, images: int, /) -> None: ...

    def phase(self, *_: Any) -> None:
        """Report nothing."""


def photograph() -> Any:
    request = GenerationRequest("mountains at sunrise, mist in the valley", seed=3)
    (pixels,) = ProceduralEngine().draw(DrawTask("ext_1", request), Silent())
    noise = np.random.default_rng(1).normal(0, NOISE, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def with_zlib(pixels: Any) -> bytes:
    found, png.isal_zlib = png.isal_zlib, None
    try:
        return png.encode_png(pixels)
    finally:
        png.isal_zlib = found


def with_pillow(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
    pixels = photograph()
    writers: dict[str, Callable[[Any], bytes]] = {"zlib": with_zlib, "Pillow": with_pillow}
    if png.isal_zlib is not None:
        writers = {"ISA-L": png.encode_png} | writers
    times = dict.fromkeys(writers, math.inf)
    for name, write in list(writers.items()) * ROUNDS:
        began = time.perf_counter()
        write(pixels)
        times[name] = min(times[name], time.perf_counter() - began)
    print("| writer | ms | MB |\n| --- | --- | --- |")
    for name, write in writers.items():
        print(f"| {name} | {times[name] * 1000:.1f} | {len(write(pixels)) / 1e6:.2f} |")


if __name__ == "__main__":
    main()
