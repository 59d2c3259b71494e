"""Two thousand random prompts and sizes: the procedural engine computes nothing that numpy warns of."""

import random
import warnings

import numpy as np
import pytest

from umrgen.images import encode_png
from umrgen.server.engines import DrawRequest, load_engine
from umrgen.server.engines.procedural.words import _CLOCK, _WORDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VOCABULARY = sorted({*_WORDS, *_CLOCK, "no", "a", "of", "and"})
SIDES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 64, 96)


def random_request(chance: random.Random) -> DrawRequest:
    words = chance.choices(VOCABULARY, k=chance.randint(0, 12))
    if chance.random() < 0.3:
        words.append("".join(chr(chance.randrange(32, 0x2FFF)) for _ in range(chance.randint(1, 20))))
    sides = SIDES if chance.random() < 0.97 else (1, 7, 128, 256, 512)
    width, height = chance.choice(sides), chance.choice(sides)
    reference = np.frombuffer(chance.randbytes(8 * 8 * 3), np.uint8).reshape(8, 8, 3)
    return DrawRequest(
        prompt=" ".join(words),
        negative=" ".join(chance.choices(VOCABULARY, k=chance.randint(0, 3))),
        width=width,
        height=height,
        steps=chance.randint(1, 6),
        seed=chance.randrange(2**53),
        references=(encode_png(reference),) if chance.random() < 0.2 else (),
    )


@pytest.mark.parametrize("hundred", range(20))
def test_a_hundred_pictures_without_a_warning(hundred: int) -> None:
    """Overflow, division by zero and invalid values raise here. Underflow is left alone: what falls below the
    smallest float is 0, which is what the far end of a glow should be."""
    first = hundred * 100 + random.SystemRandom().randrange(10**6) * 2000
    for seed in range(first, first + 100):
        request = random_request(random.Random(seed))
        try:
            with warnings.catch_warnings(), np.errstate(over="raise", divide="raise", invalid="raise"):
                warnings.simplefilter("error")
                engine = load_engine("procedural", {"step_delay": 0.0})
                engine.load()
                picture = engine.draw(request, lambda step, total, preview=None: preview and preview())
        except Exception as error:
            pytest.fail(f"random_request(Random({seed})): {type(error).__name__}: {error}: {request}")
        assert picture.shape == (request.height, request.width, 3)
