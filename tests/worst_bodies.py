"""The worst legal body of each call of the server: the largest, the most values, the most parts."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
from PIL import Image

__all__ = ["WorstCall", "worst_calls"]

BODY = 256 << 10
"""Bytes of the largest JSON body."""
BASE = "http://127.0.0.1"
JSON = {"content-type": "application/json"}
MCP = JSON | {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-06-18"}


@dataclass(frozen=True)
class WorstCall:
    """A request."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def _filled(value: Mapping[str, Any], unit: str, most: int = BODY) -> bytes:
    """Return a JSON body with a list of `most` copies of `unit`, or of as many as a body may have."""
    start = json.dumps(value)[:-1] + ', "more": ['
    count = min(most, (BODY - len(start) - 2) // (len(unit) + 1))
    return (start + ",".join([unit] * count) + "]}").encode()


def _noise(side: int) -> bytes:
    """Return a PNG file of noise, which does not compress."""
    pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png", compress_level=0)
    return encoded.getvalue()


def _form(name: str, path: str, **form: Any) -> WorstCall:
    request = httpx2.Request("POST", BASE + path, **form)
    return WorstCall(name, "POST", path, {"content-type": request.headers["content-type"]}, request.read())


def _tool(arguments: Mapping[str, Any], unit: str, most: int = BODY) -> bytes:
    """Return a call of a tool whose arguments are filled."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = b'{"name": "generate_image", "arguments": ' + _filled(arguments, unit, most) + b"}"
    return json.dumps(call)[:-1].encode() + b', "params": ' + params + b"}"


def _json_calls() -> Iterator[WorstCall]:
    submit = "/api/v1/generate"
    bodies = {
        "a long prompt": json.dumps({"prompt": "é" * 2000}).encode(),
        "the most values in 256 KiB": _filled({"prompt": "x"}, "1" * 32),
        "the most objects": _filled({"prompt": "x"}, '{"a":[]}', 2600),
        "256 KiB of too many values": _filled({"prompt": "x"}, "0"),
    }
    for name, body in bodies.items():
        yield WorstCall(f"submit, {name}", "POST", submit, JSON, body)
    many = {"job_ids": [f"ext_{number:032x}" for number in range(1000)]}
    yield WorstCall("batch status of 1,000 ids", "POST", "/api/v1/status", JSON, json.dumps(many).encode())
    images = _filled({"prompt": "x", "n": 99}, "1" * 32)
    yield WorstCall("images/generations, the most values", "POST", "/v1/images/generations", JSON, images)


def _mcp_calls() -> Iterator[WorstCall]:
    bodies = {
        "the most values in 256 KiB": _tool({"prompt": "x"}, "1" * 32, 7500),
        "the most objects": _tool({"prompt": "x"}, '{"a":[]}', 2600),
        "256 KiB of too many values": _tool({"prompt": "x"}, "0"),
        "1 MB of too many values": _tool({"prompt": "x"}, "0").replace(b"]}", b",0" * 390_000 + b"]}", 1),
    }
    for name, body in bodies.items():
        yield WorstCall(f"mcp, {name}", "POST", "/mcp", MCP, body)
    earlier = {name: value for name, value in MCP.items() if name != "mcp-protocol-version"}
    begin = bodies["the most objects"].replace(b"tools/call", b"initialize")
    yield WorstCall("mcp of an earlier client, the most objects", "POST", "/mcp", earlier, begin)


def worst_calls() -> list[WorstCall]:
    """Return the calls, each with its worst body."""
    image = _noise(1800)
    small = base64.b64encode(_noise(1024)).decode()
    parts = [("image[]", (f"{number}.png", image[: 64 << 10], "image/png")) for number in range(16)]
    img2img = json.dumps({"prompt": "x", "init_images": [small, "?"]}).encode()  # refused after it is decoded
    upload = {"file": ("a.png", image, "image/png")}
    long = {f"x-{number}": "a" * 1000 for number in range(90)}
    return [
        *_json_calls(),
        *_mcp_calls(),
        WorstCall("a list of 200 jobs", "GET", "/api/v1/jobs?limit=200", {}, b""),
        _form(f"upload of {len(image) / 1e6:.0f} MB", "/api/v1/upload-reference", files=upload),
        _form("images/edits with 16 files", "/v1/images/edits", data={"prompt": "x", "n": "99"}, files=parts),
        WorstCall("sdapi img2img with an image of 4 MB", "POST", "/sdapi/v1/img2img", JSON, img2img),
        WorstCall("90 headers of 1 kB", "GET", "/api/v1/capabilities", long, b""),
    ]
