"""The process that is connected to Ray: `python -m umrgen.server.executors.ray.driver SPEC`.

Reads frames from standard input and writes frames to its original standard output, each about one numbered engine. Ray
ends this process when its head is away for long; the server then starts another one. When its input ends, the server
has ended, and this process ends too; Ray ends its actors.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import Future
from typing import Any

# Ray then does not replace a loopback address by another one of this machine, where a head on loopback does not listen.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray

from umrgen.server.executors.ray.actor import ENGINES_IN_RAY
from umrgen.server.executors.ray.cluster import ClusterWatch, connect
from umrgen.server.executors.ray.security import ClusterRefused
from umrgen.server.executors.ray.spec import RaySpec, checked
from umrgen.server.executors.subprocess.worker import Pipe, ending_with_this
from umrgen.text import printable

__all__ = ["main"]


class _Actor:
    """One engine in the cluster. It ends with its actor or node, or by `kill`."""

    def __init__(self, driver: "_Driver", number: int) -> None:
        self._driver = driver
        self._number = number
        self._handle = ENGINES_IN_RAY.options(**_resources(driver.spec.resources)).remote(driver.spec.engine)
        self._batches = 0
        self._following: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Report whether the engine was loaded, and then how it ended."""
        reason = "its actor ended"
        try:
            async for item in self._handle.live.options(num_returns="streaming").remote():
                self._driver.send(self._number, *checked(await item))
        except Exception as error:  # without its end, the server would wait for this engine without end
            reason = _reason(error)
        self.kill()
        self._driver.send(self._number, {"is": "ended", "error": reason})

    def receive(self, head: dict[str, Any], body: bytes) -> None:
        """Pass a command on to the actor, and follow the batch that it starts."""
        if head["do"] == "draw":
            self._batches += 1
            head["batch"] = self._batches
        self._handle.receive.remote(head, body)
        if head["do"] == "draw":
            task = asyncio.ensure_future(self._follow(head["batch"], len(head["tasks"])))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _follow(self, batch: int, jobs: int) -> None:
        try:
            async for item in self._handle.follow.options(num_returns="streaming").remote(batch, jobs):
                self._driver.send(self._number, *await item)
        except ray.exceptions.RayError:
            self.kill()  # `live` reports it

    def kill(self) -> None:
        ray.kill(self._handle, no_restart=True)


def _resources(needed: Any) -> dict[str, Any]:
    """Return the options of an actor for resources by name. Without a processor, any number of them fit."""
    others = {name: number for name, number in needed.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": needed.get("CPU", 0), "num_gpus": needed.get("GPU", 0), "resources": others}


def _reason(error: Exception) -> str:
    """Return the reason of an end. Ray's own messages have paths."""
    if isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.NodeDiedError):
        return "its actor or node died"
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"its actor raised {type(error.cause).__name__}"
    if isinstance(error, ray.exceptions.RayError):
        return f"Ray lost its actor ({type(error).__name__})"
    traceback.print_exception(error)
    return f"the connection to its actor failed ({type(error).__name__})"


class _Driver:
    """All engines of one server in the cluster."""

    def __init__(self, spec: RaySpec, pipe: Pipe) -> None:
        self.spec = spec
        self._pipe = pipe
        self._actors: dict[int, _Actor] = {}
        self._living: set[asyncio.Task[None]] = set()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        # The pipe is read by another thread: writing to the server may block the loop, and connecting to Ray too.
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, engine: int, head: dict[str, Any], body: bytes = b"") -> None:
        self._pipe.send(head | {"engine": engine}, body)

    async def run(self) -> None:
        """Execute commands until the cluster is gone. Raises ClusterRefused."""
        self._loop.set_result(asyncio.get_running_loop())
        watch = ClusterWatch()
        while True:
            for line in await watch.changes():
                self._pipe.send({"is": "note", "text": line})

    def _listen(self) -> None:
        with ending_with_this():
            while True:
                head, body = self._pipe.receive()
                self._loop.result().call_soon_threadsafe(self._execute, head, body)

    def _execute(self, head: dict[str, Any], body: bytes) -> None:
        number, actor = head["engine"], self._actors.get(head["engine"])
        if head["do"] == "open":
            self._open(number)
        elif actor is not None and head["do"] == "close":
            actor.kill()
        elif actor is not None:
            actor.receive(head, body)

    def _open(self, number: int) -> None:
        """Create an actor, or report that Ray has refused it."""
        try:
            actor = self._actors[number] = _Actor(self, number)
        except Exception as error:
            self.send(number, {"is": "ended", "error": _reason(error)})
            return
        task = asyncio.ensure_future(actor.live())
        self._living.add(task)
        task.add_done_callback(lambda task: self._forget(number, task))

    def _forget(self, number: int, task: "asyncio.Task[None]") -> None:
        del self._actors[number]
        self._living.discard(task)
        task.result()


def main() -> None:
    # Ctrl-C and a service manager's SIGTERM reach the whole group. The server handles them, and stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Pipe.standard()
    spec = RaySpec.from_json(sys.argv[1])
    driver = _Driver(spec, pipe)
    try:
        ports = connect(spec.address)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # after Ray has set its own handler
        pipe.send({"is": "connected", "text": ports})
        asyncio.run(driver.run())
    except ClusterRefused as refused:
        pipe.send({"is": "refused", "error": str(refused)})
    except Exception as error:
        pipe.send({"is": "refused", "error": printable(f"Ray failed: {type(error).__name__}")})
        raise
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
