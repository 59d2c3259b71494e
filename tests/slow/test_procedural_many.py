"""Two thousand random prompts and sizes for the procedural engine: numpy emits no warning."""

import random
import warnings

import numpy as np
import pytest
from random_requests import random_request

from umrgen.server.engines import load_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("hundred", range(20))
def test_a_hundred_requests_cause_no_warning(hundred: int) -> None:
    """Overflow, division by zero and invalid values raise an error. Underflow does not: the light far from a lamp
    may be rounded to 0."""
    first = hundred * 100 + random.SystemRandom().randrange(10**6) * 2000
    for seed in range(first, first + 100):
        request = random_request(random.Random(seed))
        try:
            with warnings.catch_warnings(), np.errstate(over="raise", divide="raise", invalid="raise"):
                warnings.simplefilter("error")
                engine = load_engine("procedural", {"step_delay": 0.0})
                engine.load()
                (image,) = engine.draw(request, lambda step, total, preview=None: preview and preview())
        except Exception as error:
            pytest.fail(f"random_request(Random({seed})): {type(error).__name__}: {error}: {request}")
        assert image.shape == (request.request.height, request.request.width, 3)
