"""Binds a workflow by the classes of its nodes: from each sampler along its links to the prompts, sizes and models."""

from collections.abc import Iterator

from umrgen.server.engines.comfyui.bindings import Bindings
from umrgen.server.engines.comfyui.graph import Graph, GraphNode, InputTarget, as_link, links, node_order

__all__ = ["LORA_LOADERS", "bind"]

SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
TEXTS = {
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl"),
    "CLIPTextEncodeSDXL": ("text_g", "text_l"),
    "CLIPTextEncodeSDXLRefiner": ("text",),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeLumina2": ("user_prompt",),
    "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
}
"""The classes that encode a prompt, and their inputs for it."""
MODELS = {
    "CheckpointLoaderSimple": "ckpt_name",
    "CheckpointLoader": "ckpt_name",
    "UNETLoader": "unet_name",
    "UnetLoaderGGUF": "unet_name",
}
LORA_LOADERS = {"LoraLoader": {0: "model", 1: "clip"}, "LoraLoaderModelOnly": {0: "model"}}
"""The classes that apply a LoRA; for each output, the input that it replaces."""
PRIMITIVES = ("value", "text", "string", "seed", "int", "float")
"""The inputs of nodes that only hold a value."""
NO_GUIDANCE = 1.0
"""With a guidance scale up to this, samplers do not evaluate the negative prompt."""


def bind(graph: Graph) -> Bindings:
    """Return the bindings of a workflow. A parameter whose place is not clear stays unbound."""
    samplers = sorted((name for name, node in graph.items() if node.class_type in SAMPLERS), key=node_order)
    first = next((name for name in samplers if not _follows_a_sampler(graph, name)), None)
    if first is None:
        return Bindings()
    cfg = _unique(_cfg(graph, first))
    return Bindings(
        prompt=_unique(target for sampler in samplers for target in _texts(graph, sampler, "positive")),
        negative=_negative(graph, samplers, first) if _is_guided(graph, cfg) else (),
        seed=_unique(target for sampler in samplers for target in _seeds(graph, sampler)),
        width=_unique(_sizes(graph, first, "width")),
        height=_unique(_sizes(graph, first, "height")),
        steps=_unique(_steps(graph, first)),
        cfg=cfg,
        model=_unique(_models(graph, first))[:1],
        references=_references(graph),
        loras=_free_lora_slots(graph),
        samplers=(first,),
    )


def _unique(targets: Iterator[InputTarget]) -> tuple[InputTarget, ...]:
    return tuple(dict.fromkeys(targets))


def _upstream(graph: Graph, start: str) -> Iterator[tuple[str, GraphNode]]:
    """Yield a node and those that it depends on, each once, the nearest first."""
    seen, level = {start}, [start]
    while level:
        following = []
        for name in level:
            if node := graph.get(name):
                yield name, node
                following += [link.node for _, link in links(node) if link.node not in seen]
                seen.update(following)
        level = list(dict.fromkeys(following))


def _source(graph: Graph, node: str, name: str) -> str | None:
    """Return the node that an input is linked to."""
    link = as_link(graph[node].inputs.get(name)) if node in graph else None
    return link.node if link else None


def _follows_a_sampler(graph: Graph, sampler: str) -> bool:
    latent = _source(graph, sampler, "latent_image")
    return latent is not None and any(node.class_type in SAMPLERS for _, node in _upstream(graph, latent))


def _place(graph: Graph, node: str, name: str) -> InputTarget | None:
    """Return the input itself, or the input of the node that holds its value; None if the value is computed."""
    if node not in graph or name not in graph[node].inputs:
        return None
    link = as_link(graph[node].inputs[name])
    if link is None:
        return InputTarget(node, name)
    holder = graph.get(link.node)
    if holder is None or any(links(holder)):
        return None
    held = [name for name in PRIMITIVES if name in holder.inputs]
    return InputTarget(link.node, held[0]) if held else None


def _places(graph: Graph, node: str, *names: str) -> Iterator[InputTarget]:
    for name in names:
        if target := _place(graph, node, name):
            yield target


# --- conditioning ---


def _guider(graph: Graph, sampler: str) -> str:
    """Return the node that has the prompts: the sampler, or the guider of a custom sampler."""
    return _source(graph, sampler, "guider") or sampler


def _texts(graph: Graph, sampler: str, kind: str) -> Iterator[InputTarget]:
    """Yield the text inputs that the sampler's positive or negative conditioning is made from."""
    guider = _guider(graph, sampler)
    names = (kind, "conditioning") if kind == "positive" else (kind,)
    for name in names:
        link = as_link(graph[guider].inputs.get(name)) if guider in graph else None
        if link:
            yield from _conditioning(graph, link.node, link.output, set())


def _conditioning(graph: Graph, name: str, output: int, seen: set[tuple[str, int]]) -> Iterator[InputTarget]:
    """Follow a conditioning to its texts. A node with a positive and a negative input returns them in this order."""
    node = graph.get(name)
    if node is None or (name, output) in seen or node.class_type == "ConditioningZeroOut":
        return
    seen.add((name, output))
    if node.class_type in TEXTS:
        yield from _places(graph, name, *TEXTS[node.class_type])
        return
    both = "positive" in node.inputs and "negative" in node.inputs
    for input_, link in links(node):
        if both and input_ != ("positive", "negative")[min(output, 1)]:
            continue
        yield from _conditioning(graph, link.node, link.output, seen)


def _negative(graph: Graph, samplers: list[str], first: str) -> tuple[InputTarget, ...]:
    prompts = {target for sampler in samplers for target in _texts(graph, sampler, "positive")}
    found = _unique(_texts(graph, first, "negative"))
    return () if prompts & set(found) else found


def _cfg(graph: Graph, sampler: str) -> Iterator[InputTarget]:
    """Yield the guidance scale: the sampler's or the guider's, or else the FluxGuidance in front of it."""
    guider = _guider(graph, sampler)
    own = list(_places(graph, guider, "cfg"))
    distilled = [name for name, node in _upstream(graph, guider) if node.class_type == "FluxGuidance"]
    if distilled and not _is_guided(graph, tuple(own)):
        yield from _places(graph, distilled[0], "guidance")
    else:
        yield from own


def _is_guided(graph: Graph, cfg: tuple[InputTarget, ...]) -> bool:
    """Return whether the negative prompt has an effect with the workflow's own guidance scale."""
    scales = [graph[target.node].inputs[target.input] for target in cfg if target.input == "cfg"]
    return any(isinstance(scale, int | float) and scale > NO_GUIDANCE for scale in scales)


# --- the other parameters ---


def _seeds(graph: Graph, sampler: str) -> Iterator[InputTarget]:
    yield from _places(graph, sampler, "seed", "noise_seed")
    if noise := _source(graph, sampler, "noise"):
        yield from _places(graph, noise, "noise_seed")


def _steps(graph: Graph, sampler: str) -> Iterator[InputTarget]:
    yield from _places(graph, sampler, "steps")
    if sigmas := _source(graph, sampler, "sigmas"):
        schedulers = [name for name, node in _upstream(graph, sigmas) if "steps" in node.inputs]
        for name in schedulers[:1]:
            yield from _places(graph, name, "steps")


def _sizes(graph: Graph, sampler: str, side: str) -> Iterator[InputTarget]:
    """Yield the sides of the empty latent image, and of a scheduler that depends on the size."""
    if latent := _source(graph, sampler, "latent_image"):
        for name, node in _upstream(graph, latent):
            if node.class_type.startswith("Empty") and {"width", "height"} <= node.inputs.keys():
                yield from _places(graph, name, side)
    if sigmas := _source(graph, sampler, "sigmas"):
        yield from _places(graph, sigmas, side)


def _models(graph: Graph, sampler: str) -> Iterator[InputTarget]:
    if source := _source(graph, _guider(graph, sampler), "model"):
        for name, node in _upstream(graph, source):
            if node.class_type in MODELS:
                yield from _places(graph, name, MODELS[node.class_type])


def _free_lora_slots(graph: Graph) -> tuple[str, ...]:
    """Return the LoRA loaders with strength 0; one with another strength belongs to the workflow."""
    names = [
        name
        for name, node in graph.items()
        if node.class_type in LORA_LOADERS and node.inputs.get("strength_model") == 0
    ]
    return tuple(sorted(names, key=node_order))


def _references(graph: Graph) -> tuple[InputTarget, ...]:
    used = {link.node for node in graph.values() for _, link in links(node)}
    names = [name for name, node in graph.items() if node.class_type == "LoadImage" and name in used]
    return tuple(InputTarget(name, "image") for name in sorted(names, key=node_order))
