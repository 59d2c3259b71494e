"""The conformance suite of engines, local and remote."""

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_comfyui import FakeComfyUI
from fake_sd_server import FakeSdServer
from support import draw_task
from umrgen.server.engines import (
    ENGINES,
    Cancelled,
    EncodedImage,
    EngineFailure,
    Phase,
    check_options,
    is_remote,
    load_engine,
)

TASK = draw_task("a lighthouse at dusk", width=576, height=512, steps=3, seed=11)

FAKES = ("fake_engines:FakeEngine", "fake_engines:FakeRemoteEngine")
"""A local and a remote engine."""


class Steps:
    """Implements `Report`: records the steps, and cancels at one of them."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.finished: list[tuple[int, int]] = []
        self._cancel_at = cancel_at

    def __call__(self, step: int, total: int, preview: Callable[[], Any] | None = None, /) -> None:
        if step == self._cancel_at:
            raise Cancelled
        self.finished.append((step, total))

    def together(self, images: int, /) -> None: ...

    def phase(self, phase: Phase, /) -> None:
        assert phase in Phase


async def awaited(result: Any) -> Any:
    """Return the result of a method, which may be a coroutine."""
    return await result if inspect.isawaitable(result) else result


DIFFUSERS = pytest.param(
    "diffusers",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed: make torch"),
        pytest.mark.filterwarnings("default"),  # warnings of the libraries
        pytest.mark.timeout(300),
    ],
)
"""With a tiny random pipeline."""


@pytest.fixture(params=[*sorted(set(ENGINES) - {"diffusers"}), DIFFUSERS, *FAKES])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    with _options(request.param, tmp_path) as options:
        made = load_engine(request.param, options)
        remote = is_remote(request.param)
        await awaited(made.load(lambda: None) if remote else made.load())
        yield made
        if remote:
            await made.close()


@contextmanager
def _options(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the options with which the engine can be loaded here."""
    if name == "comfyui":
        with FakeComfyUI() as fake:
            yield {"url": fake.url}
    elif name == "sdcpp":
        with FakeSdServer() as server:
            yield {"url": server.url}
    elif name == "diffusers":
        import tiny_pipelines

        yield {"model": str(tiny_pipelines.save("klein", folder))}
    else:
        yield {}


async def test_the_image_has_the_requested_size(engine: Any) -> None:
    for image in await awaited(engine.draw(TASK, Steps())):
        assert isinstance(image, EncodedImage) or (image.shape, image.dtype) == ((512, 576, 3), np.uint8)


async def test_each_step_is_reported_once_and_in_order(engine: Any) -> None:
    steps = Steps()
    await awaited(engine.draw(TASK, steps))
    assert steps.finished == [(1, 3), (2, 3), (3, 3)]


async def test_a_cancelled_job_stops_its_engine(engine: Any) -> None:
    with pytest.raises(Cancelled):
        await awaited(engine.draw(TASK, Steps(cancel_at=2)))


def test_the_info_is_valid(engine: Any) -> None:
    info = engine.info
    assert info.kind in ("procedural", "model")
    assert info.name in (*ENGINES, "fake")
    assert info.max_steps >= 1
    assert info.size_multiple >= 1
    assert info.min_side <= info.max_side
    assert set(info.features) <= {"previews", "references", "negative", "loras", "cfg"}


def test_the_class_determines_whether_an_engine_is_remote() -> None:
    assert [is_remote(name) for name in ("procedural", *FAKES)] == [False, False, True]


def test_the_error_for_an_unknown_engine_has_its_name() -> None:
    with pytest.raises(EngineFailure, match="no engine 'nope'"):
        load_engine("nope", {})


def test_the_error_for_an_unknown_option_lists_the_options() -> None:
    with pytest.raises(EngineFailure, match="'procedural' has no option 'stepdelay'; its options: step_delay"):
        load_engine("procedural", {"stepdelay": 1})
    with pytest.raises(EngineFailure, match="'fake_engines:FakeEngine' has no option 'x'; it has no options"):
        load_engine("fake_engines:FakeEngine", {"x": 1})


def test_the_error_for_a_missing_option_has_its_name() -> None:
    with pytest.raises(EngineFailure, match="'fake_engines:MeetingEngine' needs the option 'folder'"):
        check_options("fake_engines:MeetingEngine", {"count": 2})


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_importing_an_engine_imports_no_framework(name: str) -> None:
    """The server process imports the class to read its options."""
    code = f"import sys; from umrgen.server import engines; engines.check_options({name!r}, {{}}); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "PIL", "transformers", "huggingface_hub"} & set(run.stdout.split())
