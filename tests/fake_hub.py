"""A fake of the hub's HTTP interface, as far as `huggingface_hub` uses it to download one revision of a model.

with FakeHub({"org/model": folder}) as hub: ...    # HF_ENDPOINT=hub.url
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

__all__ = ["FakeHub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files of folders as models, each at one commit; `requests` are the paths that were requested."""

    def __init__(self, models: Mapping[str, Path]) -> None:
        hub, self.requests = self, []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._respond(True)

            def do_HEAD(self) -> None:
                self._respond(False)

            def _respond(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                body, headers = hub._response(self.path.partition("?")[0].strip("/"))
                self.send_response(404 if body is None else 200)
                for name, value in (headers | {"Content-Length": str(len(body or b""))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body and body:
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Print nothing."""

        self._models = models
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _response(self, path: str) -> tuple[bytes | None, dict[str, str]]:
        for name, folder in self._models.items():
            if path in (f"api/models/{name}", f"api/models/{name}/revision/main"):
                return self._information(name, folder), {"Content-Type": "application/json"}
            start = f"{name}/resolve/{COMMIT}/"
            if path.startswith(start) and (folder / path.removeprefix(start)).is_file():
                data = (folder / path.removeprefix(start)).read_bytes()
                return data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return None, {"X-Error-Code": "RepoNotFound"}

    def _information(self, name: str, folder: Path) -> bytes:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings = [{"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size} for path in files]
        return json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "private": False}).encode()
