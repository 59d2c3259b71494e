"""An sd-server for tests, as the real one responds; in this process, or as a program with the same options.

As a program it is started with `--model FILE --listen-ip IP --listen-port PORT`. A job waits at the status that
`hold` names, until the test calls `release`. Some prompts have an effect: `refuse`, `fail`, `oom` and `many`.
"""

import argparse
import json
import os
import sys
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image

FAILURES = {
    "fail": "generate_image returned no results",  # the real one has this message for each failure
    "path": "cannot open '/root/model.gguf'",
    "oom": "ggml: failed to allocate: out of memory",
}
CAPABILITIES = {
    "model": {"name": "z_image_turbo-Q4_K.gguf", "stem": "z_image_turbo-Q4_K", "path": "/root/z_image.gguf"},
    "current_mode": "img_gen",
    "supported_modes": ["img_gen"],
    "defaults_by_mode": {"img_gen": {"sample_params": {"sample_steps": 8, "guidance": {"txt_cfg": 4.0}}}},
    "features_by_mode": {"img_gen": {"ref_images": True, "lora": True, "cancel_generating": False}},
    "loras": [{"name": "ink", "path": "style/ink.safetensors"}],
    "limits": {"min_width": 64, "max_width": 4096, "min_height": 64, "max_height": 4096, "max_queue_size": 2},
}


class FakeSdServer:
    """A `with` block in which the server runs."""

    def __init__(self, port: int = 0) -> None:
        self.hold = ""
        """The status in which jobs wait: "queued" or "generating"; "": none."""
        self.full = 0
        """Submits that are refused because the queue is full."""
        self.broken: dict[str, bytes] = {}
        """Bodies to respond with, by the start of the path."""
        self.requests: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.cancels: list[str] = []
        """The jobs that a client has tried to cancel. One that is drawn goes on."""
        self.reached = threading.Event()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeSdServer":
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.01)

    def release(self) -> None:
        self.hold = ""
        self._released.set()

    def _wait(self, status: str) -> None:
        if self.hold == status:
            self.reached.set()
            self._released.wait(30)

    # --- jobs ---

    def submit(self, request: dict[str, Any]) -> tuple[int, Any]:
        if self.full:
            self.full -= 1
            return 429, {"error": "job queue is full"}
        if request["prompt"] == "refuse":
            return 400, {"error": "invalid generation parameters in /root/sd"}
        self.requests.append(request)
        job = {"id": f"job_{len(self.requests)}", "kind": "img_gen", "status": "queued", "result": None, "error": None}
        self.jobs[job["id"]] = job
        threading.Thread(target=self._run, args=[job, request], daemon=True).start()
        return 202, {"id": job["id"], "kind": "img_gen", "status": "queued", "poll_url": f"/sdcpp/v1/jobs/{job['id']}"}

    def _run(self, job: dict[str, Any], request: dict[str, Any]) -> None:
        for status in ("queued", "generating"):
            if job["status"] == "cancelled":
                return
            job["status"] = status
            self._wait(status)
        if job["status"] == "cancelled":
            return
        if request["prompt"] == "crash":
            os._exit(3)
        if message := FAILURES.get(request["prompt"]):
            job |= {"status": "failed", "error": {"code": "generation_failed", "message": message}}
            return
        count = 9 if request["prompt"] == "many" else request["batch_count"]
        images = [{"index": index, "b64_json": _png(request)} for index in range(count)]
        job |= {"result": {"output_format": "png", "images": images[::-1]}, "status": "completed"}

    def cancel(self, job_id: str) -> tuple[int, Any]:
        job = self.jobs.get(job_id)
        if job is None:
            return 404, {"error": "job not found"}
        self.cancels.append(job_id)
        if job["status"] == "generating":
            return 409, {"error": "job is currently generating and cannot be interrupted yet"}
        if job["status"] != "queued":
            return 200, job
        job |= {"status": "cancelled", "error": {"code": "cancelled", "message": "job cancelled by client"}}
        return 200, job


class _Handler(BaseHTTPRequestHandler):
    fake: FakeSdServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/sdcpp/v1/capabilities":
            self._answer(200, CAPABILITIES)
        else:
            job = self.fake.jobs.get(self.path.rpartition("/")[2])
            self._answer(200 if job else 404, job or {"error": "job not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/sdcpp/v1/img_gen":
            self._answer(*self.fake.submit(json.loads(body)))
        else:
            self._answer(*self.fake.cancel(self.path.split("/")[-2]))

    def _answer(self, status: int, content: Any) -> None:
        broken = next((body for start, body in self.fake.broken.items() if self.path.startswith(start)), None)
        body = json.dumps(content).encode() if broken is None else broken
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Write no log."""


def _png(request: dict[str, Any]) -> str:
    encoded = BytesIO()
    Image.new("RGB", (request["width"], request["height"]), (request["seed"] % 256, 9, 9)).save(encoded, "PNG")
    return b64encode(encoded.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--diffusion-model", "--vae", "--lora-model-dir", "--listen-ip"):
        parser.add_argument(name)
    parser.add_argument("--listen-port", type=int, required=True)
    options = parser.parse_args()
    if options.model and options.model.endswith("broken.gguf"):
        sys.exit(7)
    FakeSdServer(options.listen_port).serve()


if __name__ == "__main__":
    main()
