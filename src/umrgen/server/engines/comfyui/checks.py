"""Checks of a workflow against a ComfyUI server, at the start: each message has a node's id, and the remedy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from umrgen.model import LIMITS
from umrgen.server.engines import EngineInfo
from umrgen.server.engines.comfyui.answers import NodeInfo
from umrgen.server.engines.comfyui.graph import GraphNode, InputTarget, as_link, links, node_order
from umrgen.server.engines.comfyui.workflow import Workflow
from umrgen.text import printable

__all__ = ["describe", "largest_seed", "problems"]

Infos = Mapping[str, NodeInfo | None]
"""The description of each class of the workflow; None for one that ComfyUI does not have."""
LISTED = 8
"""Names in a message."""


def problems(workflow: Workflow, infos: Infos, *, allow_paid_nodes: bool) -> list[str]:
    """Return the reasons why this server cannot run the workflow."""
    return [
        *_bindings(workflow, infos),
        *_links(workflow),
        *_classes(workflow, infos, allow_paid_nodes=allow_paid_nodes),
        *_files(workflow, infos),
    ]


# --- bindings ---


def _bindings(workflow: Workflow, infos: Infos) -> Iterator[str]:
    bound = workflow.bindings
    if not bound.prompt:
        yield 'no node is bound to the prompt; name its input in the binding file: prompt = "NODE.INPUT"'
    if not bound.seed and bound.seed_required:
        yield (
            "no node is bound to the seed, so every image would be the same; name its input in the binding file: "
            'seed = "NODE.INPUT", or seed = false'
        )
    for name, target in bound.targets():
        yield from _target(workflow, infos, name, target)
    for name, nodes in (("loras", bound.loras), ("samplers", bound.samplers)):
        for node in nodes:
            if node not in workflow.graph:
                yield f"bindings: {name} names node {node}, which the workflow does not have; {_there(workflow)}"
            elif name == "loras" and "lora_name" not in workflow.graph[node].inputs:
                yield f"bindings: loras names {_named(workflow, node)}, which has no input lora_name"


def _target(workflow: Workflow, infos: Infos, name: str, target: InputTarget) -> Iterator[str]:
    """Check one bound input."""
    node = workflow.graph.get(target.node)
    if node is None:
        yield f"bindings: {name} = {target}, but the workflow has no node {target.node}; {_there(workflow)}"
        return
    info = infos.get(node.class_type)
    known = info.inputs | node.inputs.keys() if info else node.inputs.keys()
    if target.input not in known:
        inputs = ", ".join(sorted(known)[:LISTED])
        yield f"bindings: {name} = {target}, but {_named(workflow, target.node)} has no such input; it has: {inputs}"
    elif link := as_link(node.inputs.get(target.input)):
        yield f"bindings: {name} = {target}, but this input is linked to {_named(workflow, link.node)}; bind that node"


def _there(workflow: Workflow) -> str:
    names = sorted(workflow.graph, key=node_order)[:LISTED]
    more = " …" if len(workflow.graph) > LISTED else ""
    return "it has: " + ", ".join(f"{name} ({_class(workflow.graph[name])})" for name in names) + more


def _class(node: GraphNode) -> str:
    return printable(node.class_type, 100)


def _named(workflow: Workflow, node: str) -> str:
    found = workflow.graph.get(node)
    return f"node {printable(node, 50)} ({_class(found) if found else 'which is absent'})"


def _links(workflow: Workflow) -> Iterator[str]:
    for name, node in workflow.graph.items():
        for input_, link in links(node):
            if link.node not in workflow.graph:
                yield f"{_named(workflow, name)}: {input_} is linked to node {link.node}, which is absent"


# --- classes and files ---


def _classes(workflow: Workflow, infos: Infos, *, allow_paid_nodes: bool) -> Iterator[str]:
    for name in sorted(workflow.graph, key=node_order):
        info = infos.get(workflow.graph[name].class_type)
        if info is None:
            yield (
                f"{_named(workflow, name)}: ComfyUI has no such node; install the custom node that has it, update "
                "ComfyUI, or remove it from the workflow"
            )
        elif info.paid and not allow_paid_nodes:
            yield (
                f"{_named(workflow, name)}: this node calls a service that costs money for each image; remove it from "
                "the workflow, or set the option allow_paid_nodes=true"
            )


def _files(workflow: Workflow, infos: Infos) -> Iterator[str]:
    """Check the values of inputs that are lists: the names of models, samplers and images."""
    replaced = {*workflow.bindings.references, *(InputTarget(node, "lora_name") for node in workflow.bindings.loras)}
    for name in sorted(workflow.graph, key=node_order):
        node = workflow.graph[name]
        info = infos.get(node.class_type)
        for input_, choices in info.choices.items() if info else ():
            value = node.inputs.get(input_)
            if isinstance(value, str) and value not in choices and InputTarget(name, input_) not in replaced:
                yield f"{_named(workflow, name)}: {_missing(input_, value, choices)}"


def _missing(name: str, value: str, choices: Sequence[str]) -> str:
    """Return the text for a value that is not in the list, with the name that is meant."""
    shown = printable(value, 100)
    similar = [choice for choice in choices if choice.lower() == value.lower()]
    if similar:
        return f"{name} is {shown!r}, but ComfyUI has it as {printable(similar[0], 100)!r}; write it so"
    stem = value.replace("\\", "/").rpartition("/")[2].lower()
    moved = [choice for choice in choices if choice.replace("\\", "/").rpartition("/")[2].lower() == stem]
    if moved:
        return f"{name} is {shown!r}, but ComfyUI has it as {printable(moved[0], 100)!r}; write it so"
    there = ", ".join(printable(choice, 100) for choice in choices[:LISTED]) or "none"
    more = " …" if len(choices) > LISTED else ""
    remedy = "put the file there" if "." in value else "update ComfyUI"
    return f"{name} is {shown!r}, which ComfyUI does not have; {remedy}, or choose one of: {there}{more}"


# --- the features ---


def describe(workflow: Workflow, infos: Infos, version: str) -> EngineInfo:
    """Return what the workflow can do on this server. `problems` has found none."""
    bound = workflow.bindings
    low, high = _span(workflow, infos, bound.steps)
    steps = workflow.value(bound.steps or [InputTarget(node, "steps") for node in bound.samplers])
    cfg = workflow.value(bound.cfg)
    default = steps if isinstance(steps, int) else 1
    sides = [_span(workflow, infos, targets) for targets in (bound.width, bound.height)]
    return EngineInfo(
        name="comfyui",
        kind="model",
        version=version,
        revision=workflow.revision,
        size_multiple=bound.size_multiple or _size_multiple(workflow, infos),
        min_side=max(LIMITS.side_min, *(span[0] for span in sides)),
        max_side=min(LIMITS.side_max, *(span[1] for span in sides)),
        default_steps=default,
        min_steps=max(1, low) if bound.steps else default,
        max_steps=max(default, min(high, bound.max_steps or LIMITS.steps_max)) if bound.steps else default,
        default_cfg=float(cfg) if isinstance(cfg, int | float) else None,
        features=_features(workflow),
        models=_models(workflow, infos),
        loras=_loras(workflow, infos),
    )


def largest_seed(workflow: Workflow, infos: Infos) -> int:
    """Return the largest seed that all bound inputs accept."""
    return max(0, min(LIMITS.seed_max, _span(workflow, infos, workflow.bindings.seed, LIMITS.seed_max)[1]))


def _features(workflow: Workflow) -> tuple[str, ...]:
    bound = workflow.bindings
    there = {"references": bound.references, "negative": bound.negative, "loras": bound.loras, "cfg": bound.cfg}
    return ("previews", *(name for name, places in there.items() if places))


def _of_targets(
    workflow: Workflow, infos: Infos, targets: Sequence[InputTarget], read: Callable[[NodeInfo, str], Any]
) -> Iterator[Any]:
    for node, name in targets:
        info = infos.get(workflow.graph[node].class_type)
        if info and (value := read(info, name)) is not None:
            yield value


def _span(workflow: Workflow, infos: Infos, targets: Sequence[InputTarget], default: int = 1 << 20) -> tuple[int, int]:
    """Return the whole numbers that all these inputs accept."""
    spans = list(_of_targets(workflow, infos, targets, lambda info, name: info.ranges.get(name)))
    low = max((span[0] for span in spans), default=0)
    high = min((span[1] for span in spans), default=default)
    return math.ceil(low), math.floor(high)


def _size_multiple(workflow: Workflow, infos: Infos) -> int:
    targets = (*workflow.bindings.width, *workflow.bindings.height)
    return math.lcm(1, *_of_targets(workflow, infos, targets, lambda info, name: info.steps.get(name)))


def _choices_of(workflow: Workflow, infos: Infos, targets: Sequence[InputTarget]) -> tuple[str, ...]:
    """Return the values that all these inputs accept, in the order of the first."""
    lists = list(_of_targets(workflow, infos, targets, lambda info, name: info.choices.get(name)))
    return tuple(name for name in lists[0] if all(name in other for other in lists)) if lists else ()


def _models(workflow: Workflow, infos: Infos) -> tuple[str, ...]:
    """Return the models that a request may choose; the workflow's own, the default, is the first."""
    bound = workflow.bindings
    own = workflow.value(bound.model)
    if not isinstance(own, str):
        return ()
    there = _choices_of(workflow, infos, bound.model)
    chosen = [name for name in bound.models if name in there] if bound.models else there
    return (own, *(name for name in chosen if name != own))


def _loras(workflow: Workflow, infos: Infos) -> tuple[str, ...]:
    return _choices_of(workflow, infos, [InputTarget(node, "lora_name") for node in workflow.bindings.loras])
