"""`umrgen mcp`: the tools over standard input and output, for the server in the settings or an embedded one."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umrgen.client.async_client import AsyncClient
from umrgen.mcp.client_backend import ClientBackend
from umrgen.mcp.tools import ImageTools

if TYPE_CHECKING:
    from umrgen.cli.embedded import EmbeddedServer

__all__ = ["serve"]

OpenServer = Callable[[], AbstractContextManager["EmbeddedServer | None"]]
"""Starts an embedded server; provides None where the settings name a server."""


async def serve(arguments: Mapping[str, Any], folder: Path, open_server: OpenServer) -> None:
    """Serve until the input ends. With the first call of a tool, an `AsyncClient(**arguments)` connects.

    It connects to an embedded server, which starts then, where `open_server` provides one.
    """
    with ExitStack() as stack:
        embedded: EmbeddedServer | None = None

        async def connect() -> AsyncClient:
            nonlocal embedded
            # A server starts in seconds, in which the host's other messages are answered.
            embedded = await asyncio.to_thread(stack.enter_context, open_server())
            if embedded is None:
                return AsyncClient(**arguments)
            return AsyncClient(embedded.url, embedded.key, embedded=embedded.state)

        backend = ClientBackend(connect, folder)
        try:
            await ImageTools(lambda ctx: backend, lambda ctx: "stdio").run_stdio_async()
        finally:
            if embedded is not None:
                embedded.keep = backend.unfinished
            await backend.aclose()
