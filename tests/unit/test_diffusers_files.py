"""The diffusers engine before it loads a model: options, the examination of model folders, and the plan."""

import json
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from support import draw_task
from umrgen.server.domain.request import Lora
from umrgen.server.engines import Cancelled, EngineFailure, Phase, load_engine
from umrgen.server.engines.diffusers import DiffusersEngine
from umrgen.server.engines.diffusers.batches import BatchCaps, candidates, measure, split
from umrgen.server.engines.diffusers.drawing import BatchedTask, StepWatch
from umrgen.server.engines.diffusers.families import FAMILIES, NOT_VERIFIED, family_of
from umrgen.server.engines.diffusers.loras import lora_files
from umrgen.server.engines.diffusers.model_files import find
from umrgen.server.engines.diffusers.model_limits import check_task
from umrgen.server.engines.diffusers.options import DiffusersOptions
from umrgen.server.engines.diffusers.plan import GIB, Machine, plan
from umrgen.server.engines.diffusers.prompts import PromptCache

PAGE = Path(__file__).parents[2] / "docs" / "engines-diffusers.md"
Z_IMAGE = {
    "_class_name": "ZImagePipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "feature_extractor": [None, None],
}


def safetensors(path: Path, parameters: int = 10) -> None:
    """Write a file with a header for that many parameters; the data itself is left out."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [parameters], "data_offsets": [0, 4 * parameters]}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the files that the engine examines."""
    folder = tmp_path / "model"
    for part in ("text_encoder", "transformer", "vae"):
        safetensors(folder / part / "model.safetensors")
        (folder / part / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(Z_IMAGE))
    return folder


def change_index(model: Path, **changes: Any) -> None:
    (model / "model_index.json").write_text(json.dumps(Z_IMAGE | changes))


def options_of(**options: Any) -> DiffusersOptions:
    return DiffusersEngine(**options)._options


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "give either model, .* or models"),
            ({"models": {"a": "b/c"}}, "give either model"),
            ({"model": "no/such/folder"}, "there is no model 'no/such/folder'"),
            ({"model": "\x00"}, "there is no model|null"),
            ({"dtype": "int8"}, "dtype must be auto or bfloat16 or float16 or float32; got 'int8'"),
            ({"device": "gpu"}, "device must be auto, cpu, mps, cuda or cuda:N; got 'gpu'"),
            ({"devices": "cuda:0,gpu"}, "devices must be .*; got 'gpu'"),
            ({"device": "cpu", "devices": "cpu"}, "device and devices cannot be given together"),
            ({"offload": "disk"}, "offload must be auto or none or model or group; got 'disk'"),
            ({"attention": "flash_3_hub"}, "must not be a backend that downloads"),
            ({"attention": "../x"}, "attention must be"),
            ({"compile": "yes"}, "compile must be auto or true or false; got 'yes'"),
            ({"compile": 1}, "compile must be"),
            ({"max_batch": 0}, "max_batch must be a whole number of 1 to 32; got 0"),
            ({"max_batch": True}, "max_batch must be a whole number of 1 to 32; got True"),
            ({"sizes": "1024"}, "sizes must be like 1024x1024"),
            ({"sizes": "64x64"}, "sizes must be .*512 to 2048"),
            ({"preview_every": -1}, "preview_every must be"),
            ({"steps": 1.5}, "steps must be a whole number"),
            ({"cfg": 31}, "cfg must be 0 to 30; got 31"),
            ({"strength": 0}, "strength must be 0.01 to 1; got 0"),
            ({"loras": "/no/such/folder"}, "loras must be a folder that exists; got '/no/such/folder'"),
            ({"revision": "a b"}, "revision must be"),
        ],
    )
    def test_a_wrong_value_is_refused_with_its_value(self, model: Path, options: dict[str, Any], message: str) -> None:
        given = options if options in ({},) else {"model": str(model)} | options
        with pytest.raises(EngineFailure, match=message):
            load_engine("diffusers", given)

    def test_values_are_read_from_text_and_from_lists(self, model: Path) -> None:
        options = options_of(model=str(model), devices="cuda:0, cuda:1", sizes=["512x512", "1024x768"])
        assert (options.devices, options.sizes) == (("cuda:0", "cuda:1"), ((512, 512), (1024, 768)))
        assert options.device(1) == "cuda:1"
        with pytest.raises(ValueError, match="process 3 has no device: the option devices lists 2"):
            options.device(2)

    def test_the_page_describes_each_option(self) -> None:
        page = PAGE.read_text()
        names = {
            name for line in page.splitlines() if line.startswith("| `") for name in line.split("|")[1].split(", ")
        }
        described = {name.strip(" `") for name in names}
        assert set(signature(DiffusersEngine).parameters) <= described

    def test_lora_compilation_is_refused(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="compile cannot be true together with loras"):
            options_of(model=str(model), loras=str(tmp_path), compile=True)


class TestFiles:
    def test_a_folder_of_safetensors_is_accepted(self, model: Path) -> None:
        files = find("model", str(model))
        assert files.family.pipeline == "ZImagePipeline"
        assert files.parameters == {"text_encoder": 10, "transformer": 10, "vae": 10}

    def test_a_component_that_is_only_there_as_pickle_is_refused(self, model: Path) -> None:
        (model / "vae" / "model.safetensors").rename(model / "vae" / "diffusion_pytorch_model.bin")
        with pytest.raises(EngineFailure, match=r"'vae' of the model 'model' has its weights only as \.bin.*executes"):
            find("model", str(model))

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: change_index(model, transformer=["pipeline", "MyTransformer"]),
            lambda model: change_index(model, _class_name=["pipeline", "MyPipeline"]),
            lambda model: (model / "transformer" / "my_transformer.py").write_text("print()"),
            lambda model: change_index(model, safety_checker=["my_checker", "StableDiffusionSafetyChecker"]),
            lambda model: (model / "pipeline.py").write_text("print()"),
            lambda model: (model / "text_encoder" / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}'),
        ],
    )
    def test_a_folder_with_code_is_refused(self, model: Path, change: Callable[[Path], Any]) -> None:
        change(model)
        with pytest.raises(EngineFailure, match=r"contains code of its own .* which is not executed"):
            find("model", str(model))

    def test_an_unknown_pipeline_is_refused_with_the_known_ones(self, model: Path) -> None:
        change_index(model, _class_name="WanPipeline")
        with pytest.raises(EngineFailure, match=r"is a WanPipeline, which this engine does not have.*ZImagePipeline"):
            find("model", str(model))

    def test_the_safety_checker_of_diffusers_is_no_code_of_the_folder(self, model: Path) -> None:
        change_index(model, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
        assert find("model", str(model)).family.pipeline == "ZImagePipeline"

    @pytest.mark.parametrize("content", ["[]", "{", '"a"'])
    def test_a_damaged_index_is_refused(self, model: Path, content: str) -> None:
        (model / "model_index.json").write_text(content)
        with pytest.raises(EngineFailure, match=r"model_index\.json of the model 'model' is no JSON object"):
            find("model", str(model))
        (model / "model_index.json").unlink()
        with pytest.raises(EngineFailure, match=r"has no model_index\.json: it is no pipeline"):
            find("model", str(model))

    def test_a_damaged_weights_file_is_refused(self, model: Path) -> None:
        (model / "vae" / "model.safetensors").write_bytes(b"\xff" * 20)
        with pytest.raises(EngineFailure, match="is no safetensors file, or is damaged"):
            find("model", str(model))

    def test_a_file_that_can_contain_code_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.ckpt").touch()
        with pytest.raises(ValueError, match="other files can contain code"):
            options_of(model=str(tmp_path / "model.ckpt"))

    def test_a_single_file_needs_the_configuration_of_its_family(self, tmp_path: Path, model: Path) -> None:
        safetensors(tmp_path / "one.safetensors", 7)
        with pytest.raises(ValueError, match="is one file: give config"):
            options_of(model=str(tmp_path / "one.safetensors"))
        files = find("one", str(tmp_path / "one.safetensors"), config=model)
        assert (files.replaces, files.part_class) == ("transformer", "ZImageTransformer2DModel")
        assert files.parameters["transformer"] == 7

    def test_a_hub_name_is_found_by_its_pinned_revision(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(EngineFailure, match=r"'org/model' is not on this machine; .* umrgen engine pull org/model"):
            DiffusersEngine(model="org/model")
        folder = tmp_path / "hub" / "models--org--model"
        (folder / "snapshots").mkdir(parents=True)
        model.rename(folder / "snapshots" / "0123abc")
        (folder / "refs").mkdir()
        (folder / "refs" / "umrgen").write_text("0123abc")
        assert find("org/model", "org/model").revision == "0123abc"
        assert find("short", "org/model", revision="0123abc").name == "short"
        with pytest.raises(EngineFailure, match="revision main is not on this machine"):
            find("org/model", "org/model", revision="main")

    def test_only_safetensors_directly_in_the_folder_are_loras(self, tmp_path: Path) -> None:
        for name in ("style.safetensors", "old.bin", "inner/deep.safetensors"):
            safetensors(tmp_path / name)
        assert list(lora_files(tmp_path)) == ["style"]
        assert lora_files(None) == {}


class TestFamilies:
    def test_distilled_variants_are_found_by_name_or_configuration(self) -> None:
        turbo = family_of({"_class_name": "ZImagePipeline"}, "Tongyi-MAI/Z-Image-Turbo")
        assert turbo is not None
        assert (turbo.steps, turbo.guidance, turbo.label) == (8, 0.0, "Z-Image-Turbo")
        assert turbo.features == ("references",)
        klein = family_of({"_class_name": "Flux2KleinPipeline", "is_distilled": True}, "klein")
        base = family_of({"_class_name": "Flux2KleinPipeline", "is_distilled": False}, "klein")
        assert klein is not None
        assert base is not None
        assert (klein.steps, base.steps, base.guidance) == (4, 50, 4.0)
        assert base.features == ("references", "cfg")
        assert family_of({"_class_name": "Other"}, "") is None

    def test_the_page_lists_each_family_with_its_licence_and_memory(self) -> None:
        page = PAGE.read_text()
        for name, family in FAMILIES.items():
            (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
            assert f"| {family.steps} |" in line, name
            assert family.licence in line or NOT_VERIFIED in line
            for variant in family.variants:
                (line,) = [line for line in page.splitlines() if line.startswith(f"| {variant.label} ")]
                assert f"| {variant.steps} |" in line
                assert variant.licence in line
                assert variant.memory in line


@pytest.mark.parametrize(
    ("pipeline", "changes", "references", "message"),
    [
        ("FluxPipeline", {"negative": "fog"}, 0, "'m' does not support negative prompts"),
        ("Flux2KleinKVPipeline", {"cfg": 2.0}, 0, "'m' has a fixed guidance scale: leave out cfg"),
        ("PixArtSigmaPipeline", {"loras": (Lora("a"),)}, 0, "'m' does not support LoRAs"),
        ("Krea2Pipeline", {}, 1, "'m' does not support reference images"),
        ("ZImagePipeline", {}, 2, "'m' takes one reference image; got 2"),
        ("QwenImageEditPipeline", {}, 0, "'m' edits an image: give a reference image"),
        ("SanaPipeline", {"width": 528}, 0, "'m' draws multiples of 32 pixels; got 528 × 512"),
    ],
)
def test_a_request_that_one_model_cannot_draw_is_refused_by_its_name(
    pipeline: str, changes: dict[str, Any], references: int, message: str
) -> None:
    family, task = family_of({"_class_name": pipeline}, ""), draw_task("a ship", references=(b"",) * references)
    assert family is not None
    task = replace(task, request=msgspec.structs.replace(task.request, **changes))
    with pytest.raises(EngineFailure, match=message):
        check_task(family, "m", task)


class TestPlan:
    @pytest.fixture
    def chosen(self, model: Path) -> Callable[..., Any]:
        def chosen(machine: Machine, *, billions: float = 6.0, **given: Any) -> Any:
            safetensors(model / "transformer" / "model.safetensors", int(billions * 1e9))
            safetensors(model / "text_encoder" / "model.safetensors", int(4e9))
            options = options_of(model=str(model), **given)
            return plan(find("model", str(model)), options, machine)

        return chosen

    def test_the_weakest_offloading_that_fits_is_chosen(self, chosen: Callable[..., Any]) -> None:
        made = {memory: chosen(Machine("cuda:0", memory * GIB, 64 * GIB)) for memory in (24, 16, 8)}
        assert [each.offload for each in made.values()] == ["none", "model", "group"]
        assert [each.compile for each in made.values()] == [True, False, False]
        assert all(each.fits and each.dtype == "bfloat16" for each in made.values())
        assert not chosen(Machine("cuda:0", GIB, 64 * GIB)).fits
        assert not chosen(Machine("cuda:0", 8 * GIB, 8 * GIB)).fits

    def test_the_cpu_computes_in_float32_and_draws_one_at_a_time(self, chosen: Callable[..., Any]) -> None:
        made = chosen(Machine("cpu", 64 * GIB, 64 * GIB))
        assert (made.dtype, made.offload, made.compile, made.max_batch, made.sizes) == ("float32", "none", False, 1, ())
        assert made.fits
        assert not chosen(Machine("cpu", 16 * GIB, 16 * GIB)).fits

    def test_options_override_the_choice_and_the_line_shows_it(
        self, chosen: Callable[..., Any], tmp_path: Path
    ) -> None:
        machine = Machine("cuda:1", 80 * GIB, 64 * GIB, bfloat16=False)
        made = chosen(machine, offload="model", max_batch=8, sizes="512x512", loras=str(tmp_path), attention="sage")
        assert made.line() == (
            "device cuda:1, dtype float16, offload model, attention sage, compile no, batches of up to 8, warm-up "
            f"512x512, weights {made.weights / GIB:.1f} GiB, expected {made.expected / GIB:.1f} GiB"
        )
        assert chosen(machine, dtype="float32").dtype == "float32"


class Steps:
    """Implements `Report`, and the events of a GPU for `StepWatch`: notes their order."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def __call__(self, step: int, total: int, preview: object = None, /) -> None:
        self.noted.append(f"{step} reported")

    def phase(self, phase: Phase, /) -> None:
        raise AssertionError(phase)

    def mark(self, latents: int) -> Any:
        return SimpleNamespace(synchronize=lambda: self.noted.append(f"{latents} computed"))


def test_the_loop_of_a_pipeline_is_at_most_one_step_ahead_of_the_gpu() -> None:
    steps = Steps()
    watch = StepWatch([BatchedTask(draw_task("a ship"), steps)], None, 1, steps.mark)
    for step in (1, 2, 3):
        watch.finished(step, 3, step)
    assert steps.noted == ["1 reported", "1 computed", "2 reported", "2 computed", "3 reported"]


class TestBatches:
    def test_a_batch_is_used_only_where_it_gains_15_percent(self) -> None:
        now = 0.0
        seconds = {1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9}

        def draw(count: int) -> bool:
            nonlocal now
            now += seconds[count]
            return True

        assert candidates(6) == [1, 2, 4, 6]
        assert measure(draw, 8, lambda: now) == 4
        seconds[2] = 1.8
        assert measure(draw, 8, lambda: now) == 1

    def test_a_batch_that_does_not_fit_is_not_used(self) -> None:
        now = 0.0

        def draw(count: int) -> bool:
            nonlocal now
            now += 1.0
            return count < 4

        assert measure(draw, 8, lambda: now) == 2

    def test_an_unmeasured_size_has_the_cap_of_the_next_larger_one(self) -> None:
        caps = BatchCaps(8, {(512, 512): 4, (1024, 1024): 2})
        assert [caps.of(size) for size in ((512, 512), (512, 768), (1024, 1024), (1024, 1536))] == [4, 2, 2, 1]
        assert caps.most == 4
        assert BatchCaps(3).of((2048, 2048)) == BatchCaps(3).most == 3
        assert split([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def test_each_call_has_a_new_list_of_prompts() -> None:
    """ZImagePipeline writes its chat template into the list that it is given."""
    family = family_of({"_class_name": "QwenImagePipeline"}, "")
    assert family is not None
    cache, texts = PromptCache(family, "cpu"), [("a lighthouse", ""), ("a ship", "fog")]
    first = cache.arguments(None, texts, True, ())
    first["prompt"][0] = "changed by the pipeline"
    second = cache.arguments(None, texts, True, ())
    assert second == {"prompt": ["a lighthouse", "a ship"], "negative_prompt": [" ", "fog"]}


def test_a_cancellation_during_loading_ends_its_job_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umrgen.server.engines.diffusers.drawing import BatchedTask

    class Cancelling:
        def __call__(self, step: int, total: int, preview: object = None, /) -> None: ...

        def together(self, images: int, /) -> None: ...

        def phase(self, phase: Phase, /) -> None:
            raise Cancelled

    job = BatchedTask(draw_task("a ship"), Cancelling())
    job.phase(Phase.LOADING)
    assert isinstance(job.result, Cancelled)
