"""How many changed copies of an image its perceptual hash recognises, and how many other images it takes for one.

    python benchmarks/recognition.py [--images 500] [--pairs 200000] [--side 512]

The images are drawn by the procedural engine, each from another prompt and seed. A copy is similar within 31 bits, as
in the registry.
"""

import argparse
import io
import itertools
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask
from umrgen.server.engines.procedural import ProceduralEngine
from umrgen.server.ledger.sql.bands import MAX_DISTANCE
from umrgen.server.pdq import hash_of

Picture = Image.Image
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


def with_text(width: float) -> Callable[[Picture], Picture]:
    """Return the change that puts text on a black strip at the lower right: 4 % of the height, `width` of the width."""

    def change(image: Picture) -> Picture:
        copy, top, left = image.copy(), int(image.height * 0.96), int(image.width * (1 - width))
        draw = ImageDraw.Draw(copy)
        draw.rectangle((left, top, copy.width, copy.height), "black")
        draw.text((left + 6, top + 4), "posted on 28 November", "white")
        return copy

    return change


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
    **{f"brightness {percent:+} %": brighter(percent) for percent in (-20, 20)},
    "WebP, quality 80": saved("WEBP", quality=80),
    "PNG": saved("PNG"),
    "a line of text": captioned,
    "a black strip with text": with_text(0.35),
    "one of the whole width": with_text(1.0),
    "cropped by 5 %": cropped,
}


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count() if one and other else 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    count = next(n for n in itertools.count(2) if n * (n - 1) // 2 >= options.pairs)
    found: dict[str, list[int]] = {name: [] for name in CHANGES}
    hashes = []
    for number, prompt in enumerate(prompts(max(count, options.images))):
        image = drawn(prompt, number, options.side)
        hashes.append(hash_of(image))
        for name, change in CHANGES.items() if number < options.images else ():
            found[name].append(distance(hashes[-1], hash_of(change(image))))
    print(f"{options.images} images of {options.side} pixels, {sum(not each for each in hashes)} without a hash")
    for name, distances in found.items():
        similar = sum(each <= MAX_DISTANCE for each in distances) / len(distances)
        print(f"  {name:24} {similar:7.1%} similar, median {statistics.median(distances):g} bits")
    pairs = list(itertools.islice(itertools.combinations(hashes[:count], 2), options.pairs))
    taken = sum(distance(*pair) <= MAX_DISTANCE for pair in pairs)
    print(f"{taken} of {len(pairs)} pairs of images from different prompts are taken for similar")


if __name__ == "__main__":
    main()
