"""ComfyUI's HTTP routes and its WebSocket. No other module uses them."""

import logging
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.comfyui import answers
from umrgen.server.engines.comfyui.answers import Accepted, Event, HistoryEntry, NodeInfo, OutputFile, QueueEntry
from umrgen.server.engines.remote_http import RemoteHttp, ResponseLost

__all__ = ["ComfyClient", "PromptRefused"]

log = logging.getLogger(__name__)

LARGEST_IMAGE = 128 << 20
"""Bytes."""
LARGEST_MESSAGE = 8 << 20
"""Bytes of a message of the WebSocket, of which the previews are the largest."""
TRANSFER_FACTOR = 4
"""Deadlines of an image, in deadlines of another call."""
PREVIEWS = {"preview_method": "auto"}
"""Without it, versions that know it send no previews unless they were started with `--preview-method`."""
UPLOAD_FOLDER = "umrgen"
"""The folder for reference images in ComfyUI's folder `input`."""


class PromptRefused(EngineFailure):
    """ComfyUI refused the prompt. The message has the node's id, and no path."""


class ComfyClient:
    """The client of one ComfyUI server."""

    def __init__(self, url: str, timeout: float) -> None:
        """`url` is the base URL; `timeout` the deadline of a call in seconds."""
        self.url = url
        self._http = RemoteHttp(url, timeout, "ComfyUI")

    async def close(self) -> None:
        await self._http.close()

    # --- the state of the server ---

    async def version(self) -> str:
        return self._http.parse(answers.version, await self._get("/system_stats"))

    async def node_info(self, class_type: str) -> NodeInfo | None:
        body = await self._get(f"/object_info/{quote(class_type, safe='')}")
        return self._http.parse(partial(answers.node_info, class_type=class_type), body)

    # --- prompts ---

    async def queue(self) -> tuple[QueueEntry, ...]:
        return self._http.parse(answers.queue, await self._get("/queue"))

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """Return the prompt's end, None while it is unknown, pending or running."""
        found = self._http.parse(answers.history, await self._get(f"/history/{quote(prompt_id, safe='')}"))
        return next((entry for entry in found if entry.prompt_id == prompt_id), None)

    async def recent(self, limit: int) -> tuple[HistoryEntry, ...]:
        """Return the last `limit` prompts that have ended."""
        return self._http.parse(answers.history, await self._get("/history", {"max_items": str(limit)}))

    async def submit(self, graph: Mapping[str, Any], prompt_id: str) -> Accepted:
        """Queue a prompt under this id, which is the client id of its events as well. Raises PromptRefused."""
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": prompt_id, "extra_data": PREVIEWS}
        status, answer = await self._http.call("POST", "/prompt", content=msgspec.json.encode(body))
        if status == 200:
            return self._http.parse(answers.accepted, answer)
        if status == 400:
            raise _refused(self._http.parse(answers.refusal, answer))
        raise ResponseLost(f"ComfyUI answered {status} to a prompt")

    async def cancel(self, prompt_id: str) -> bool:
        """Cancel a prompt in any state. Return False for a version without this route."""
        status, body = await self._http.call("POST", f"/api/jobs/{quote(prompt_id, safe='')}/cancel", content=b"{}")
        if status == 200:
            self._http.parse(answers.cancelled, body)
        return status == 200

    async def remove_pending(self, prompt_id: str) -> None:
        """Remove a pending prompt; no effect on another one."""
        await self._http.call("POST", "/queue", content=msgspec.json.encode({"delete": [prompt_id]}))

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs. Without an id, ComfyUI would interrupt any prompt."""
        await self._http.call("POST", "/interrupt", content=msgspec.json.encode({"prompt_id": prompt_id}))

    async def free(self) -> None:
        """Unload the models, when no prompt runs; the next prompt loads them again."""
        await self._http.call("POST", "/free", content=b'{"unload_models":true,"free_memory":true}')

    # --- files ---

    async def view(self, file: OutputFile) -> bytes | None:
        """Return a file that a node wrote, None if it was deleted."""
        names = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        status, body = await self._http.call(
            "GET", "/view", params=names, limit=LARGEST_IMAGE, patience=TRANSFER_FACTOR
        )
        if status == 404:
            return None
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} instead of an image")
        return body

    async def upload(self, name: str, data: bytes, media_type: str) -> str:
        """Upload a reference image; return its name for LoadImage."""
        status, body = await self._http.call(
            "POST",
            "/upload/image",
            files={"image": (name, data, media_type)},
            data={"type": "input", "subfolder": UPLOAD_FOLDER},
            patience=TRANSFER_FACTOR,
        )
        if status == 413:
            raise EngineFailure("a reference image is larger than ComfyUI accepts (--max-upload-size)")
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} to a reference image")
        return self._http.parse(answers.uploaded, body)

    # --- events ---

    async def events(self, client_id: str) -> AsyncIterator[Event | None]:
        """Yield None when connected, then the events of this client's prompts; return when the connection ends."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        try:
            connection = connect(
                self._socket_url(client_id), proxy=None, compression=None, max_size=LARGEST_MESSAGE, close_timeout=1
            )
            async with connection as socket:
                await socket.send(msgspec.json.encode(flags).decode())
                yield None
                async for message in socket:
                    if parsed := _event(message):
                        yield parsed
        except (OSError, TimeoutError, WebSocketException) as error:
            log.info("the WebSocket of ComfyUI was closed: %s", type(error).__name__)

    def _socket_url(self, client_id: str) -> str:
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/ws", f"clientId={client_id}", ""))

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        status, body = await self._http.call("GET", path, params=params)
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} to {path.split('/')[1]}")
        return body


def _event(message: str | bytes) -> Event | None:
    try:
        return answers.preview(message) if isinstance(message, bytes) else answers.event(message)
    except (ValueError, RecursionError):
        log.info("a message of ComfyUI is not as expected")
        return None


def _refused(reason: "tuple[answers.NodeError, ...] | str") -> PromptRefused:
    text = reason if isinstance(reason, str) else "; ".join(map(str, reason[:3]))
    return PromptRefused(f"ComfyUI refuses the workflow: {text}")
