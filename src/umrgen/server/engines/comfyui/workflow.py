"""The operator's workflow with its bindings, and the graph that it makes of a request."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from umrgen.model import LIMITS
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EngineFailure
from umrgen.server.engines.comfyui.binding import LORA_LOADERS, bind
from umrgen.server.engines.comfyui.bindings import Bindings, override, parse_bindings
from umrgen.server.engines.comfyui.graph import (
    Graph,
    InputTarget,
    as_link,
    bypass,
    copy_of,
    links,
    parse_graph,
)

__all__ = ["TEMPLATES", "Workflow", "load_workflow"]

TEMPLATES = ("z-image-turbo", "flux2-klein")
"""The workflows that are part of UMRGEN."""
OPTIONAL = {"ReferenceLatent": "latent", "TextEncodeQwenImageEdit": "image", "TextEncodeQwenImageEditPlus": "image"}
"""The classes with optional inputs for reference images, and the start of the names of these inputs."""
REPEAT = "umrgen_repeat"
"""An input that no node has. ComfyUI ignores it, and does not take the node's result from its cache."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow and its bindings."""

    graph: Graph = field(repr=False)
    bindings: Bindings
    revision: str
    """The start of the SHA-256 of the file."""

    def value(self, targets: Sequence[InputTarget]) -> Any:
        """Return the workflow's own value of a parameter; None if it is unbound."""
        return next((self.graph[node].inputs.get(name) for node, name in targets if node in self.graph), None)

    def build(
        self, request: GenerationRequest, references: Sequence[str], repeat: str = "", seed_max: int = LIMITS.seed_max
    ) -> Graph:
        """Return the graph of a request. `references` are names of files for LoadImage.

        A seed above `seed_max`, the largest that its inputs accept, is reduced to a remainder.

        With a `repeat`, the nodes that write the images are executed even if their results are cached. Raises
        EngineFailure for more LoRAs or references than the workflow has places for.
        """
        graph, bound = copy_of(self.graph), self.bindings
        _set(graph, bound.prompt, request.prompt)
        _set(graph, bound.seed, request.seed % (seed_max + 1))
        _set(graph, bound.width, request.width)
        _set(graph, bound.height, request.height)
        _set(graph, bound.steps, request.steps)
        if request.negative.strip():
            _set(graph, bound.negative, request.negative)
        if request.cfg is not None:
            _set(graph, bound.cfg, request.cfg)
        if request.model is not None:
            _set(graph, bound.model, request.model)
        _set_references(graph, bound.references, references)
        _set_loras(graph, bound.loras, request)
        if repeat:
            _repeat_outputs(graph, repeat)
        return graph


def _set(graph: Graph, targets: Sequence[InputTarget], value: Any) -> None:
    for node, name in targets:
        graph[node].inputs[name] = value


def _set_loras(graph: Graph, slots: Sequence[str], request: GenerationRequest) -> None:
    """Use one loader for each LoRA; leave the other loaders out."""
    if len(request.loras) > len(slots):
        raise EngineFailure(f"this workflow has places for {len(slots)} LoRAs; got {len(request.loras)}")
    for slot, lora in zip(slots, request.loras, strict=False):
        inputs = graph[slot].inputs
        inputs["lora_name"] = lora.name
        inputs |= {name: lora.strength for name in ("strength_model", "strength_clip") if name in inputs}
    for slot in slots[len(request.loras) :]:
        bypass(graph, slot, LORA_LOADERS.get(graph[slot].class_type, {0: "model", 1: "clip"}))


def _set_references(graph: Graph, targets: Sequence[InputTarget], names: Sequence[str]) -> None:
    if len(names) > len(targets):
        raise EngineFailure(f"this workflow has places for {len(targets)} reference images; got {len(names)}")
    for target, name in zip(targets, names, strict=False):
        _set(graph, [target], name)
    for target in targets[len(names) :]:
        _leave_out_reference(graph, target.node)


def _leave_out_reference(graph: Graph, source: str) -> None:
    """Leave out the optional inputs that only this image reaches. Otherwise the workflow's own image is used."""
    reached, found = [source], []
    for name in reached:
        for consumer, node in graph.items():
            for input_, link in links(node):
                if link.node != name or consumer in reached:
                    continue
                if input_.startswith(OPTIONAL.get(node.class_type, "-")):
                    found.append(InputTarget(consumer, input_))
                else:
                    reached.append(consumer)
    if any(not _is_consumed(graph, name) for name in reached):
        return  # it reaches an output in another way
    for target in found:
        del graph[target.node].inputs[target.input]


def _is_consumed(graph: Graph, name: str) -> bool:
    return any(link.node == name for node in graph.values() for _, link in links(node))


def _repeat_outputs(graph: Graph, repeat: str) -> None:
    """Change the nodes that nothing consumes, so that their results are not in ComfyUI's cache."""
    consumed = {link.node for node in graph.values() for _, link in links(node)}
    for name, node in graph.items():
        if name in consumed:
            continue
        prefix = node.inputs.get("filename_prefix")
        if isinstance(prefix, str) and as_link(prefix) is None:
            node.inputs["filename_prefix"] = f"{prefix}_{repeat}"
        node.inputs[REPEAT] = repeat


def load_workflow(workflow: str, bindings: str = "") -> Workflow:
    """Return a template by its name, or a workflow from a file, with its bindings. Raises EngineFailure."""
    template = workflow in TEMPLATES
    data = _template(f"{workflow}.json") if template else _read(workflow, "workflow")
    graph = parse_graph(data)
    bound = bind(graph)
    if template:
        bound = override(bound, parse_bindings(_template(f"{workflow}.toml"), json=False))
    if bindings:
        content = _read(bindings, "binding file")
        bound = override(bound, parse_bindings(content, json=bindings.endswith(".json")))
    return Workflow(graph, bound, hashlib.sha256(msgspec.json.encode(graph)).hexdigest()[:16])


def _template(name: str) -> bytes:
    return (files(__package__) / "templates" / name).read_bytes()


def _read(path: str, kind: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        there = f"; templates: {', '.join(TEMPLATES)}" if kind == "workflow" else ""
        raise EngineFailure(f"the {kind} {Path(path).name!r} cannot be read: {error.strerror}{there}") from None
