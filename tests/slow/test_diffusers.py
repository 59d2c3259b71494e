"""The diffusers engine with tiny random pipelines of the real classes, on the CPU."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from support import draw_task
from umrgen.server.domain.request import Lora
from umrgen.server.engines import Cancelled, DrawTask, EngineFailure, OutOfMemory, Phase
from umrgen.server.engines.diffusers import DiffusersEngine
from umrgen.server.engines.diffusers.families import FAMILIES, family_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed: make torch"),
    pytest.mark.filterwarnings("default"),  # warnings of the libraries
    pytest.mark.timeout(300),
]

NAMES = ("z_image", "klein", "sd", "sdxl")
LORAS = ("a", "b", "foreign", "wrong")


class Recorder:
    """Implements `Report`: records steps, previews and phases, and cancels at a step."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.steps: list[tuple[int, int]] = []
        self.previews: list[Any] = []
        self.phases: list[Phase] = []
        self.calls = 0
        self._cancel_at = cancel_at
        self.drawn_with = 0

    def __call__(self, step: int, total: int, preview: Callable[[], Any] | None = None, /) -> None:
        self.calls += 1
        if step == self._cancel_at:
            raise Cancelled
        self.steps.append((step, total))
        if preview is not None:
            self.previews.append(preview())

    def together(self, images: int, /) -> None:
        self.drawn_with = images

    def phase(self, phase: Phase, /) -> None:
        self.phases.append(phase)


def task(prompt: str = "a lighthouse", *, references: tuple[bytes, ...] = (), **changes: Any) -> DrawTask:
    made = draw_task(prompt, references=references)
    return replace(made, request=msgspec.structs.replace(made.request, **changes))


def png(side: int = 300) -> bytes:
    encoded = BytesIO()
    shades = np.linspace(0, 255, side * side * 4).reshape(side, side, 4).astype(np.uint8)
    Image.fromarray(shades, "RGBA").save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four pipelines, and for each a folder of LoRAs."""
    import tiny_pipelines

    made = tmp_path_factory.mktemp("pipelines")
    for name in NAMES:
        pipeline = tiny_pipelines.save(name, made / name)
        (loras := made / f"{name}-loras").mkdir()
        tiny_pipelines.save_lora(loras / "a.safetensors", pipeline, 1)
        tiny_pipelines.save_lora(loras / "b.safetensors", pipeline, 2)
        tiny_pipelines.save_lora(loras / "wrong.safetensors", pipeline, 3, extra=3)
        tiny_pipelines.save_foreign_lora(loras / "foreign.safetensors")
        (loras / "pickle.bin").write_bytes(b"not read")
    return made


def loaded(folder: Path, name: str, **options: Any) -> DiffusersEngine:
    engine = DiffusersEngine(model=str(folder / name), loras=str(folder / f"{name}-loras"), **options)
    engine.load()
    return engine


@pytest.fixture(scope="module", params=NAMES)
def engine(request: pytest.FixtureRequest, folder: Path) -> DiffusersEngine:
    return loaded(folder, request.param, max_batch=4)


@pytest.fixture(scope="module")
def klein(folder: Path) -> DiffusersEngine:
    """The fastest one, for the tests that need no other."""
    return loaded(folder, "klein", max_batch=4)


def draw(engine: DiffusersEngine, drawn: DrawTask | None = None, report: Recorder | None = None) -> Any:
    (image,) = engine.draw(drawn or task(), report or Recorder())
    return image


def together(engine: DiffusersEngine, tasks: Sequence[DrawTask], *reports: Recorder) -> list[Any]:
    """Return the image, or the error, of each task of a batch."""
    results = engine.draw_batch(tasks, reports or [Recorder() for _ in tasks])
    return [result if isinstance(result, Exception) else result[0] for result in results]


def difference(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


def pipeline_of(engine: DiffusersEngine) -> Any:
    return engine._session._model.pipeline  # type: ignore[union-attr]


FOUR = [task(f"a lighthouse {'very ' * number}far away", seed=number) for number in range(4)]


def test_the_same_seed_draws_the_same_image_and_another_seed_another(engine: DiffusersEngine) -> None:
    first = draw(engine)
    assert first.shape == (512, 512, 3)
    assert first.std() > 5
    assert difference(draw(engine), first) == 0
    assert difference(draw(engine, task(seed=4)), first) > 1


def test_jobs_are_drawn_alike_alone_and_in_a_batch(engine: DiffusersEngine) -> None:
    alone = [draw(engine, one) for one in FOUR]
    reports = [Recorder() for _ in FOUR]
    batch = together(engine, FOUR, *reports)
    assert [report.drawn_with for report in reports] == [4] * 4
    assert [difference(one, other) <= 1 for one, other in zip(alone, batch, strict=True)] == [True] * 4
    assert [report.steps for report in reports] == [[(1, 2), (2, 2)]] * 4

    others = [Recorder(), Recorder(cancel_at=1), Recorder(), Recorder()]
    with_cancelled = together(engine, FOUR, *others)
    assert isinstance(with_cancelled[1], Cancelled)
    assert others[1].calls == 1
    assert [difference(with_cancelled[number], batch[number]) for number in (0, 2, 3)] == [0, 0, 0]


def test_a_cancelled_job_stops_within_a_step_and_changes_no_other(engine: DiffusersEngine) -> None:
    before, cancelled = draw(engine), Recorder(cancel_at=2)
    decoded = Calls(pipeline_of(engine).vae, "decode")
    with decoded, pytest.raises(Cancelled):
        draw(engine, task(steps=20), cancelled)
    assert (cancelled.calls, decoded.count) == (2, 0)
    assert difference(draw(engine), before) == 0


def test_loras_are_set_for_every_job_and_nothing_is_left_over(engine: DiffusersEngine) -> None:
    assert engine.info.loras == LORAS
    plain = draw(engine)
    a = draw(engine, task(loras=(Lora("a", 4.0),)))
    assert difference(a, plain) > 1
    assert difference(draw(engine), plain) == 0
    both = draw(engine, task(loras=(Lora("a", 4.0), Lora("b", 4.0))))
    assert difference(both, a) > 0
    assert difference(draw(engine), plain) == 0
    assert difference(draw(engine, task(loras=(Lora("a", 4.0),))), a) == 0

    for name, reason in (("wrong", "does not fit"), ("foreign", "of another model"), ("../a", "there is no LoRA")):
        with pytest.raises(EngineFailure, match=f"LoRA '{name}'.*{reason}|{reason} '{name}'"):
            draw(engine, task(loras=(Lora("b"), Lora(name))))
        assert difference(draw(engine), plain) == 0


class Calls:
    """Replaces a method of an object while it is entered: counts its calls, and may change the result."""

    def __init__(self, owner: Any, name: str, change: Callable[[Any], Any] = lambda result: result) -> None:
        self.count = 0
        self._owner, self._name, self._change = owner, name, change

    def __enter__(self) -> "Calls":
        original = getattr(self._owner, self._name)

        def called(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            return self._change(original(*arguments, **named))

        setattr(self._owner, self._name, called)
        return self

    def __exit__(self, *error: object) -> None:
        delattr(self._owner, self._name)


class TestMemory:
    def test_a_job_that_never_fits_fails_alone_after_its_ladder(self, engine: DiffusersEngine) -> None:
        import torch

        vae = pipeline_of(engine).vae
        tiled: list[bool] = []

        def too_large(result: Any) -> Any:
            tiled.append(vae.use_tiling)
            raise torch.OutOfMemoryError("CUDA out of memory")

        before = draw(engine)
        with Calls(vae, "decode", too_large), pytest.raises(OutOfMemory, match="lower width and height"):
            draw(engine)
        assert tiled == [False, True]
        assert not vae.use_tiling  # the next job has the image that it would have had
        assert difference(draw(engine), before) == 0

    def test_a_batch_that_does_not_fit_is_split(self, klein: DiffusersEngine) -> None:
        sizes: list[int] = []

        def limited(result: Any) -> Any:
            sizes.append(len(result[0]))
            if len(result[0]) > 1:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return result

        batch = together(klein, FOUR)
        with Calls(pipeline_of(klein).vae, "decode", limited):
            split = together(klein, FOUR, *(reports := [Recorder() for _ in FOUR]))
        assert sizes == [4, 2, 1, 1, 2, 1, 1]
        assert [report.drawn_with for report in reports] == [1] * 4
        assert all(difference(one, other) <= 1 for one, other in zip(batch, split, strict=True))

    def test_a_rung_of_the_ladder_may_suffice(self, klein: DiffusersEngine) -> None:
        import torch

        vae = pipeline_of(klein).vae

        def fits_in_tiles(result: Any) -> Any:
            if not vae.use_tiling:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return result

        with Calls(vae, "decode", fits_in_tiles):
            assert draw(klein).shape == (512, 512, 3)
        assert not vae.use_tiling

    def test_a_model_that_finds_no_room_after_offloading_stays_offloaded(
        self, klein: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another program takes the memory in the meantime; there is no GPU here, so the placing is replaced."""
        import torch

        session = klein._session
        assert session is not None
        model, placed = session._model, [""]

        def place(pipeline: Any, device: str, offload: str) -> None:
            placed.append(offload)
            if offload == "none":
                raise torch.OutOfMemoryError("CUDA out of memory")

        def fits_offloaded(result: Any) -> Any:
            if placed[-1] != "model":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return result

        monkeypatch.setattr("umrgen.server.engines.diffusers.memory.place", place)
        monkeypatch.setattr(model, "plan", replace(model.plan, device="cuda:0"))
        with Calls(model.pipeline.vae, "decode", fits_offloaded):
            assert draw(klein).shape == (512, 512, 3)
            assert (placed[1:], model.plan.offload) == (["model", "none", "model"], "model")
            assert draw(klein).shape == (512, 512, 3)
        assert len(placed) == 4

    def test_another_exception_is_not_taken_for_one_of_memory(self, klein: DiffusersEngine) -> None:
        def broken(result: Any) -> Any:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        with Calls(pipeline_of(klein).vae, "decode", broken), pytest.raises(RuntimeError, match="illegal"):
            draw(klein)


def test_an_image_of_nan_fails_one_job_of_a_batch(engine: DiffusersEngine) -> None:
    def nan_in_the_second(result: Any) -> Any:
        images = result[0].clone()
        images[1] = float("nan")
        return (images,)

    batch = together(engine, FOUR)
    with Calls(pipeline_of(engine).vae, "decode", nan_in_the_second):
        damaged = together(engine, FOUR)
    assert isinstance(damaged[1], EngineFailure)
    assert "NaN" in str(damaged[1])
    assert [difference(damaged[number], batch[number]) for number in (0, 2, 3)] == [0, 0, 0]


def test_a_repeated_prompt_is_encoded_once(engine: DiffusersEngine) -> None:
    prompts = engine._session.prompts  # type: ignore[union-attr]
    draw(engine, task("a lighthouse, kept"))
    before = prompts.encoded
    draw(engine, task("a lighthouse, kept", seed=9))
    together(engine, [task("a lighthouse, kept", seed=number) for number in range(2)])
    assert prompts.encoded == before
    draw(engine, task("a lighthouse, new"))
    assert prompts.encoded > before


def test_kept_embeddings_change_no_pixel(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the prompts are passed as a new list: ZImagePipeline writes into it, and the third would differ."""
    kept = draw(engine)
    session = engine._session
    assert session is not None
    monkeypatch.setattr(session.prompts, "_family", replace(session.family, embeds=()))
    assert [difference(draw(engine), kept) for _ in range(3)] == [0, 0, 0]


def test_a_model_that_is_guided_by_an_empty_prompt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.2-klein-base has guidance, and no negative prompts."""
    import tiny_pipelines

    shutil.copytree(folder / "klein", tmp_path / "base")
    tiny_pipelines.with_entry(tmp_path / "base", "is_distilled", False)
    engine = DiffusersEngine(model=str(tmp_path / "base"), steps=2)
    engine.load()
    assert (engine.info.default_steps, engine.info.default_cfg) == (2, 4.0)
    assert engine.info.features == ("cfg", "previews", "references")
    guided = draw(engine)
    assert difference(draw(engine, task(cfg=1.0)), guided) > 0
    session = engine._session
    assert session is not None
    monkeypatch.setattr(session.prompts, "_family", replace(session.family, embeds=()))
    assert difference(draw(engine), guided) == 0


def test_a_model_that_does_not_fit_on_its_device_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umrgen.server.engines.diffusers import loaded as loading

    def full(*arguments: Any) -> None:
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(loading, "place", full)
    with pytest.raises(EngineFailure, match="cannot be placed on cpu with offload none; try offload model"):
        loaded(folder, "klein")


def test_reference_images_change_the_image(engine: DiffusersEngine) -> None:
    plain = draw(engine, task(steps=4))
    several = (png(), png(700)) if "klein" in engine.info.models else (png(),)
    image = draw(engine, task(steps=4, references=several))
    assert image.shape == (512, 512, 3)
    assert difference(image, plain) > 1
    assert difference(draw(engine, task(steps=4)), plain) == 0
    with pytest.raises(EngineFailure, match="cannot be decoded"):
        draw(engine, task(references=(b"no image",)))


def test_negative_prompts_and_guidance_have_an_effect_or_are_refused(engine: DiffusersEngine) -> None:
    plain = draw(engine)
    if "klein" in engine.info.models:  # distilled
        assert not {"cfg", "negative"} & set(engine.info.features)
        for changes in ({"negative": "fog"}, {"cfg": 3.0}):
            with pytest.raises(EngineFailure, match="the model 'klein'"):
                draw(engine, task(**changes))
        return
    assert difference(draw(engine, task(cfg=engine.info.default_cfg)), plain) == 0
    assert difference(draw(engine, task(cfg=1.5)), plain) > 0
    assert difference(draw(engine, task(negative="fog")), plain) > 0


def test_previews_are_small_images(engine: DiffusersEngine) -> None:
    report = Recorder()
    draw(engine, task(width=768), report)
    assert [(preview.shape, preview.dtype) for preview in report.previews] == [((64, 96, 3), np.uint8)] * 2
    assert "previews" in engine.info.features


def test_the_families_defaults_are_those_of_a_request_without_steps(engine: DiffusersEngine) -> None:
    name = engine.info.models[0]
    expected = {"z_image": (50, 5.0, 16), "klein": (4, 1.0, 16), "sd": (50, 7.5, 8), "sdxl": (50, 5.0, 8)}
    info = engine.info
    assert (info.default_steps, info.default_cfg, info.size_multiple) == expected[name]
    assert (info.name, info.kind, info.max_batch) == ("diffusers", "model", 4)
    assert engine.plans()[name].line() == info.notes[0]
    assert info.notes[0].startswith("device cpu, dtype float32, offload none, ")


def test_a_pipeline_without_a_callback_reports_its_steps(folder: Path) -> None:
    engine = loaded(folder, "sd", preview_every=2)
    expected, pipeline = draw(engine), pipeline_of(engine)
    hidden = "callback_on_step_end"

    class WithoutCallback(type(pipeline)):  # type: ignore[misc]
        def __call__(
            self,
            *,
            prompt_embeds: Any,
            negative_prompt_embeds: Any,
            width: int,
            height: int,
            num_inference_steps: int,
            guidance_scale: float,
            generator: Any,
            output_type: str,
        ) -> Any:
            given = dict(locals())
            return super().__call__(**{name: given[name] for name in given if name not in ("self", "__class__")})

    assert hidden in signature(pipeline.__call__).parameters
    pipeline.__class__ = WithoutCallback
    report, cancelled = Recorder(), Recorder(cancel_at=1)
    assert difference(draw(engine, task(), report), expected) == 0
    assert report.steps == [(1, 2), (2, 2)]
    assert len(report.previews) == 1
    with pytest.raises(Cancelled):
        draw(engine, task(steps=9), cancelled)
    assert cancelled.calls == 1
    assert difference(draw(engine), expected) == 0


def test_another_model_is_loaded_when_a_job_names_it(folder: Path) -> None:
    models = {"fast": str(folder / "klein"), "large": str(folder / "sdxl")}
    engine = DiffusersEngine(models=models)
    engine.load()
    assert (engine.info.models, engine.info.max_batch) == (("fast", "large"), 1)
    assert [engine.info.steps_of(model) for model in (None, "fast", "large")] == [4, 4, 50]
    first, report = draw(engine), Recorder()
    other = draw(engine, task(model="large"), report)
    assert report.phases == [Phase.LOADING]
    assert (engine.info.default_cfg, engine.info.default_steps) == (5.0, 4)  # the provenance has the loaded model's cfg
    assert difference(other, first) > 1
    assert difference(draw(engine), first) == 0
    with pytest.raises(EngineFailure, match="no model 'third'; there are: fast, large"):
        draw(engine, task(model="third"))


def test_one_file_replaces_the_denoiser_of_a_folder(folder: Path, tmp_path: Path) -> None:
    import tiny_pipelines

    tiny_pipelines.save_z_image_file(tmp_path / "my-turbo.safetensors", folder / "z_image")
    engine = DiffusersEngine(model=str(tmp_path / "my-turbo.safetensors"), config=str(folder / "z_image"))
    engine.load()
    assert engine.info.models == ("my-turbo",)
    assert (engine.info.default_steps, engine.info.default_cfg) == (8, 0.0)  # by its name
    whole = loaded(folder, "z_image", cfg=0)
    assert difference(draw(engine), draw(whole)) == 0


def test_warm_up_draws_the_stated_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umrgen.server.engines.diffusers.session import ModelSession

    drawn: list[tuple[int, int]] = []
    warm = ModelSession._warm
    monkeypatch.setattr(ModelSession, "_warm", lambda self, size, count: drawn.append(size) or warm(self, size, count))
    loaded(folder, "klein", sizes="512x512,768x512")
    assert drawn == [(512, 512), (768, 512)]


def test_a_component_that_is_only_there_as_pickle_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    """The loader itself refuses it too, for a file that appears after the examination."""
    import torch

    from umrgen.server.engines.diffusers.loaded import load_model
    from umrgen.server.engines.diffusers.plan import machine_here

    engine = loaded(folder, "klein")
    files = engine._files["klein"]
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in files.folder.iterdir():
        (copied / path.name).symlink_to(path)
    (copied / "vae").unlink()
    (copied / "vae").mkdir()
    (copied / "vae" / "config.json").write_bytes((files.folder / "vae" / "config.json").read_bytes())
    torch.save(pipeline_of(engine).vae.state_dict(), copied / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(EngineFailure, match="cannot be loaded"):
        load_model(replace(files, folder=copied), engine._options, machine_here("cpu"))
    with pytest.raises(EngineFailure, match=r"'vae'.*only as \.bin"):
        DiffusersEngine(model=str(copied))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_table_of_families_is_that_of_the_installed_version(name: str) -> None:
    import diffusers

    family = family_of({"_class_name": name}, "plain")
    assert family is not None
    parameters = signature(getattr(diffusers, name).__call__).parameters
    assert parameters["num_inference_steps"].default == family.steps
    assert {"width", "height", "generator", "output_type"} <= set(parameters)
    if family.guidance_name:
        assert parameters[family.guidance_name].default == family.guidance
    assert family.negative <= ("negative_prompt" in parameters)
    assert bool(family.references) == ("image" in parameters)
    assert family.callback == ("callback_on_step_end" in parameters)
    assert set(family.embeds) <= set(parameters)
    assert family.loras == hasattr(getattr(diffusers, name), "load_lora_weights")
    assert family.single_file <= hasattr(getattr(diffusers, name), "from_single_file")
    if family.image_pipeline:
        assert {"image", "strength"} <= set(signature(getattr(diffusers, family.image_pipeline).__call__).parameters)
