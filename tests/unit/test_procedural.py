"""The procedural engine: the image depends on every part of the request, and on nothing else."""

import hashlib
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from random_requests import random_request

from support import draw_task
from umrgen.server.engines import Cancelled, EngineFailure, load_engine
from umrgen.server.engines.procedural import ProceduralEngine
from umrgen.server.engines.procedural.words import _CLOCK, _WORDS, read_scene

STORM = "a lighthouse on a cliff at dusk, storm over the sea"


def draw(prompt: str = STORM, **changes: Any) -> Any:
    values = {"width": 192, "height": 160, "steps": 4, "seed": 7} | changes
    (image,) = ProceduralEngine().draw(draw_task(prompt, **values), lambda *_: None)
    return image


def png(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, kind)
    return out.getvalue()


def difference(first: Any, second: Any) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


def sharpness(image: Any) -> float:
    """Return the mean difference between adjacent pixels, without the rows of the signature."""
    grey = image[:-20].astype(float).mean(2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def test_the_registry_loads_the_engine_with_its_info() -> None:
    info = load_engine("procedural", {"step_delay": 0.0}).info
    assert (info.name, info.kind, info.size_multiple, info.max_steps) == ("procedural", "procedural", 1, 50)
    assert set(info.features) == {"previews", "references", "negative"}


@pytest.mark.parametrize("prompt", [STORM, "a neon city at night in the rain", "hello world"])
def test_the_same_request_has_the_same_pixels(prompt: str) -> None:
    assert draw(prompt).tobytes() == draw(prompt).tobytes()


def test_another_process_draws_the_same_pixels() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import hashlib; from support import draw_task\n"
        "from umrgen.server.engines.procedural import ProceduralEngine as E\n"
        f"(p,) = E().draw(draw_task({STORM!r}, 192, 160, 4, 7), lambda *a: None)\n"
        "print(hashlib.sha256(p.tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256(draw().tobytes()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"prompt": "desert dunes at noon"},
        {"negative": "lighthouse"},
        {"references": (png((200, 30, 30)),)},
    ],
    ids=["seed", "prompt", "negative", "reference"],
)
def test_each_parameter_changes_the_image(changes: dict[str, Any]) -> None:
    assert difference(draw(), draw(**changes)) > 1.5


def test_more_steps_add_detail() -> None:
    one, two, four, eight = (sharpness(draw(width=320, height=320, steps=n)) for n in (1, 2, 4, 8))
    assert one < two < four
    assert eight > 1.5 * one


def test_the_composition_does_not_depend_on_the_size() -> None:
    small = Image.fromarray(draw("mountains at sunrise", width=128, height=128))
    large = Image.fromarray(draw("mountains at sunrise", width=256, height=256)).resize((128, 128))
    assert difference(np.asarray(small), np.asarray(large)) < 8


def test_a_negative_prompt_removes_only_the_moon() -> None:
    prompt = "a full moon over hills at night"
    with_moon, without = draw(prompt), draw(prompt, negative="moon, clouds")
    assert (with_moon.min(2) > 170).sum() > 150
    assert (without.min(2) > 170).sum() < 20
    assert difference(with_moon[120:140], without[120:140]) < 4
    assert (draw("hills at night, no moon").min(2) > 170).sum() < 20


def test_night_is_darker_than_noon() -> None:
    assert draw("the sea at night").mean() * 2 < draw("the sea at noon").mean()


def test_the_time_of_day_and_mood_change_the_colours() -> None:
    def warmth(prompt: str) -> float:
        means = draw(prompt).mean((0, 1))
        return float(means[0] - means[2])

    assert warmth("hills at sunset") > warmth("hills, day") + 20
    assert warmth("warm hills, day") > warmth("cold hills, day")
    assert draw("gloomy hills, day").mean() < draw("hills, day").mean()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_reference_image_changes_the_palette(kind: str) -> None:
    red = draw(references=(png((220, 20, 20), kind),)).mean((0, 1))
    plain = draw().mean((0, 1))
    assert red[0] - red[2] > plain[0] - plain[2] + 30


@pytest.mark.parametrize("data", [b"", b"not an image", png((1, 2, 3))[:60], png((1, 2, 3), "BMP")])
def test_a_reference_that_is_no_image_is_an_engine_failure(data: bytes) -> None:
    with pytest.raises(EngineFailure, match="reference"):
        draw(references=(data,))


def test_steps_are_reported_once_each_with_a_preview() -> None:
    seen: list[tuple[int, int]] = []
    previews = []

    def report(step: int, total: int, preview: Any) -> None:
        seen.append((step, total))
        previews.append(preview())

    request = draw_task("a quiet forest in the snow", 150, 100, 6, 3)
    (final,) = ProceduralEngine().draw(request, report)
    assert seen == [(step, 6) for step in range(1, 7)]
    assert all(p.shape == (100, 150, 3) and p.dtype == np.uint8 for p in previews)
    distances = [difference(p, final) for p in previews]
    assert distances[-1] == 0
    assert distances[0] > distances[2] > distances[4] > 0


def test_a_preview_shows_its_step_when_it_is_read_later() -> None:
    kept = []
    now = []
    request = draw_task("the sea", 96, 96, 6, 3)

    def report(step: int, total: int, preview: Any) -> None:
        kept.append(preview)
        now.append(preview())

    ProceduralEngine().draw(request, report)
    assert all(difference(a(), b) == 0 for a, b in zip(kept, now, strict=True))


def test_a_cancellation_stops_at_the_current_step() -> None:
    steps = []

    def report(step: int, total: int, preview: Any) -> None:
        steps.append(step)
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        ProceduralEngine().draw(draw_task("the sea", 96, 96, 8, 1), report)
    assert steps == [1, 2]


def test_the_step_delay_is_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("umrgen.server.engines.procedural.drawing.time.sleep", slept.append)
    ProceduralEngine(step_delay=0.5).draw(draw_task("the sea", 64, 64, 3, 1), lambda *_: None)
    assert slept == [0.5, 0.5]


@pytest.mark.parametrize("size", [(512, 2048), (2048, 512), (777, 513), (17, 5), (1, 1)])
@pytest.mark.parametrize("prompt", ["a neon city in the rain", "a boat and an island at dawn, mist"])
def test_any_size_is_drawn(prompt: str, size: tuple[int, int]) -> None:
    steps = 4 if max(size) < 800 else 3
    image = draw(prompt, width=size[0], height=size[1], steps=steps)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8


def test_a_prompt_without_known_terms_is_drawn_as_an_abstract_image() -> None:
    assert not read_scene("hello world", "").names
    image = draw("hello world")
    assert image.std() > 15
    assert difference(image, draw("hello there")) > 5


@pytest.mark.parametrize(
    ("prompt", "names", "time"),
    [
        ("Neon-lit ALLEY", {"street", "city"}, "night"),
        ("two pines by a fjord at daybreak", {"forest", "lake", "water"}, "dawn"),
        ("lighthouses", {"lighthouse", "cliff", "sea", "water"}, "day"),
        ("starry sky with an aurora", {"stars", "aurora"}, "night"),
        ("thunderstorm, twilight", {"storm", "rain", "lightning", "sea"}, "dusk"),
    ],
)
def test_synonyms_and_their_implied_things_are_recognized(prompt: str, names: set[str], time: str) -> None:
    scene = read_scene(prompt, "")
    assert names <= scene.names
    assert scene.time == time


def test_a_negative_prompt_removes_implied_things() -> None:
    names = read_scene("a storm at sea without lightning", "rain").names
    assert not names & {"rain", "lightning"}
    assert {"storm", "waves"} <= names


@pytest.mark.parametrize("prompt", ["the sea at noon", "a neon city at night", "hello world"])
def test_the_signature_is_in_the_lower_right_corner(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = draw(prompt)
    monkeypatch.setattr("umrgen.server.engines.procedural.drawing._signed", lambda pixels: pixels)
    changed = np.argwhere((signed != draw(prompt)).any(2))
    assert 100 < len(changed) < 400
    assert changed[:, 0].min() > 144
    assert changed[:, 1].min() > 115
    assert changed.max(0).tolist() <= [155, 187]


def test_a_request_without_steps_is_an_engine_failure() -> None:
    with pytest.raises(EngineFailure):
        draw(steps=0)


@settings(max_examples=30, deadline=None)
@given(
    st.text(max_size=60) | st.lists(st.sampled_from(sorted({*_WORDS, *_CLOCK, "no"}))).map(" ".join),
    st.text(max_size=20),
    st.integers(0, 2**63 - 1),
    st.integers(1, 70),
    st.integers(1, 70),
)
def test_any_prompt_is_drawn(prompt: str, negative: str, seed: int, width: int, height: int) -> None:
    image = draw(prompt, negative=negative, seed=seed, width=width, height=height, steps=4)
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize(
    "prompt", ["aurora", "an aurora at night, stars", "a lighthouse at dusk, fog", "a neon city", ""]
)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 96), (512, 1), (3, 2), (64, 64)])
def test_numpy_emits_no_warning(prompt: str, width: int, height: int) -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for seed in range(3):
            assert draw(prompt, seed=seed, width=width, height=height, steps=4).shape == (height, width, 3)


@pytest.mark.parametrize("seed", range(60))
def test_numpy_emits_no_warning_for_random_requests(seed: int) -> None:
    """tests/slow/test_procedural_many.py draws two thousand others."""
    request = random_request(random.Random(seed))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        (image,) = ProceduralEngine().draw(request, lambda *_: None)
    assert image.shape == (request.request.height, request.request.width, 3)
