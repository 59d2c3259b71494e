"""Run FaultServers for tests in another language: commands as JSON lines on stdin, results on stdout.

    {"start": {"mode": "legacy", "job_seconds": 0.1}}         → {"server": 0, "url": …, "key": …}
    {"server": 0, "on": "GET /outputs/*", "faults": [["Truncate", {"share": 0.5}]], "times": null}
    {"server": 0, "refuse": 0.5} · {"server": 0, "restart": true}
    {"server": 0, "state": true}                              → {"requests": […], "jobs": […], "connections": …}

An `image` is base64, or the size of a PNG in bytes. The process ends, with all its servers, when stdin ends.
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from umrgen import testing
from umrgen.testing import FaultServer

Json = dict[str, Any]

CHANGES: Mapping[str, Callable[[bytes], bytes]] = {
    "flip": lambda body: body[:-20] + bytes([body[-20] ^ 1]) + body[-19:],
    "halve": lambda body: body[: len(body) // 2],
}
"""What a Tamper may do to a body, by name."""


def _with_image_url(body: bytes, url: str) -> bytes:
    return json.dumps(json.loads(body) | {"image_url": url}).encode()


def fault(kind: str, options: Json) -> Any:
    """Construct a fault; `change` is a name of CHANGES, `image_url` a URL for the status of a completed job."""
    if "image_url" in options:
        url = options["image_url"]
        return testing.Tamper(lambda body: _with_image_url(body, url))
    if "change" in options:
        options = options | {"change": CHANGES[options["change"]]}
    return getattr(testing, kind)(**options)


def start(stack: ExitStack, options: Json) -> FaultServer:
    """Start a server."""
    if isinstance(options.get("image"), str):
        options = options | {"image": base64.b64decode(options["image"])}
    elif isinstance(options.get("image"), int):
        options = options | {"image": testing.png_bytes(options["image"])}
    if isinstance(options.get("fail"), dict):
        options = options | {"fail": {int(index): reason for index, reason in options["fail"].items()}}
    return stack.enter_context(FaultServer(**options))


def state(server: FaultServer) -> Json:
    """Return the server's requests, jobs and number of connections."""
    requests = [
        {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
            "body": base64.b64encode(request.body).decode(),
            "connection": request.connection,
        }
        for request in server.requests
    ]
    jobs = [{"id": job.id, "state": job.state} for job in server.jobs]
    return {"requests": requests, "jobs": jobs, "connections": server.connections}


def execute(servers: list[FaultServer], stack: ExitStack, command: Json) -> Json:
    """Execute one command; return its result."""
    if "start" in command:
        servers.append(start(stack, command["start"]))
        return {"server": len(servers) - 1, "url": servers[-1].url, "key": servers[-1].key}
    server = servers[command["server"]]
    match command:
        case {"on": pattern, "faults": faults}:
            server.on(pattern, *[fault(*one) for one in faults], times=command.get("times", 1))
        case {"refuse": seconds}:
            server.refuse(seconds)
        case {"restart": True}:
            server.restart()
        case {"state": True}:
            return state(server)
    return {}


def main() -> None:
    servers: list[FaultServer] = []
    with ExitStack() as stack:
        for line in sys.stdin:
            print(json.dumps(execute(servers, stack, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
