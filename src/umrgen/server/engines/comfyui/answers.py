"""The responses and messages of ComfyUI, parsed. No other module reads their fields.

Each function raises ValueError, of which msgspec's errors are a kind, for a body that ComfyUI does not send.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
from msgspec import Raw, Struct

from umrgen.server.engines.foreign_text import first_line, is_out_of_memory

__all__ = [
    "Accepted",
    "Event",
    "Executing",
    "HistoryEntry",
    "NodeError",
    "NodeInfo",
    "NodeProgress",
    "OutputFile",
    "PreviewFrame",
    "PromptEnded",
    "PromptState",
    "QueueEntry",
    "accepted",
    "cancelled",
    "event",
    "history",
    "node_info",
    "preview",
    "queue",
    "refusal",
    "uploaded",
    "version",
]


class PromptState(Enum):
    """The state of a prompt on one server."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NodeError:
    """The error of one node. `text` is a short printable line without a path."""

    node: str
    class_type: str
    text: str
    out_of_memory: bool = False

    def __str__(self) -> str:
        return f"node {self.node} ({self.class_type}): {self.text}"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """The name of a file that a node wrote. `type` is "output" or "temp"."""

    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A prompt in the queue."""

    prompt_id: str
    client_id: str | None
    state: PromptState


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A prompt that has ended."""

    prompt_id: str
    client_id: str | None
    state: PromptState
    files: tuple[OutputFile, ...] = ()
    """In the order in which the nodes completed."""
    error: NodeError | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The response to a prompt that was accepted, in whole or in part."""

    prompt_id: str
    errors: tuple[NodeError, ...]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The description of a class of nodes."""

    inputs: frozenset[str]
    choices: Mapping[str, tuple[str, ...]] = field(repr=False)
    """The values of the inputs that are lists; without those whose list ComfyUI loads from elsewhere."""
    steps: Mapping[str, int] = field(repr=False)
    """The step of each whole number, of which its values are multiples."""
    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    """The smallest and the largest value of each number."""
    paid: bool = False
    """It calls a service that costs money."""


# --- messages of the WebSocket ---


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """A node has finished `value` of `maximum` steps."""

    prompt_id: str | None
    node: str
    value: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Executing:
    """A node starts."""

    prompt_id: str | None
    node: str


@dataclass(frozen=True, slots=True)
class PromptEnded:
    """A prompt has ended, or is about to: its history has the result."""

    prompt_id: str | None


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """An unfinished image."""

    prompt_id: str | None
    media_type: str
    data: bytes = field(repr=False)


Event = NodeProgress | Executing | PromptEnded | PreviewFrame


class _Message(Struct):
    type: str
    data: Raw = Raw(b"null")


class _EventData(Struct):
    prompt_id: str | None = None
    node: str | None = None
    value: float = 0
    max: float = 0


class _PreviewData(Struct):
    prompt_id: str | None = None
    image_type: str = "image/jpeg"


_ENDS = ("execution_success", "execution_error", "execution_interrupted")
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_PREVIEW_TYPES = {1: "image/jpeg", 2: "image/png"}


def event(text: str | bytes) -> Event | None:
    """Return the event of a text message, None for one of no interest."""
    message = msgspec.json.decode(text, type=_Message)
    if message.type not in ("progress", "executing", *_ENDS):
        return None
    data = msgspec.json.decode(message.data, type=_EventData)
    if message.type in _ENDS or (message.type == "executing" and data.node is None):
        return PromptEnded(data.prompt_id)
    if message.type == "executing":
        return Executing(data.prompt_id, data.node or "")
    return NodeProgress(data.prompt_id, data.node or "", data.value, data.max)


def preview(frame: bytes) -> PreviewFrame | None:
    """Return the preview in a binary message, None for another kind of message."""
    kind, second = int.from_bytes(frame[:4]), int.from_bytes(frame[4:8])
    if kind == _PREVIEW and second in _PREVIEW_TYPES:
        return PreviewFrame(None, _PREVIEW_TYPES[second], frame[8:])
    if kind == _PREVIEW_WITH_METADATA and 0 < second <= len(frame) - 8:
        data = msgspec.json.decode(frame[8 : 8 + second], type=_PreviewData)
        return PreviewFrame(data.prompt_id, data.image_type, frame[8 + second :])
    return None


# --- responses ---


class _System(Struct):
    comfyui_version: str = ""


class _Stats(Struct):
    system: _System


class _Extra(Struct):
    client_id: Any = None


class _QueueItem(Struct, array_like=True):
    number: float
    prompt_id: str
    graph: Raw = Raw(b"null")
    extra: _Extra | None = None


class _Queue(Struct):
    queue_running: list[_QueueItem]
    queue_pending: list[_QueueItem]


class _Output(Struct):
    images: Any = None


class _File(Struct):
    filename: str
    subfolder: str = ""
    type: str = "output"


class _ErrorData(Struct):
    node_id: Any = ""
    node_type: str = ""
    exception_message: str = ""
    exception_type: str = ""


class _Status(Struct):
    status_str: str = "success"
    messages: list[tuple[str, Raw]] = []


class _History(Struct):
    prompt: _QueueItem
    outputs: dict[str, Any] = {}
    status: _Status | None = None


class _InputError(Struct):
    type: str = ""
    message: str = ""
    extra_info: Any = None


class _NodeErrors(Struct):
    errors: list[_InputError] = []
    class_type: str = ""


class _GraphError(Struct):
    type: str = ""
    message: str = ""
    extra_info: Any = None


class _Response(Struct):
    prompt_id: str = ""
    error: _GraphError | str | None = None
    node_errors: Any = None


class _CancelResponse(Struct):
    cancelled: bool = False


class _Upload(Struct):
    name: str
    subfolder: str = ""


def version(body: bytes) -> str:
    """Return ComfyUI's version from its `/system_stats`; "" for a server that reports none."""
    return msgspec.json.decode(body, type=_Stats).system.comfyui_version[:50]


def _client(item: _QueueItem) -> str | None:
    client = item.extra.client_id if item.extra else None
    return client if isinstance(client, str) else None


def queue(body: bytes) -> tuple[QueueEntry, ...]:
    """Return the running and the pending prompts from `/queue`."""
    found = msgspec.json.decode(body, type=_Queue)
    states = ((found.queue_running, PromptState.RUNNING), (found.queue_pending, PromptState.PENDING))
    return tuple(QueueEntry(item.prompt_id, _client(item), state) for items, state in states for item in items)


def history(body: bytes) -> tuple[HistoryEntry, ...]:
    """Return the prompts in a response of `/history`."""
    entries = msgspec.json.decode(body, type=dict[str, _History])
    return tuple(_history_entry(prompt_id, entry) for prompt_id, entry in entries.items())


def _history_entry(prompt_id: str, entry: _History) -> HistoryEntry:
    state, error = _end(entry.status or _Status())
    return HistoryEntry(prompt_id, _client(entry.prompt), state, tuple(_files(entry.outputs)), error)


def _end(status: _Status) -> tuple[PromptState, NodeError | None]:
    """Return the state of an ended prompt: only a message distinguishes an interruption from an error."""
    messages = dict(status.messages)
    if "execution_interrupted" in messages:
        return PromptState.CANCELLED, None
    if "execution_error" in messages:
        return PromptState.FAILED, _node_error(msgspec.json.decode(messages["execution_error"], type=_ErrorData))
    return (PromptState.SUCCEEDED if status.status_str == "success" else PromptState.FAILED), None


def _node_error(data: _ErrorData) -> NodeError:
    out_of_memory = is_out_of_memory(data.exception_type, data.exception_message)
    text = first_line(data.exception_message) or first_line(data.exception_type) or "it failed without a message"
    return NodeError(first_line(str(data.node_id)), first_line(data.node_type), text, out_of_memory)


def _files(outputs: Mapping[str, Any]) -> Iterator[OutputFile]:
    """Yield the files of all nodes. A custom node may put anything else into its output."""
    for output in outputs.values():
        images = output.get("images") if isinstance(output, dict) else None
        for image in images if isinstance(images, list) else ():
            try:
                file = msgspec.convert(image, _File)
            except msgspec.ValidationError:
                continue
            yield OutputFile(file.filename, file.subfolder, file.type)


def accepted(body: bytes) -> Accepted:
    """Return the response to a prompt that was accepted."""
    response = msgspec.json.decode(body, type=_Response)
    if not response.prompt_id:
        raise ValueError("the response has no prompt_id")
    return Accepted(response.prompt_id, _node_errors(response.node_errors))


def refusal(body: bytes) -> tuple[NodeError, ...] | str:
    """Return the errors of the nodes of a prompt that was refused; without any, the error of the whole."""
    response = msgspec.json.decode(body, type=_Response)
    if errors := _node_errors(response.node_errors):
        return errors
    if isinstance(response.error, _GraphError):
        return _graph_error(response.error)
    return first_line(response.error or "") or "without a reason"


def _graph_error(error: _GraphError) -> str:
    """Return the text of an error of the whole graph. Its `details` may be a traceback, and are not used."""
    extra = error.extra_info if isinstance(error.extra_info, dict) else {}
    node, class_type = extra.get("node_id"), extra.get("class_type")
    place = f"node {first_line(str(node))} ({first_line(str(class_type))}): " if node is not None else ""
    return place + (first_line(error.message) or first_line(error.type))


def _node_errors(errors: Any) -> tuple[NodeError, ...]:
    if not errors:
        return ()
    nodes = msgspec.convert(errors, dict[str, _NodeErrors])
    return tuple(
        NodeError(first_line(node), first_line(found.class_type), _input_error(error))
        for node, found in nodes.items()
        for error in (found.errors or [_InputError(message="it is not valid")])[:1]
    )


def _input_error(error: _InputError) -> str:
    """Return the text of an error of an input, with the name and the value. `details` may contain a traceback."""
    extra = error.extra_info if isinstance(error.extra_info, dict) else {}
    text = first_line(error.message) or first_line(error.type) or "it is not valid"
    name, value = extra.get("input_name"), extra.get("received_value")
    if isinstance(name, str):
        text += f" ({first_line(name)})"
    if isinstance(value, str | int | float):
        text += f"; got {first_line(str(value))}"
    return text


def cancelled(body: bytes) -> bool:
    """Return whether the prompt was cancelled, rather than over already."""
    return msgspec.json.decode(body, type=_CancelResponse).cancelled


def uploaded(body: bytes) -> str:
    """Return the value of LoadImage's input `image` for an uploaded file."""
    file = msgspec.json.decode(body, type=_Upload)
    return f"{file.subfolder}/{file.name}" if file.subfolder else file.name


class _Class(Struct):
    input: dict[str, Any] = {}
    api_node: bool = False


def node_info(body: bytes, class_type: str) -> NodeInfo | None:
    """Return the description of a class from `/object_info/CLASS`, None if ComfyUI does not have the class."""
    found = msgspec.json.decode(body, type=dict[str, _Class]).get(class_type)
    if found is None:
        return None
    groups = [found.input.get(group) for group in ("required", "optional")]
    specs = {name: spec for group in groups if isinstance(group, dict) for name, spec in group.items()}
    configs = {name: _config(spec) for name, spec in specs.items()}
    return NodeInfo(
        inputs=frozenset(specs),
        choices={name: choices for name, spec in specs.items() if (choices := _choices(spec)) is not None},
        steps={name: step for name, config in configs.items() if (step := _whole(config.get("step")))},
        ranges={name: span for name, config in configs.items() if (span := _range(config))},
        paid=found.api_node,
    )


def _config(spec: Any) -> Mapping[str, Any]:
    return spec[1] if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}


def _choices(spec: Any) -> tuple[str, ...] | None:
    """Return the values of an input that is a list, in either of its two forms; None for another input."""
    config = _config(spec)
    kind: Any = spec[0] if isinstance(spec, list) and spec else None
    if "remote" in config or "remote_combo" in config:
        return None
    listed = kind if isinstance(kind, list) else config.get("options") if kind == "COMBO" else None
    return tuple(choice for choice in listed if isinstance(choice, str)) if isinstance(listed, list) else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _range(config: Mapping[str, Any]) -> tuple[float, float] | None:
    span: Sequence[Any] = (config.get("min"), config.get("max"))
    low, high = span
    return (low, high) if isinstance(low, int | float) and isinstance(high, int | float) else None
