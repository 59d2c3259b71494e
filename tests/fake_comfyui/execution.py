"""The queue of the fake, and the execution of its prompts with the messages that ComfyUI sends, in their order."""

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.websockets import WebSocket

from fake_comfyui.nodes import NODES, Graph, ancestors, errors_of, is_link, outputs_of

TRACEBACK = ['  File "/root/ComfyUI/execution.py", line 510, in execute\n', '  File "/root/ComfyUI/nodes.py", line 9\n']


class Interrupted(Exception):
    """The running prompt was interrupted."""


@dataclass
class NodeFailure(Exception):
    """A node raised this exception."""

    exception_type: str
    message: str


@dataclass
class Prompt:
    """A prompt that was accepted."""

    prompt_id: str
    number: int
    graph: Graph
    extra: dict[str, Any]
    outputs: list[str]
    results: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def client_id(self) -> str | None:
        return self.extra.get("client_id")

    @property
    def previews(self) -> bool:
        return self.extra.get("preview_method") == "auto"

    def item(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


class Execution:
    """The state of the fake. The attributes after `generation` are faults and points to wait at."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.pause = ""
        """The point at which prompts wait: "submit", "queue", "load", "step N", "decode" or "last"; "": none."""
        self.failures: dict[str, NodeFailure] = {}
        """The exception of each class of nodes that fails."""
        self.missing_classes: set[str] = set()
        self.refuses_sockets = False
        self.loses_responses = 0
        """Prompts that are accepted without a response: the connection is closed."""
        self.missing_files = False
        """Whether /view finds no file."""
        self.previews = generation == "0.3"
        """Whether it was started with `--preview-method auto`; later generations have an option of the prompt too."""
        self.early_success = False
        """Whether `execution_success` is sent long before the history is written."""
        self.broken: dict[str, bytes] = {}
        """Bodies to respond with, by path."""
        self.accepted: list[Prompt] = []
        self.executed: list[str] = []
        """The ids of the prompts that were executed."""
        self.cached_nodes: list[str] = []
        self.interrupts: list[Any] = []
        """The bodies of the calls of /interrupt."""
        self.freed: list[Any] = []
        """The bodies of the calls of /free."""
        self.requests: list[str] = []
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.paused = threading.Event()
        self.forget()

    def forget(self) -> None:
        """Restart: only the files of the type `output` stay."""
        self.pending: list[Prompt] = []
        self.running: Prompt | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.cache: dict[str, Any] = {}
        self.sockets: dict[str, WebSocket] = {}
        self.flags: dict[str, dict[str, Any]] = {}
        self.last_node: str | None = None
        self.last_client: str | None = None
        self.interrupted = False
        self.files = {key: data for key, data in self.files.items() if key[0] != "temp"}
        self._number = 0
        self._wake: asyncio.Event | None = None
        self._go: asyncio.Event | None = None

    # --- control ---

    async def resume(self, pause: str) -> None:
        self.pause = pause
        self.paused.clear()
        if self._go is not None:
            self._go.set()

    async def close_sockets(self) -> None:
        for connected in list(self.sockets.values()):
            with suppress(RuntimeError):
                await connected.close(1011)

    async def point(self, name: str) -> None:
        """Wait here if the test says so."""
        if self.pause == name:
            self._go = asyncio.Event()
            self.paused.set()
            await self._go.wait()

    # --- the queue ---

    def submit(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Validate a prompt and queue it; return the status and the body of the response."""
        graph, prompt_id = body["prompt"], body.get("prompt_id")
        if self.generation == "0.38" and prompt_id is not None and not _is_canonical(prompt_id):
            return 400, _graph_error("invalid_prompt_id", "prompt_id is not a UUID")
        prompt_id = str(uuid.uuid4()) if self.generation == "0.3" or prompt_id is None else str(prompt_id)
        unknown = [n for n, node in graph.items() if node["class_type"] not in self.classes()]
        if unknown:
            name = graph[unknown[0]]["class_type"]
            extra = {"node_id": unknown[0], "class_type": name, "node_title": name}
            kind = "missing_node_type" if self.generation == "0.38" else "invalid_prompt"
            return 400, _graph_error(kind, f"Node '{name}' not found.", extra if self.generation == "0.38" else {})
        outputs = outputs_of(graph)
        if not outputs:
            return 400, _graph_error("prompt_no_outputs", "Prompt has no outputs")
        valid, errors = self._validate(graph, outputs)
        if not valid:
            return 400, _graph_error("prompt_outputs_failed_validation", "Prompt outputs failed validation", {}, errors)
        extra = dict(body.get("extra_data", {}))
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        prompt = Prompt(prompt_id, self._number, graph, extra, valid)
        self._number += 1
        self.pending.append(prompt)
        self.accepted.append(prompt)
        if self._wake is not None:
            self._wake.set()
        return 200, {"prompt_id": prompt_id, "number": prompt.number, "node_errors": errors}

    def classes(self) -> list[str]:
        return [name for name in NODES if name not in self.missing_classes]

    def images(self) -> list[str]:
        return sorted(self.uploads)

    def _validate(self, graph: Graph, outputs: list[str]) -> tuple[list[str], dict[str, Any]]:
        """Return the valid outputs, and the errors of the nodes of the others."""
        valid, errors = [], {}
        for output in outputs:
            found = {
                name: list(errors_of(graph, name, self.images()))
                for name in ancestors(graph, output)
                if any(errors_of(graph, name, self.images()))
            }
            if not found:
                valid.append(output)
            for name, listed in found.items():
                class_type = graph[name]["class_type"]
                errors[name] = {"errors": listed, "dependent_outputs": [output], "class_type": class_type}
        return valid, errors

    def queue(self) -> dict[str, Any]:
        running = [self.running.item()] if self.running else []
        return {"queue_running": running, "queue_pending": [prompt.item() for prompt in self.pending]}

    def delete(self, ids: list[str]) -> None:
        self.pending = [prompt for prompt in self.pending if prompt.prompt_id not in ids]

    def interrupt(self, body: Mapping[str, Any]) -> None:
        """Interrupt the prompt with this id; generation 0.3 ignores the id, and interrupts any prompt."""
        self.interrupts.append(body)
        wanted = body.get("prompt_id")
        if wanted is None or self.generation == "0.3" or (self.running and self.running.prompt_id == wanted):
            self.interrupted = True

    def cancel(self, prompt_id: str) -> bool:
        """Cancel as generation 0.38 does."""
        pending = [prompt.prompt_id for prompt in self.pending]
        running = self.running is not None and self.running.prompt_id == prompt_id
        self.delete([prompt_id])
        self.interrupted |= running
        found = running or prompt_id in pending
        if found:
            self.cancelled.add(prompt_id)
        return found

    # --- messages ---

    async def send(self, kind: str, data: Any, client_id: str | None) -> None:
        """Send a message to one client; without an id to all."""
        await self._send(json.dumps({"type": kind, "data": data}), client_id)

    async def _send(self, message: str | bytes, client_id: str | None) -> None:
        for sid, connected in list(self.sockets.items()):
            if client_id in (None, sid):
                with suppress(Exception):  # it was closed
                    await (
                        connected.send_bytes(message) if isinstance(message, bytes) else connected.send_text(message)
                    )

    async def _status(self) -> None:
        remaining = len(self.pending) + (self.running is not None)
        await self.send("status", {"status": {"exec_info": {"queue_remaining": remaining}}}, None)

    # --- the execution ---

    async def work(self) -> None:
        """Execute one prompt after another."""
        self._wake = asyncio.Event()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.pending:
                await self.point("queue")
                if not self.pending:
                    break
                self.running = self.pending.pop(0)
                await self._status()
                await self._execute(self.running)

    async def _execute(self, prompt: Prompt) -> None:
        self.interrupted = False
        self.executed.append(prompt.prompt_id)
        self.last_client = prompt.client_id
        status, completed = "success", True
        await self._message(prompt, "execution_start", {"timestamp": int(time.time() * 1000)})
        cached = [name for name in prompt.graph if self._signature(prompt.graph, name) in self.cache]
        self.cached_nodes = cached
        await self._message(prompt, "execution_cached", {"nodes": cached})
        node = ""
        try:
            await self.point("load")
            order = list(dict.fromkeys(name for output in prompt.outputs for name in ancestors(prompt.graph, output)))
            for node in order:
                await self._node(prompt, node, last=node == order[-1])
        except Interrupted:
            status, completed = "error", False
            await self._message(prompt, "execution_interrupted", self._place(prompt, node))
        except NodeFailure as failure:
            status, completed = "error", False
            await self._message(
                prompt,
                "execution_error",
                self._place(prompt, node)
                | {
                    "exception_message": failure.message,
                    "exception_type": failure.exception_type,
                    "traceback": TRACEBACK,
                    "current_inputs": {"path": ["/root/ComfyUI/input"]},
                },
            )
        else:
            await self._message(prompt, "execution_success", {})
            if self.early_success:
                await self.point("history")
        self.history[prompt.prompt_id] = {
            "prompt": prompt.item(),
            "outputs": prompt.results,
            "status": {"status_str": status, "completed": completed, "messages": prompt.messages},
            "meta": {},
        }
        self.running, self.last_node = None, None
        await self._status()
        await self.send("executing", {"node": None, "prompt_id": prompt.prompt_id}, prompt.client_id)

    def _place(self, prompt: Prompt, node: str) -> dict[str, Any]:
        return {"node_id": node, "node_type": prompt.graph[node]["class_type"], "executed": []}

    async def _message(self, prompt: Prompt, kind: str, data: dict[str, Any]) -> None:
        prompt.messages.append((kind, data | {"prompt_id": prompt.prompt_id}))
        await self.send(kind, data | {"prompt_id": prompt.prompt_id}, prompt.client_id)

    def _signature(self, graph: Graph, name: str) -> str:
        """Return the key of the cache: the classes and inputs of a node and of those that it depends on."""
        return json.dumps([graph[node] for node in ancestors(graph, name)], sort_keys=True)

    async def _node(self, prompt: Prompt, name: str, *, last: bool) -> None:
        """Execute a node, unless its result is cached; the last node ignores an interruption."""
        signature = self._signature(prompt.graph, name)
        if signature in self.cache:
            output = self.cache[signature]
            if output:
                prompt.results[name] = output
                await self._executed(prompt, name, output)
            return
        if self.interrupted:
            raise Interrupted
        self.last_node = name
        await self._progress_state(prompt, name, 0, 1)
        await self.send("executing", self._of(prompt, name), prompt.client_id)
        if last:
            await self.point("last")
        output = await self._run(prompt, name)
        self.cache[signature] = output
        if output:
            prompt.results[name] = output
            await self._executed(prompt, name, output)
        await self._progress_state(prompt, name, 1, 1)

    def _of(self, prompt: Prompt, name: str) -> dict[str, Any]:
        return {"node": name, "display_node": name, "prompt_id": prompt.prompt_id}

    async def _executed(self, prompt: Prompt, name: str, output: Any) -> None:
        await self.send("executed", self._of(prompt, name) | {"output": output}, prompt.client_id)

    async def _progress_state(self, prompt: Prompt, name: str, value: int, maximum: int) -> None:
        if self.generation == "0.3":
            return
        state = {"value": value, "max": maximum, "state": "running", "node_id": name, "prompt_id": prompt.prompt_id}
        await self.send("progress_state", {"prompt_id": prompt.prompt_id, "nodes": {name: state}}, prompt.client_id)

    async def _run(self, prompt: Prompt, name: str) -> Any:
        node = prompt.graph[name]
        kind, inputs = node["class_type"], node["inputs"]
        if failure := self.failures.get(kind):
            raise failure
        if kind in ("KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced"):
            await self._sample(prompt, name)
        elif kind == "VAEDecode":
            await self.point("decode")
        elif kind in ("SaveImage", "PreviewImage", "SaveAsFile"):
            return {"images": [self._write(prompt, name, index) for index in range(_batch(prompt.graph, name))]}
        elif kind == "PreviewAny":
            return {"text": ["a text"], "images": ["no file", {"filename": 5}]}
        return inputs and None

    async def _sample(self, prompt: Prompt, name: str) -> None:
        steps = _find(prompt.graph, name, "steps")
        behaviour = _text(prompt.graph)
        if behaviour in MESSAGES:
            raise NodeFailure("ValueError", MESSAGES[behaviour])
        if behaviour == "phases":
            await asyncio.sleep(1.2)  # without a message, as while a model is loaded
        for step in range(1, steps + 1):
            await self.point(f"step {step}")
            if behaviour == "slow":
                await asyncio.sleep(0.02)
            while behaviour == "wait" and step == 2 and not self.interrupted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if self.interrupted:
                raise Interrupted
            await self._progress_state(prompt, name, step, steps)
            progress = {"value": step, "max": steps, "prompt_id": prompt.prompt_id, "node": name}
            with_metadata = self.generation != "0.3" and self.flags.get(prompt.client_id or "", {}).get(
                "supports_preview_metadata"
            )
            previews = self.previews or (prompt.previews and self.generation != "0.3")
            if previews and with_metadata:
                await self._send(_preview_with_metadata(prompt.prompt_id, name), prompt.client_id)
            await self.send("progress", progress, prompt.client_id)
            if previews and not with_metadata:
                await self._send(struct.pack(">II", 1, 1) + _image(64, 64, step, "JPEG"), prompt.client_id)

    def _write(self, prompt: Prompt, name: str, index: int) -> dict[str, str]:
        """Write an image, and return its name."""
        node = prompt.graph[name]
        kind = "temp" if node["class_type"] == "PreviewImage" else "output"
        folder, _, prefix = node["inputs"].get("filename_prefix", "ComfyUI").rpartition("/")
        form = node["inputs"].get("format", "PNG")
        width, height = (round(_find(prompt.graph, name, side) * _scale(prompt.graph, name)) for side in _SIDES)
        seed = _find(prompt.graph, name, "seed", "noise_seed")
        file = f"{prefix}_{len(self.files) + 1:05}_.{form.lower()}"
        content = b"ftyp a video" if form == "MP4" else _image(width, height, seed + index, form, prompt.graph)
        self.files[kind, folder, file] = content
        return {"filename": file, "subfolder": folder, "type": kind}


MESSAGES = {
    "refuse": "this prompt is refused",
    "unprintable": "bad \x1b[2J\nnumber \u202e1" + "x" * 9000,
}
"""The messages with which some prompts fail, as those of `fake_engines` do."""
_SIDES = ("width", "height")


def _text(graph: Graph) -> str:
    """Return the prompt."""
    texts = [node["inputs"]["text"] for node in graph.values() if node["class_type"] == "CLIPTextEncode"]
    return next((text for text in texts if isinstance(text, str)), "")


def _find(graph: Graph, start: str, *names: str) -> Any:
    """Return the value of an input of the nearest node with it."""
    for node in reversed(ancestors(graph, start)):
        for name in names:
            value = graph[node]["inputs"].get(name)
            if value is not None and not is_link(value):
                return value
    return 1


def _batch(graph: Graph, start: str) -> int:
    return int(_find(graph, start, "batch_size"))


def _scale(graph: Graph, start: str) -> float:
    return float(_find(graph, start, "scale_by"))


def _image(width: int, height: int, shade: int, form: str, graph: Graph | None = None) -> bytes:
    """Return an image; a PNG contains its graph, as ComfyUI's do."""
    encoded = BytesIO()
    texts = PngInfo()
    if graph is not None:
        texts.add_text("prompt", json.dumps(graph))
    more = {"pnginfo": texts} if form == "PNG" else {}
    Image.new("RGB", (width, height), (shade % 256, 90, 90)).save(encoded, form, **more)
    return encoded.getvalue()


def _preview_with_metadata(prompt_id: str, node: str) -> bytes:
    metadata = json.dumps({"node_id": node, "prompt_id": prompt_id, "image_type": "image/jpeg"}).encode()
    return struct.pack(">II", 4, len(metadata)) + metadata + _image(64, 64, 7, "JPEG")


def _is_canonical(prompt_id: Any) -> bool:
    try:
        return str(uuid.UUID(prompt_id)) == prompt_id
    except (ValueError, TypeError, AttributeError):
        return False


def _graph_error(
    kind: str, message: str, extra: Mapping[str, Any] | None = None, nodes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": "".join(TRACEBACK), "extra_info": extra or {}}
    return {"error": error, "node_errors": nodes or {}}
