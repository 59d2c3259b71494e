"""The routes of the fake."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fake_comfyui.execution import Execution
from fake_comfyui.nodes import describe

VERSIONS = {"0.3": "0.3.30", "0.8": "0.8.2", "0.38": "0.38.1"}


class Routes:
    """The handlers."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    async def system_stats(self, request: Request) -> Response:
        system = {"os": "posix", "comfyui_version": VERSIONS[self._execution.generation], "ram_total": 1 << 34}
        return JSONResponse({"system": system, "devices": [{"name": "cuda:0", "type": "cuda", "vram_total": 1 << 34}]})

    async def object_info(self, request: Request) -> Response:
        execution, name = self._execution, request.path_params.get("name")
        classes = [c for c in execution.classes() if name in (None, c)]
        return JSONResponse({c: describe(c, execution.generation, execution.images()) for c in classes})

    async def prompt(self, request: Request) -> Response:
        execution = self._execution
        try:
            body = await request.json()
            if not isinstance(body["prompt"], dict):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            return PlainTextResponse("500 Internal Server Error", 500)
        await execution.point("submit")
        status, answer = execution.submit(body)
        if status == 200 and execution.loses_responses:
            execution.loses_responses -= 1
            return StreamingResponse(_broken(), headers={"content-length": "1000"})
        return JSONResponse(answer, status)

    async def queue(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(self._execution.queue())
        self._execution.delete((await request.json()).get("delete", []))
        return Response()

    async def history(self, request: Request) -> Response:
        entries, wanted = self._execution.history, request.path_params.get("id")
        if wanted is not None:
            return JSONResponse({wanted: entries[wanted]} if wanted in entries else {})
        last = list(entries)[-int(request.query_params.get("max_items", 10000)) :]
        return JSONResponse({prompt_id: entries[prompt_id] for prompt_id in last})

    async def interrupt(self, request: Request) -> Response:
        body = await request.body()
        self._execution.interrupt(json.loads(body) if body else {})
        return Response()

    async def free(self, request: Request) -> Response:
        self._execution.freed.append(await request.json())
        return Response()

    async def view(self, request: Request) -> Response:
        query = request.query_params
        if ".." in query["filename"]:
            return Response(status_code=400)
        data = self._execution.files.get((query.get("type", "output"), query.get("subfolder", ""), query["filename"]))
        missing = data is None or self._execution.missing_files
        return Response(status_code=404) if missing else Response(data, media_type="image/png")

    async def upload(self, request: Request) -> Response:
        async with request.form() as form:
            image, folder = form["image"], form.get("subfolder", "")
            assert isinstance(image, UploadFile)
            data, name = await image.read(), image.filename or ""
        while self._execution.uploads.get(f"{folder}/{name}".lstrip("/"), data) != data:
            name = f"(1){name}"
        self._execution.uploads[f"{folder}/{name}".lstrip("/")] = data
        return JSONResponse({"name": name, "subfolder": folder, "type": "input"})

    async def job(self, request: Request) -> Response:
        execution, wanted = self._execution, request.path_params["id"]
        if execution.generation == "0.3":
            return PlainTextResponse("404: Not Found", 404)
        queue = execution.queue()
        states = {item[1]: "in_progress" for item in queue["queue_running"]}
        states |= {item[1]: "pending" for item in queue["queue_pending"]}
        for prompt_id, entry in execution.history.items():
            states[prompt_id] = "completed" if entry["status"]["completed"] else "failed"
        states |= dict.fromkeys(execution.cancelled, "cancelled")
        if wanted not in states:
            return JSONResponse({"error": "Job not found"}, 404)
        return JSONResponse({"id": wanted, "status": states[wanted]})

    async def cancel(self, request: Request) -> Response:
        if self._execution.generation != "0.38":
            return PlainTextResponse("405: Method Not Allowed", 405)  # its static files have a route for each GET
        return JSONResponse({"cancelled": self._execution.cancel(request.path_params["id"])})

    async def socket(self, socket: WebSocket) -> None:
        execution = self._execution
        if execution.refuses_sockets:
            await socket.close(1008)
            return
        await socket.accept()
        sid = socket.query_params.get("clientId") or "no-id"
        execution.sockets[sid] = socket
        execution.flags[sid] = {}
        await execution.send("status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": sid}, sid)
        if execution.last_client == sid and execution.last_node is not None:
            await execution.send("executing", {"node": execution.last_node}, sid)
        try:
            while True:
                message = json.loads(await socket.receive_text())
                if message.get("type") == "feature_flags" and execution.generation != "0.3":
                    execution.flags[sid] = message["data"]
                    await execution.send("feature_flags", {"supports_preview_metadata": True}, sid)
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            execution.sockets.pop(sid, None)


async def _broken() -> AsyncIterator[bytes]:
    yield b"{"
    raise ConnectionError("the test closes this connection")


class Recorder:
    """Records each request, and responds with a body of the test to some of them."""

    def __init__(self, app: Any, execution: Execution) -> None:
        self._app = app
        self._execution = execution

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http":
            self._execution.requests.append(f"{scope['method']} {path}")
            headers = dict(scope["headers"])
            if headers.get(b"origin", b"null") != b"null":
                await Response(status_code=403)(scope, receive, send)
                return
            for start, body in self._execution.broken.items():
                if path.startswith(start):
                    await Response(body, media_type="application/json")(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def make_app(execution: Execution) -> Any:
    routes = Routes(execution)
    listed = [
        ("/system_stats", routes.system_stats, ["GET"]),
        ("/object_info", routes.object_info, ["GET"]),
        ("/object_info/{name}", routes.object_info, ["GET"]),
        ("/prompt", routes.prompt, ["POST"]),
        ("/queue", routes.queue, ["GET", "POST"]),
        ("/history", routes.history, ["GET"]),
        ("/history/{id}", routes.history, ["GET"]),
        ("/interrupt", routes.interrupt, ["POST"]),
        ("/free", routes.free, ["POST"]),
        ("/view", routes.view, ["GET"]),
        ("/upload/image", routes.upload, ["POST"]),
    ]
    made: list[Any] = [
        Route(prefix + path, handler, methods=methods) for path, handler, methods in listed for prefix in ("", "/api")
    ]
    made += [
        Route("/api/jobs/{id}", routes.job, methods=["GET"]),
        Route("/api/jobs/{id}/cancel", routes.cancel, methods=["POST"]),
        WebSocketRoute("/ws", routes.socket),
    ]
    return Recorder(Starlette(routes=made), execution)
