"""FaultServers for tests in another language: commands as JSON lines on stdin, responses on stdout.

    {"start": {"mode": "legacy", "job_seconds": 0.1}}         → {"server": 0, "url": …, "key": …}
    {"server": 0, "on": "GET /outputs/*", "answers": [["Cut", {"share": 0.5}]], "times": null}
    {"server": 0, "refuse": 0.5} · {"server": 0, "restart": true}
    {"server": 0, "seen": true}                               → {"requests": […], "jobs": […], "connections": …}

An `image` is base64, or the size of a PNG. The process stops its servers and ends when stdin is closed.
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
"""The changes of a body that a Tamper can make, by name."""


def fault(kind: str, options: Json) -> Any:
    if "change" in options:
        options = options | {"change": CHANGES[options["change"]]}
    return getattr(testing, kind)(**options)


def start(stack: ExitStack, options: Json) -> FaultServer:
    if isinstance(options.get("image"), str):
        options = options | {"image": base64.b64decode(options["image"])}
    elif isinstance(options.get("image"), int):
        options = options | {"image": testing.png_bytes(options["image"])}
    if isinstance(options.get("fail"), dict):
        options = options | {"fail": {int(index): code for index, code in options["fail"].items()}}
    return stack.enter_context(FaultServer(**options))


def seen(server: FaultServer) -> Json:
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
    jobs = [{"id": job.id, "state": job.state, "request": job.request} for job in server.jobs]
    return {"requests": requests, "jobs": jobs, "connections": server.connections}


def execute(servers: list[FaultServer], stack: ExitStack, command: Json) -> Json:
    if "start" in command:
        servers.append(start(stack, command["start"]))
        return {"server": len(servers) - 1, "url": servers[-1].url, "key": servers[-1].key}
    server = servers[command["server"]]
    match command:
        case {"on": pattern, "answers": answers}:
            server.on(pattern, *[fault(*answer) for answer in answers], times=command.get("times", 1))
        case {"refuse": seconds}:
            server.refuse(seconds)
        case {"restart": True}:
            server.restart()
        case {"seen": True}:
            return seen(server)
    return {}


def main() -> None:
    servers: list[FaultServer] = []
    with ExitStack() as stack:
        for line in sys.stdin:
            print(json.dumps(execute(servers, stack, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
