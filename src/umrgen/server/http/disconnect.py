"""A client's disconnect ends the handler of its request."""

import asyncio

from starlette.types import Receive, Scope

__all__ = ["CancelledOnDisconnect", "was_disconnected"]

_DISCONNECTED = "umrgen.disconnected"


class CancelledOnDisconnect:
    """A context that cancels the current task when the client disconnects. The body must have been read.

    For handlers that wait. The CancelledError is for the outermost middleware, which ends the request without a
    response. Thousands of these may exist at a time, so they are small.
    """

    __slots__ = ("_listener", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._listener = asyncio.get_running_loop().create_task(self._listen(task))

    def __exit__(self, *_: object) -> None:
        self._listener.cancel()

    async def _listen(self, task: "asyncio.Task[object]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._scope["state"][_DISCONNECTED] = True
        task.cancel()


def was_disconnected(scope: Scope) -> bool:
    """Return whether the client of this request disconnected while its handler waited."""
    return _DISCONNECTED in scope["state"]
