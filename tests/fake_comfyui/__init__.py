"""A ComfyUI server for tests, of the generation "0.3", "0.8" or "0.38": real HTTP and WebSocket on a free port.

It runs in a thread. A prompt waits at a point that the test names (`pause`), until the test lets it continue; so no
test depends on time. The faults are attributes of `FakeComfyUI`.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn

from fake_comfyui.execution import Execution
from fake_comfyui.routes import make_app

__all__ = ["GENERATIONS", "FakeComfyUI"]

GENERATIONS = ("0.3", "0.8", "0.38")


class FakeComfyUI:
    """A `with` block in which the server runs."""

    def __init__(self, generation: str = "0.38", **faults: Any) -> None:
        assert generation in GENERATIONS
        self._socket = _bound_socket(0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.execution = Execution(generation)
        for name, value in faults.items():
            assert hasattr(self.execution, name), name
            setattr(self.execution, name, value)
        self._server: uvicorn.Server
        self._thread: threading.Thread
        self._loop: asyncio.AbstractEventLoop

    def __enter__(self) -> "FakeComfyUI":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        config = uvicorn.Config(
            make_app(self.execution), ws="websockets-sansio", lifespan="off", log_level="critical", ws_max_size=1 << 20
        )
        self._server = uvicorn.Server(config)
        running = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=[running], daemon=True)
        self._thread.start()
        assert running.wait(20)

    def _serve(self, running: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            worker = asyncio.create_task(self.execution.work())
            self._loop.call_soon(running.set)
            self._socket.listen(100)
            try:
                await self._server.serve(sockets=[self._socket])
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)

        asyncio.run(serve())

    def stop(self) -> None:
        """End the server: connections are closed, and new ones are refused."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()

    def restart(self, between: Callable[[], None] = lambda: None) -> None:
        """Stop the server, and start it on the same port. Queue, history, cache and temporary files are lost."""
        self.stop()
        self.execution.forget()
        between()
        self._socket = _bound_socket(self.port)
        self.start()

    # --- for tests, which run in another thread ---

    def _call(self, action: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(20)

    def wait_paused(self) -> None:
        """Wait until a prompt is at the point that `execution.pause` names."""
        assert self.execution.paused.wait(20), f"no prompt reached {self.execution.pause!r}"

    def resume(self, pause: str = "") -> None:
        """Let the prompt continue, up to the point `pause` if it is not empty."""
        self._call(self.execution.resume(pause))

    def close_sockets(self) -> None:
        self._call(self.execution.close_sockets())

    def delete_images(self) -> None:
        """Delete the files that nodes have written; the cache still names them."""
        self.execution.files.clear()

    @property
    def prompts(self) -> list[str]:
        """The ids of the prompts that were accepted, in their order."""
        return [prompt.prompt_id for prompt in self.execution.accepted]


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only with this protocol
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
