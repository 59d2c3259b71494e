"""Whether a ComfyUI runs at its default address on this machine."""

import json
from contextlib import suppress
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

__all__ = ["DEFAULT_URL", "is_there"]

DEFAULT_URL = "http://127.0.0.1:8188"
SECONDS = 0.5
MOST_BYTES = 1 << 16


def is_there(url: str = DEFAULT_URL) -> bool:
    """Return whether a ComfyUI answers at `url` within half a second."""
    with suppress(OSError, HTTPException, ValueError, LookupError, TypeError):
        opener = build_opener(ProxyHandler({}))
        with opener.open(f"{url}/system_stats", timeout=SECONDS) as response:
            system = json.loads(response.read(MOST_BYTES))["system"]
            return isinstance(system, dict) and "comfyui_version" in system
    return False
