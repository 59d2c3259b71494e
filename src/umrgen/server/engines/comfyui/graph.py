"""A workflow in ComfyUI's API format: nodes by id, whose inputs are values or links to outputs of other nodes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from umrgen.server.engines import EngineFailure
from umrgen.text import printable

__all__ = [
    "Graph",
    "GraphNode",
    "InputTarget",
    "Link",
    "as_link",
    "bypass",
    "copy_of",
    "links",
    "node_order",
    "parse_graph",
]


class GraphNode(msgspec.Struct):
    """One node."""

    class_type: str
    inputs: dict[str, Any] = {}
    meta: dict[str, Any] = msgspec.field(default_factory=dict, name="_meta")


Graph = dict[str, GraphNode]


class InputTarget(NamedTuple):
    """An input of a node."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


class Link(NamedTuple):
    """An output of a node."""

    node: str
    output: int


def as_link(value: Any) -> Link | None:
    """Return the link that an input's value is, None for another value."""
    match value:
        case [str(node), int(output)] if not isinstance(output, bool):
            return Link(node, output)
    return None


def links(node: GraphNode) -> Iterator[tuple[str, Link]]:
    """Yield the names of the inputs that are links, and the links."""
    for name, value in node.inputs.items():
        if link := as_link(value):
            yield name, link


def node_order(node: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key for node ids, which are mostly numbers."""
    return tuple((int(part), "") if part.isdecimal() else (1 << 30, part) for part in node.split(":"))


def parse_graph(data: bytes) -> Graph:
    """Return the workflow in a file. Raises EngineFailure, with the remedy, for another format."""
    try:
        content = msgspec.json.decode(data)
    except ValueError as error:
        raise EngineFailure(f"the workflow is not JSON: {printable(str(error), 200)}") from None
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise EngineFailure(
            "the workflow is in the format of ComfyUI's editor, which its API does not accept; "
            "in ComfyUI, choose Workflow, Export (API), and use that file"
        )
    try:
        graph = msgspec.convert(content, Graph)
    except msgspec.ValidationError as error:
        raise EngineFailure(f"the workflow is not in ComfyUI's API format: {printable(str(error), 200)}") from None
    if not graph:
        raise EngineFailure("the workflow has no nodes")
    return graph


def copy_of(graph: Graph) -> Graph:
    """Return a copy whose nodes and inputs can be changed."""
    return {name: GraphNode(node.class_type, dict(node.inputs), node.meta) for name, node in graph.items()}


def bypass(graph: Graph, node: str, outputs: Mapping[int, str]) -> None:
    """Remove a node; connect the consumers of each of its outputs to the source of the input named for it."""
    removed = graph.pop(node)
    for consumer in graph.values():
        for name, link in list(links(consumer)):
            if link.node == node and link.output in outputs:
                consumer.inputs[name] = removed.inputs.get(outputs[link.output])
