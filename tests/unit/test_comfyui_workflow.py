"""The bindings of a workflow, the graphs made from it, its checks, and the parsing of ComfyUI's responses."""

import json
import re
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_comfyui import GENERATIONS
from fake_comfyui.nodes import NODES, describe
from fake_comfyui.workflows import sdxl, with_reference
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EngineFailure, engine_class, load_engine
from umrgen.server.engines.comfyui import answers
from umrgen.server.engines.comfyui.checks import describe as features_of
from umrgen.server.engines.comfyui.checks import problems
from umrgen.server.engines.comfyui.servers import parse_urls
from umrgen.server.engines.comfyui.workflow import TEMPLATES, Workflow, load_workflow
from umrgen.server.engines.foreign_text import first_line

IMAGES = ["example.png"]


def loaded(tmp_path: Path, graph: dict[str, Any], bindings: str = "") -> Workflow:
    (tmp_path / "workflow.json").write_text(json.dumps(graph))
    (tmp_path / "bindings.toml").write_text(bindings)
    return load_workflow(str(tmp_path / "workflow.json"), str(tmp_path / "bindings.toml") if bindings else "")


def infos(generation: str = "0.38") -> dict[str, answers.NodeInfo | None]:
    """Return the descriptions of the fake's nodes, as they arrive."""
    return {
        name: answers.node_info(json.dumps({name: describe(name, generation, IMAGES)}).encode(), name) for name in NODES
    }


def bound(workflow: Workflow) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for name, target in workflow.bindings.targets():
        places.setdefault(name, []).append(str(target))
    return places


SDXL = {
    "prompt": ["6.text"],
    "negative": ["7.text"],
    "seed": ["3.seed"],
    "width": ["5.width"],
    "height": ["5.height"],
    "steps": ["3.steps"],
    "cfg": ["3.cfg"],
    "model": ["4.ckpt_name"],
}


class TestBinding:
    def test_the_standard_workflow_binds_itself(self, tmp_path: Path) -> None:
        assert bound(loaded(tmp_path, sdxl())) == SDXL

    def test_the_templates_are_bound(self) -> None:
        places = {name: bound(load_workflow(name)) for name in TEMPLATES}
        assert places["z-image-turbo"] == {
            "prompt": ["7.text"],
            "seed": ["10.seed"],
            "width": ["9.width"],
            "height": ["9.height"],
            "steps": ["10.steps"],
        }
        assert places["flux2-klein"] == {
            "prompt": ["6.text"],
            "seed": ["10.noise_seed"],
            "width": ["8.width", "9.width"],
            "height": ["8.height", "9.height"],
            "steps": ["9.steps"],
            "references": ["12.image", "15.image"],
        }
        assert [load_workflow(name).bindings.loras for name in TEMPLATES] == [("4", "5")] * 2
        assert [load_workflow(name).value(load_workflow(name).bindings.steps) for name in TEMPLATES] == [8, 4]

    def test_an_advanced_sampler_is_bound(self, tmp_path: Path) -> None:
        graph = sdxl()
        inputs = graph["3"]["inputs"]
        graph["3"] = {"class_type": "KSamplerAdvanced", "inputs": inputs | {"noise_seed": inputs.pop("seed")}}
        assert bound(loaded(tmp_path, graph)) == SDXL | {"seed": ["3.noise_seed"]}

    def test_the_guidance_of_a_distilled_model_is_bound(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["3"]["inputs"]["cfg"] = 1.0
        graph["20"] = {"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 3.5}}
        graph["3"]["inputs"]["positive"] = ["20", 0]
        places = bound(loaded(tmp_path, graph))
        assert (places["cfg"], places["prompt"], "negative" in places) == (["20.guidance"], ["6.text"], False)

    def test_without_guidance_a_negative_prompt_has_no_effect_and_is_not_bound(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["3"]["inputs"]["cfg"] = 1.0
        assert "negative" not in bound(loaded(tmp_path, graph))

    def test_a_value_that_another_node_holds_is_bound_there(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["21"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "x"}}
        graph["6"]["inputs"]["text"] = ["21", 0]
        assert bound(loaded(tmp_path, graph))["prompt"] == ["21.value"]

    def test_a_value_that_is_computed_is_not_bound(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["22"] = {"class_type": "Concatenate", "inputs": {"value": "x", "other": ["4", 0]}}
        graph["6"]["inputs"]["text"] = ["22", 0]
        assert "prompt" not in bound(loaded(tmp_path, graph))

    def test_a_second_pass_uses_the_same_prompt_and_seed(self, tmp_path: Path) -> None:
        graph = sdxl()
        second = dict(graph["3"]["inputs"], latent_image=["3", 0], steps=10)
        graph["2"] = {"class_type": "KSampler", "inputs": second}
        workflow = loaded(tmp_path, graph)
        assert bound(workflow) == SDXL | {"seed": ["2.seed", "3.seed"]}
        assert workflow.bindings.samplers == ("3",)

    def test_a_lora_with_a_strength_belongs_to_the_workflow(self, tmp_path: Path) -> None:
        graph = sdxl()
        loader = {"model": ["4", 0], "lora_name": "ink.safetensors"}
        graph["23"] = {"class_type": "LoraLoaderModelOnly", "inputs": loader | {"strength_model": 1.0}}
        graph["24"] = {"class_type": "LoraLoaderModelOnly", "inputs": loader | {"strength_model": 0}}
        assert loaded(tmp_path, graph).bindings.loras == ("24",)

    def test_a_cycle_ends(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["6"] = {"class_type": "ConditioningCombine", "inputs": {"a": ["6", 0], "b": ["7", 0]}}
        graph["5"] = {"class_type": "Latent", "inputs": {"samples": ["5", 0]}}
        assert bound(loaded(tmp_path, graph))["prompt"] == ["7.text"]


class TestBindingFile:
    def test_a_file_changes_the_names_that_it_has(self, tmp_path: Path) -> None:
        content = 'prompt = ["6.text", "7.text"]\nnegative = false\nsize_multiple = 64\nmax_steps = 30\n'
        workflow = loaded(tmp_path, sdxl(), content)
        places = bound(workflow)
        assert (places["prompt"], "negative" in places) == (["6.text", "7.text"], False)
        assert places["seed"] == ["3.seed"]
        info = features_of(workflow, infos(), "0.38.1")
        assert (info.size_multiple, info.max_steps, info.features) == (64, 30, ("previews", "cfg"))

    def test_json_is_accepted(self, tmp_path: Path) -> None:
        (tmp_path / "b.json").write_text('{"steps": false, "models": ["SDXL/dreamshaper.safetensors"]}')
        (tmp_path / "w.json").write_text(json.dumps({"prompt": sdxl()}))
        workflow = load_workflow(str(tmp_path / "w.json"), str(tmp_path / "b.json"))
        assert "steps" not in bound(workflow)
        info = features_of(workflow, infos(), "0.38.1")
        assert info.models == ("sd_xl_base_1.0.safetensors", "SDXL/dreamshaper.safetensors")
        assert (info.min_steps, info.default_steps, info.max_steps) == (20, 20, 20)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("prompt = 'text'", "prompt = 'text' is not of the form NODE.INPUT"),
            ("prompt = true", "prompt = true has no meaning"),
            ("promt = '6.text'", "Object contains unknown field `promt`"),
            ("prompt = [", "the binding file cannot be read"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path: Path, content: str, message: str) -> None:
        with pytest.raises(EngineFailure) as failure:
            loaded(tmp_path, sdxl(), content)
        assert message in str(failure.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("prompt = '99.text'", "prompt = 99.text, but the workflow has no node 99; it has: 3 (KSampler), 4 (Check"),
            ("prompt = '6.txt'", "prompt = 6.txt, but node 6 (CLIPTextEncode) has no such input; it has: clip, text"),
            ("model = '3.model'", "model = 3.model, but this input is linked to node 4 (CheckpointLoaderSimple); bind"),
            ("prompt = false", "no node is bound to the prompt; name its input in the binding file"),
            ("seed = []", "no node is bound to the seed, so every image would be the same"),
            ("loras = ['98']", "loras names node 98, which the workflow does not have"),
            ("loras = ['3']", "loras names node 3 (KSampler), which has no input lora_name"),
            ("samplers = '97'", "samplers names node 97, which the workflow does not have"),
        ],
    )
    def test_a_binding_to_nowhere_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        found = problems(loaded(tmp_path, sdxl(), content), infos(), allow_paid_nodes=False)
        assert [message in problem for problem in found] == [True], found

    def test_a_workflow_without_a_seed_is_accepted_if_the_file_states_it(self, tmp_path: Path) -> None:
        assert problems(loaded(tmp_path, sdxl(), "seed = false"), infos(), allow_paid_nodes=False) == []


DOCS = Path(__file__).parents[2] / "docs" / "engines.md"


def section(title: str = "ComfyUI") -> str:
    """Return a part of docs/engines.md."""
    return DOCS.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


class TestDocument:
    def test_the_binding_file_of_the_document_is_valid(self, tmp_path: Path) -> None:
        example = re.search(r"```toml\n(.*?)```", section(), re.DOTALL)
        assert example
        workflow = loaded(tmp_path, sdxl(), example[1])
        assert problems(workflow, infos(), allow_paid_nodes=False) == []
        info = features_of(workflow, infos(), "0.38.1")
        assert (info.features, info.size_multiple, info.max_steps) == (("previews", "negative"), 64, 40)
        assert info.models == ("sd_xl_base_1.0.safetensors", "SDXL/dreamshaper.safetensors")

    @pytest.mark.parametrize(("engine", "title"), [("comfyui", "ComfyUI"), ("sdcpp", "stable-diffusion.cpp")])
    def test_each_option_is_documented_with_its_default(self, engine: str, title: str) -> None:
        rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section(title), re.MULTILINE))
        options = signature(engine_class(engine)).parameters
        assert list(rows) == list(options)
        for name, parameter in options.items():
            if parameter.default != "":
                assert rows[name] == str(parameter.default).lower(), name

    def test_each_documented_message_exists(self) -> None:
        table = section().partition("### Messages")[2].partition("###")[0]
        messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
        sources = "".join(path.read_text() for path in Path(answers.__file__).parents[1].rglob("*.py"))
        assert len(messages) > 8
        assert [message for message in messages if message not in sources] == []


class TestWorkflow:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[", "the workflow is not JSON"),
            ("{}", "the workflow has no nodes"),
            ("[1]", "not in ComfyUI's API format"),
            ('{"1": {"inputs": {}}}', "not in ComfyUI's API format"),
            ('{"nodes": [], "links": []}', "choose Workflow, Export (API)"),
        ],
    )
    def test_another_file_is_refused(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "w.json").write_text(content)
        with pytest.raises(EngineFailure) as failure:
            load_workflow(str(tmp_path / "w.json"))
        assert message in str(failure.value)

    def test_the_templates_are_valid_for_every_generation(self) -> None:
        for generation in GENERATIONS:
            for name in TEMPLATES:
                assert problems(load_workflow(name), infos(generation), allow_paid_nodes=False) == []

    def test_a_reference_that_a_graph_needs_keeps_its_own_image(self, tmp_path: Path) -> None:
        workflow = loaded(tmp_path, with_reference())
        built = workflow.build(GenerationRequest("a boat"), [])
        assert built["12"].inputs["image"] == "example.png"
        assert workflow.build(GenerationRequest("a boat"), ["x.png"])["12"].inputs["image"] == "x.png"

    def test_a_repeated_graph_differs_in_its_outputs_only(self, tmp_path: Path) -> None:
        workflow = loaded(tmp_path, sdxl())
        first, again = (workflow.build(GenerationRequest("a boat"), [], repeat) for repeat in ("", "a1"))
        assert [name for name in first if first[name] != again[name]] == ["9"]
        assert again["9"].inputs["filename_prefix"] == "out/umrgen_a1"

    def test_a_link_to_an_absent_node_is_named(self, tmp_path: Path) -> None:
        graph = sdxl()
        graph["8"]["inputs"]["vae"] = ["77", 0]
        (found,) = problems(loaded(tmp_path, graph), infos(), allow_paid_nodes=False)
        assert found == "node 8 (VAEDecode): vae is linked to node 77, which is absent"


class TestParsing:
    @pytest.mark.parametrize(
        ("spec", "choices"),
        [
            ([["a", "b"], {}], ("a", "b")),
            (["COMBO", {"options": ["a"]}], ("a",)),
            (["COMBO", {"remote": {"route": "/x"}, "options": ["a"]}], None),
            (["COMBO", {"remote_combo": {}, "options": []}], None),
            (["COMBO", {}], None),
            (["STRING", {"options": ["a"]}], None),
            ("STRING", None),
        ],
    )
    def test_the_choices_of_an_input(self, spec: Any, choices: tuple[str, ...] | None) -> None:
        body = json.dumps({"X": {"input": {"required": {"a": spec}}}}).encode()
        info = answers.node_info(body, "X")
        assert info is not None
        assert info.choices.get("a") == choices

    def test_an_interruption_and_an_error_differ_in_a_message_only(self) -> None:
        def state(kind: str, status: str = "error") -> answers.PromptState:
            messages = [["execution_start", {}], [kind, {"node_id": 3, "exception_message": "bad"}]]
            entry = {"prompt": [0, "a", {}, {}, []], "status": {"status_str": status, "messages": messages}}
            (found,) = answers.history(json.dumps({"a": entry}).encode())
            return found.state

        assert state("execution_interrupted") is answers.PromptState.CANCELLED
        assert state("execution_error") is answers.PromptState.FAILED
        assert state("other") is answers.PromptState.FAILED
        assert state("execution_success", "success") is answers.PromptState.SUCCEEDED

    def test_the_details_of_an_error_are_not_used(self) -> None:
        """They may contain a traceback."""
        error = {"type": "exception_during_validation", "message": "Exception", "details": 'File "/root/x.py"'}
        body = {"error": error, "node_errors": {"1": {"errors": [error], "class_type": "X"}}}
        assert "root" not in str(answers.refusal(json.dumps(body).encode()))
        assert answers.refusal(json.dumps({"error": error}).encode()) == "Exception"

    @given(st.text())
    def test_a_foreign_text_becomes_a_short_line(self, text: str) -> None:
        line = first_line(text)
        assert line.isprintable()
        assert len(line) <= 200

    @pytest.mark.parametrize(
        "path", ["/root/a b/x.py", "C:\\x\\y.bin", "~/x", "\\\\server\\share\\x", "file:///root/x", "/srv"]
    )
    def test_a_path_is_not_shown(self, path: str) -> None:
        assert first_line(f"cannot open '{path}' now") == "cannot open … now"
        assert first_line("width/height of 1/2 is and/or") == "width/height of 1/2 is and/or"

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prompt", "status", "outputs", "images", "queue_running", "data", "type", "error"]),
                inner,
            )
        ),
        max_leaves=8,
    )

    @given(values)
    def test_another_body_is_a_value_error(self, value: Any) -> None:
        body = json.dumps(value).encode()
        parsers = (
            answers.version,
            answers.queue,
            answers.history,
            answers.accepted,
            answers.refusal,
            answers.cancelled,
            answers.uploaded,
            answers.event,
            lambda body: answers.node_info(body, "data"),
        )
        for parser in parsers:
            try:
                parser(body)
            except ValueError:
                continue

    @given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\0\0\0\4\0\0\0\x05" + data))
    def test_another_frame_is_no_preview(self, frame: bytes) -> None:
        with suppress(ValueError):
            answers.preview(frame)

    def test_urls_and_capacities(self) -> None:
        assert parse_urls("http://a:1/, http://b:2/comfy*3") == [("http://a:1", 1), ("http://b:2/comfy", 3)]
        assert parse_urls(["http://a:1*2"]) == [("http://a:1", 2)]
        for wrong in (
            "",
            "ftp://a",
            "http://",
            "http://a*x",
            "http://a*65",
            "http://a?x",
            "http://a:x",
            "http://a b",
            "http://a,http://a",
        ):
            with pytest.raises(ValueError, match=r"url|capacity|port|Port"):
                parse_urls(wrong)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("url", "127.0.0.1:8188", "url must be such as http://127.0.0.1:8188; got '127.0.0.1:8188'"),
        ("url", "http://me:secret@comfy/?x=1", "got 'http://comfy/?x=1'"),
        ("url", "http://a,http://a", "the same URL twice"),
        ("url", "http://a*0", "a capacity must be 1 to 64; got '0'"),
        ("url", 5, "url must be a text or a list; got 5"),
        ("timeout", "soon", "timeout must be a number of seconds above 0; got 'soon'"),
        ("poll_interval", 0, "poll_interval must be a number of seconds above 0; got 0"),
        ("allow_paid_nodes", "yes", "allow_paid_nodes must be true or false; got 'yes'"),
        ("bindings", "x.toml", "bindings need a workflow"),
        ("workflow", "no.json", "'no.json' cannot be read: No such file or directory; templates: z-image-turbo"),
        ("workflow", 5, "workflow must be a text; got 5"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(EngineFailure) as failure:
        load_engine("comfyui", {option: value})
    assert message in str(failure.value)
    assert "secret" not in str(failure.value)
