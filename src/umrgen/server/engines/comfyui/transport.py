"""ComfyUI's HTTP routes and its WebSocket. No other module uses them.

Connections are direct: proxies of the environment are ignored, and redirects are not followed. Each response has a
largest size and each call a deadline.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import httpx2
import msgspec

from umrgen.server.engines import EngineCrashed, EngineFailure
from umrgen.server.engines.comfyui import answers
from umrgen.server.engines.comfyui.answers import Accepted, Event, HistoryEntry, NodeInfo, OutputFile, QueueEntry

__all__ = ["ComfyClient", "PromptRefused", "ResponseLost", "ServerUnreachable"]

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
LARGEST_RESPONSE = 64 << 20
"""Bytes of JSON: `/queue` has the graph of every pending prompt."""
LARGEST_IMAGE = 256 << 20
"""Bytes."""
LARGEST_MESSAGE = 32 << 20
"""Bytes of a message of the WebSocket, of which the previews are the largest."""
CONNECT_TIMEOUT = 5.0
"""Seconds."""
TRANSFER_FACTOR = 4
"""Deadlines of an image, in deadlines of another call."""
UPLOAD_FOLDER = "umrgen"
"""The folder for reference images in ComfyUI's folder `input`."""


class ServerUnreachable(EngineCrashed):
    """No connection could be opened: the request was not sent."""


class ResponseLost(EngineCrashed):
    """The request was sent, perhaps, and no complete response arrived."""


class PromptRefused(EngineFailure):
    """ComfyUI refused the prompt. The message has the node's id, and no path."""


class ComfyClient:
    """The client of one ComfyUI server."""

    def __init__(self, url: str, timeout: float) -> None:
        """`url` is the base URL; `timeout` the deadline of a call in seconds."""
        self.url = url
        self._timeout = timeout
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._http = httpx2.AsyncClient(
            base_url=url, timeout=limits, trust_env=False, headers={"Accept-Encoding": "identity"}
        )

    async def close(self) -> None:
        await self._http.aclose()

    # --- the state of the server ---

    async def version(self) -> str:
        return self._parse(answers.version, await self._get("/system_stats"))

    async def node_info(self, class_type: str) -> NodeInfo | None:
        body = await self._get(f"/object_info/{quote(class_type, safe='')}")
        try:
            return answers.node_info(body, class_type)
        except ValueError as error:
            raise self._invalid(error) from None

    # --- prompts ---

    async def queue(self) -> tuple[QueueEntry, ...]:
        return self._parse(answers.queue, await self._get("/queue"))

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """Return the prompt's end, None while it is unknown, pending or running."""
        found = self._parse(answers.history, await self._get(f"/history/{quote(prompt_id, safe='')}"))
        return next((entry for entry in found if entry.prompt_id == prompt_id), None)

    async def recent(self, limit: int) -> tuple[HistoryEntry, ...]:
        """Return the last `limit` prompts that have ended."""
        return self._parse(answers.history, await self._get("/history", {"max_items": str(limit)}))

    async def submit(self, graph: Mapping[str, Any], prompt_id: str) -> Accepted:
        """Queue a prompt under this id, which is the client id of its events as well. Raises PromptRefused."""
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": prompt_id}
        status, answer = await self._call("POST", "/prompt", content=msgspec.json.encode(body))
        if status == 200:
            return self._parse(answers.accepted, answer)
        if status == 400:
            raise _refused(self._parse(answers.refusal, answer))
        raise ResponseLost(f"ComfyUI answered {status} to a prompt")

    async def cancel(self, prompt_id: str) -> bool:
        """Cancel a prompt in any state. Return False for a version without this route."""
        status, body = await self._call("POST", f"/api/jobs/{prompt_id}/cancel", content=b"{}")
        if status == 200:
            self._parse(answers.cancelled, body)
        return status == 200

    async def remove_pending(self, prompt_id: str) -> None:
        """Remove a pending prompt; no effect on another one."""
        await self._call("POST", "/queue", content=msgspec.json.encode({"delete": [prompt_id]}))

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs. Without an id, ComfyUI would interrupt any prompt."""
        await self._call("POST", "/interrupt", content=msgspec.json.encode({"prompt_id": prompt_id}))

    async def free(self) -> None:
        """Unload the models, when no prompt runs; the next prompt loads them again."""
        await self._call("POST", "/free", content=b'{"unload_models":true,"free_memory":true}')

    # --- files ---

    async def view(self, file: OutputFile) -> bytes | None:
        """Return a file that a node wrote, None if it was deleted."""
        names = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        status, body = await self._call("GET", "/view", params=names, limit=LARGEST_IMAGE)
        if status == 404:
            return None
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} instead of an image")
        return body

    async def upload(self, name: str, data: bytes, media_type: str) -> str:
        """Upload a reference image; return its name for LoadImage."""
        status, body = await self._call(
            "POST",
            "/upload/image",
            files={"image": (name, data, media_type)},
            data={"type": "input", "subfolder": UPLOAD_FOLDER},
        )
        if status == 413:
            raise EngineFailure("a reference image is larger than ComfyUI accepts (--max-upload-size)")
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} to a reference image")
        return self._parse(answers.uploaded, body)

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

    # --- HTTP ---

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        status, body = await self._call("GET", path, params=params)
        if status != 200:
            raise ResponseLost(f"ComfyUI answered {status} to {path.split('/')[1]}")
        return body

    async def _call(
        self, method: str, path: str, *, limit: int = LARGEST_RESPONSE, content: bytes | None = None, **arguments: Any
    ) -> tuple[int, bytes]:
        """Return the status and the body of a response. Raises ServerUnreachable and ResponseLost."""
        deadline = self._timeout * (TRANSFER_FACTOR if limit > LARGEST_RESPONSE or "files" in arguments else 1)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            async with (
                asyncio.timeout(deadline),
                self._http.stream(method, path, content=content, headers=headers, **arguments) as response,
            ):
                return response.status_code, await _read(response, limit)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise ServerUnreachable("ComfyUI does not respond") from None
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ResponseLost(f"the connection to ComfyUI failed: {type(error).__name__}") from None

    def _parse(self, parser: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        try:
            return parser(body)
        except ValueError as error:
            raise self._invalid(error) from None

    def _invalid(self, error: ValueError) -> ResponseLost:
        log.warning("a response of ComfyUI is not as expected: %s", type(error).__name__)
        return ResponseLost("a response of ComfyUI is not as expected: is it ComfyUI, and a version from 0.3 on?")


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """Return the body of a response. Raises ResponseLost for one that is too large or compressed."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ResponseLost("a response of ComfyUI is compressed, although that was not requested")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise ResponseLost(f"a response of ComfyUI is larger than {limit >> 20} MiB")
    return bytes(body)


def _event(message: str | bytes) -> Event | None:
    try:
        return answers.preview(message) if isinstance(message, bytes) else answers.event(message)
    except ValueError:
        log.info("a message of ComfyUI is not as expected")
        return None


def _refused(reason: "tuple[answers.NodeError, ...] | str") -> PromptRefused:
    text = reason if isinstance(reason, str) else "; ".join(map(str, reason[:3]))
    return PromptRefused(f"ComfyUI refuses the workflow: {text}")
