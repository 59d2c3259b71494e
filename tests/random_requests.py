"""Random requests for the procedural engine."""

import random

import numpy as np

from support import draw_task
from umrgen.server.engines import DrawTask
from umrgen.server.engines.procedural.words import _CLOCK, _WORDS
from umrgen.server.png import encode_png

VOCABULARY = sorted({*_WORDS, *_CLOCK, "no", "a", "of", "and"})
SIDES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 64, 96)


def random_request(rng: random.Random) -> DrawTask:
    words = rng.choices(VOCABULARY, k=rng.randint(0, 12))
    if rng.random() < 0.3:
        words.append("".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randint(1, 20))))
    sides = SIDES if rng.random() < 0.97 else (1, 7, 128, 256, 512)
    width, height = rng.choice(sides), rng.choice(sides)
    reference = np.frombuffer(rng.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3)
    return draw_task(
        prompt=" ".join(words),
        negative=" ".join(rng.choices(VOCABULARY, k=rng.randint(0, 3))),
        width=width,
        height=height,
        steps=rng.randint(1, 6),
        seed=rng.randrange(2**53),
        references=(encode_png(reference),) if rng.random() < 0.2 else (),
    )
