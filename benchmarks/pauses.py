"""The longest pause of the server's event loop under the worst legal body of each call, from 20 callers at once.

    python benchmarks/pauses.py

It prints rows for docs/benchmarks.md. The server runs on the first core of the machine, the callers on the second.
"""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from rig import CLIENT_CORE, HELD_BY_ONE_JOB, HERE, PinnedServer, run

from support import until

CALLERS = 20
CALLS = 5
"""Calls of each caller."""
BODY = 256 << 10
"""Bytes of the largest JSON body."""
WITHOUT_LIMITS = ("--session-queued", "0", "--session-running", "0", "--a1111", "on")

Call = Callable[[httpx2.Client], httpx2.Response]


class WatchedServer(PinnedServer):
    """A server with a clock on its event loop."""

    command: ClassVar = (sys.executable, str(HERE / "watched.py"))

    def __init__(self, state: Path) -> None:
        self._pauses = state.parent / "pauses.json"
        super().__init__(state, *HELD_BY_ONE_JOB, *WITHOUT_LIMITS, UMRGEN_PAUSES=str(self._pauses))

    def longest_pause(self) -> dict[str, float]:
        """Return the longest pause since the last call of this method, in seconds."""
        self._pauses.unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGUSR1)
        until(self._pauses.exists)
        pause: dict[str, float] = json.loads(self._pauses.read_text())
        return pause


def _filled(value: Mapping[str, Any], unit: str, most: int = BODY) -> bytes:
    """Return a JSON body with a list of `most` copies of `unit`, or of as many as a body may have."""
    start = json.dumps(value)[:-1] + ', "more": ['
    count = min(most, (BODY - len(start) - 2) // (len(unit) + 1))
    return (start + ",".join([unit] * count) + "]}").encode()


def _noise(side: int) -> bytes:
    """Return a PNG file of noise, which does not compress."""
    pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png")
    return encoded.getvalue()


def _posting(path: str, body: bytes) -> Call:
    return lambda http: http.post(path, content=body, headers={"content-type": "application/json"})


def _calls() -> dict[str, Call]:
    """Return each call with its worst legal body."""
    image = _noise(1800)
    small = base64.b64encode(_noise(1024)).decode()
    parts = [("image[]", (f"{number}.png", image[: 64 << 10], "image/png")) for number in range(16)]
    img2img = json.dumps({"prompt": "x", "init_images": [small], "width": 1}).encode()
    many = {"job_ids": [f"ext_{number:032x}" for number in range(1000)]}
    return {
        "submit, a long prompt": _posting("/api/v1/generate", json.dumps({"prompt": "é" * 2000}).encode()),
        "submit, the most values in 256 KiB": _posting("/api/v1/generate", _filled({"prompt": "x"}, "1" * 32)),
        "submit, the most objects": _posting("/api/v1/generate", _filled({"prompt": "x"}, '{"a":[]}', 2600)),
        "submit, 256 KiB of too many values": _posting("/api/v1/generate", _filled({"prompt": "x"}, "0")),
        "batch status of 1,000 ids": _posting("/api/v1/status", json.dumps(many).encode()),
        "a list of 200 jobs": lambda http: http.get("/api/v1/jobs?limit=200"),
        f"upload of {len(image) / 1e6:.0f} MB": lambda http: http.post(
            "/api/v1/upload-reference", files={"file": ("a.png", image, "image/png")}
        ),
        "images/edits with 16 files": lambda http: http.post(
            "/v1/images/edits", data={"prompt": "x", "n": "99"}, files=parts
        ),
        "images/generations, the most values": _posting(
            "/v1/images/generations", _filled({"prompt": "x", "n": 99}, "1" * 32)
        ),
        "sdapi img2img with an image of 4 MB": _posting("/sdapi/v1/img2img", img2img),
        "90 headers of 1 kB": lambda http: http.get(
            "/api/v1/capabilities", headers={f"x-{number}": "a" * 1000 for number in range(90)}
        ),
    }


def pauses(folder: Path) -> None:
    """Measure the longest pause for each call."""
    server = WatchedServer(folder / "state")
    server.start()
    try:
        os.sched_setaffinity(0, {int(CLIENT_CORE)})
        clients = [
            httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=120)
            for _ in range(CALLERS)
        ]
        with ThreadPoolExecutor(CALLERS) as pool:
            for name, call in _calls().items():
                call(clients[0])  # what is loaded on first use
                server.longest_pause()
                found = pool.map(lambda client, call=call: [call(client).status_code for _ in range(CALLS)], clients)
                statuses = sorted({status for some in found for status in some})
                pause = server.longest_pause()
                print(f"| {name} | {statuses} | {1000 * pause['wall']:.0f} ms | {1000 * pause['cpu']:.0f} ms |")
        for client in clients:
            client.close()
    finally:
        server.stop()


if __name__ == "__main__":
    run(__doc__, pauses)
