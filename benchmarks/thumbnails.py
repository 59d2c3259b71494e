"""The processor time and size of thumbnails, and the bytes of a page of a gallery.

    .venv/bin/python benchmarks/thumbnails.py

Images of 1024 x 1024: one of the procedural engine, a synthetic photograph with noise, and noise alone.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from umrgen.provenance import Provenance
from umrgen.server.engines import load_engine
from umrgen.server.png import encode_png
from umrgen.server.thumbnails import prepare, thumbnail, thumbnail_of_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import draw_task

RECORD = Provenance("algorithmicMedia", version="0.1", engine="procedural", engine_version="1", seed=7, job_id="ext_1")
SIDE, RUNS, PAGE = 1024, 21, 48


def images() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = [128 + 80 * np.sin(x / 40 + y / 90), 128 + 70 * np.cos(y / 25), 100 + 60 * np.sin(x * y / 9000)]
    photograph = np.stack(waves, -1) + rng.normal(0, 18, (SIDE, SIDE, 3))
    engine = load_engine("procedural", {})
    engine.load()
    return {
        "procedural": engine.draw(draw_task("a lighthouse on a cliff at dusk", SIDE, SIDE), _Silent())[0],
        "photograph": photograph.clip(0, 255).astype(np.uint8),
        "noise": rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
    }


class _Silent:
    """A report that is not read."""

    def __call__(self, *_: object) -> None: ...
    def together(self, images: int, /) -> None: ...

    def phase(self, *_: object) -> None: ...


def cpu(work: Any) -> float:
    """Return the median of the milliseconds of processor time."""
    took = []
    for _ in range(RUNS):
        begun = time.process_time()
        work()
        took.append((time.process_time() - begun) * 1000)
    return statistics.median(took)


def main() -> None:
    prepare()
    for name, pixels in images().items():
        small, file = len(thumbnail(pixels, RECORD)), encode_png(pixels)
        beside = cpu(lambda pixels=pixels: thumbnail(pixels, RECORD))
        later = cpu(lambda file=file: thumbnail_of_file(file, RECORD))
        print(f"{name:11} {small:6,} bytes; {PAGE} of them {PAGE * small / 1e6:.2f} MB; ", end="")
        print(f"{beside:.1f} ms of CPU beside its image, {later:.1f} ms from a PNG")


if __name__ == "__main__":
    main()
