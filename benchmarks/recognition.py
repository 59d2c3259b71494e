"""How many changed copies of an image its perceptual hash recognises, and how many other images it takes for one.

    python benchmarks/recognition.py [--images 500] [--side 512] [--kind drawn | gradients | text | noise] [--only NAME]

The images are drawn by the procedural engine, each from another prompt and seed; or they are gradients, pages of text,
or noise of several sizes. A copy is similar as in the registry: by the hashes of `query_hashes`, if a key of `bands.py`
leads to it. Each change of an image is also compared with all others of the first 633: 400,056 pairs in both orders.
"""

import argparse
import io
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask
from umrgen.server.engines.procedural import ProceduralEngine
from umrgen.server.ledger.sql.bands import MAX_DISTANCE
from umrgen.server.pdq import hash_of
from umrgen.server.query_hashes import query_hashes

Picture = Image.Image
Bits = NDArray[np.uint8]
BICUBIC = Image.Resampling.BICUBIC
OTHERS = 633
"""Images that each is compared with: they have 200,028 pairs."""
THINGS = (
    "storm",
    "rain",
    "snow",
    "mist",
    "clouds",
    "lightning",
    "sea",
    "waves",
    "lake",
    "river",
    "cliff",
    "lighthouse",
)
MORE = (
    "mountains",
    "hills",
    "city",
    "street",
    "forest",
    "desert",
    "moon",
    "sun",
    "stars",
    "aurora",
    "boat",
    "island",
    "field",
)
TIMES = ("dawn", "sunrise", "morning", "noon", "sunset", "dusk", "night")
COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "pink", "brown", "silver")


class Silent:
    def __call__(self, *_: Any) -> None:
        """Report nothing."""

    def together(self, images: int, /) -> None: ...

    def phase(self, *_: Any) -> None:
        """Report nothing."""


@cache
def prompts(count: int) -> list[str]:
    """Return different prompts of three things, a colour and a time of day."""
    source, found = random.Random(1), dict[str, None]()
    while len(found) < count:
        one, two, three = source.sample(THINGS + MORE, 3)
        found[f"{source.choice(COLOURS)} {one} and {two} with {three} at {source.choice(TIMES)}"] = None
    return list(found)


def drawn(prompt: str, seed: int, side: int) -> Picture:
    request = GenerationRequest(prompt, seed=seed, width=side, height=side, steps=1)
    (pixels,) = ProceduralEngine().draw(DrawTask("ext_1", request), Silent())
    return Image.fromarray(pixels)


def saved(kind: str, **options: Any) -> Callable[[Picture], Picture]:
    def change(image: Picture) -> Picture:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return Image.open(file)

    return change


def resized(percent: int) -> Callable[[Picture], Picture]:
    return lambda image: image.resize((image.width * percent // 100, image.height * percent // 100))


def brighter(percent: int) -> Callable[[Picture], Picture]:
    return lambda image: ImageEnhance.Brightness(image).enhance(1 + percent / 100)


def with_strip(
    percent: int, colour: str, *, width: float = 1, upper: bool = False, opacity: float = 1
) -> Callable[[Picture], Picture]:
    """Return the change that puts text on a strip at the right: `percent` of the height, `width` of the width."""

    def change(image: Picture) -> Picture:
        copy, rows, left = image.copy(), round(image.height * percent / 100), int(image.width * (1 - width))
        top = 0 if upper else image.height - rows
        draw = ImageDraw.Draw(copy)
        draw.rectangle((left, top, copy.width, top + rows - 1), colour)
        draw.text((left + 6, top + max(2, rows // 2 - 6)), "posted on 28 November", "grey")
        return Image.blend(image, copy, opacity)

    return change


def more_contrast(percent: int) -> Callable[[Picture], Picture]:
    return lambda image: ImageEnhance.Contrast(image).enhance(1 + percent / 100)


def captioned(image: Picture) -> Picture:
    """Return the image with a line of white text at the lower left."""
    copy = image.copy()
    ImageDraw.Draw(copy).text((8, int(copy.height * 0.96)), "posted on 28 November", "white")
    return copy


def cropped(image: Picture) -> Picture:
    """Return the image without 5 % of its width and height, half of it at each edge."""
    x, y = image.width // 40, image.height // 40
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: Mapping[str, Callable[[Picture], Picture]] = {
    **{f"JPEG, quality {quality}": saved("JPEG", quality=quality) for quality in (30, 50, 70, 90)},
    **{f"resized to {percent} %": resized(percent) for percent in (25, 50, 75, 150, 200)},
    **{f"brightness {percent:+} %": brighter(percent) for percent in (-30, -20, 20, 30)},
    **{f"contrast {percent:+} %": more_contrast(percent) for percent in (-30, 30)},
    "WebP, quality 80": saved("WEBP", quality=80),
    "PNG": saved("PNG"),
    "a line of text": captioned,
    "black strip, 35 % x 4 %": with_strip(4, "black", width=0.35),
    "white strip, 60 % x 6 %": with_strip(6, "white", width=0.6),
    **{f"black strip, {percent} %": with_strip(percent, "black") for percent in (4, 6, 8, 12, 15)},
    **{f"white strip, {percent} %": with_strip(percent, "white") for percent in (4, 8)},
    **{f"black strip above, {percent} %": with_strip(percent, "black", upper=True) for percent in (4, 8)},
    "half black strip, 4 %": with_strip(4, "black", opacity=0.5),
    "half white strip above, 6 %": with_strip(6, "white", opacity=0.5, upper=True),
    "cropped by 5 %": cropped,
}


def gradient(number: int, side: int) -> Picture:
    """Return light and dark areas with soft edges."""
    source, (y, x) = np.random.default_rng(number), np.mgrid[:side, :side] / side
    total = sum(
        np.sin(2 * np.pi * (across * x + down * y) + phase) / frequency**0.5
        for frequency, (across, down, phase) in enumerate(source.normal(0, 4, (12, 3)), 1)
    )
    grey = (total - total.min()) / np.ptp(total) * source.uniform(120, 255)
    return Image.fromarray(np.stack([grey, grey * 0.8 + 20, 255 - grey], -1).astype(np.uint8))


def page(number: int, side: int) -> Picture:
    """Return lines of text of several sizes, dark on light."""
    source = random.Random(number)
    image = Image.new("RGB", (side, side), source.choice(("white", "ivory", "lightgrey")))
    draw, row = ImageDraw.Draw(image), source.randrange(4, 40)
    while row < side:
        size = source.choice((12, 16, 24, 40))
        words = " ".join(source.choices(THINGS + MORE, k=source.randrange(1, 9)))
        draw.text((source.randrange(8, side // 3), row), words, "black", font=ImageFont.load_default(size))
        row += size + source.randrange(4, 50)
    return image


def noise(number: int, side: int) -> Picture:
    """Return noise of a coarseness of 2 to 64 pixels."""
    source = np.random.default_rng(number)
    cells = side // 2 ** (1 + number % 6)
    return Image.fromarray(source.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side), BICUBIC)


KINDS: Mapping[str, Callable[[int, int], Picture]] = {
    "drawn": lambda number, side: drawn(prompts(OTHERS)[number], number, side),
    "gradients": gradient,
    "text": page,
    "noise": noise,
}


def bits_of(pdq: bytes) -> Bits:
    return np.unpackbits(np.frombuffer(pdq, np.uint8))


def similar(image: Picture, hashes: Bits) -> tuple[NDArray[np.bool_], int]:
    """Return which of the hashes the registry would find for the image, and how many searches that takes."""
    queries = query_hashes(image.convert("RGB"))
    found = np.zeros(len(hashes), np.bool_)
    for pdq, known in queries:
        differing = bits_of(pdq) ^ hashes
        least = np.minimum(differing.sum(1), (differing & bits_of(known)).sum(1) * 256 / bits_of(known).sum())
        band = (differing.reshape(-1, 16, 16).sum(1) <= 1).any(1)
        found |= (least <= MAX_DISTANCE) & band
    return found, len(queries)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--kind", choices=list(KINDS), default="drawn")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    images = [KINDS[options.kind](number, options.side) for number in range(OTHERS)]
    kept = [(image, found) for image in images if (found := hash_of(image))]
    hashes, taken, pairs = np.stack([bits_of(found) for _, found in kept]), 0, 0
    print(f"{options.kind}: {OTHERS} images of {options.side} pixels, {OTHERS - len(kept)} without a hash")
    for name, change in CHANGES.items():
        if options.only not in name:
            continue
        own = plain = searches = wrong = 0
        for number, (image, found) in enumerate(kept[: options.images]):
            copy = change(image)
            near, count = similar(copy, hashes)
            own, searches, wrong = own + bool(near[number]), searches + count, wrong + int(near.sum() - near[number])
            plain += int((bits_of(hash_of(copy) or bytes(32)) ^ bits_of(found)).sum() <= MAX_DISTANCE)
        done = min(options.images, len(kept))
        taken, pairs = taken + wrong, pairs + done * (len(kept) - 1)
        print(
            f"  {name:28} {own / done:7.1%} similar, {plain / done:7.1%} by all bits, {searches / done:.2f} searches, "
            f"others {wrong} of {done * (len(kept) - 1)}",
            flush=True,
        )
    print(f"{taken} of {pairs} pairs of a changed image and another one are taken for similar")


if __name__ == "__main__":
    main()
