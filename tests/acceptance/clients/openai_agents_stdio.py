"""`openai-agents` starts `umrgen mcp`, with its own time limit of a request, which is 5 s."""

import asyncio
from collections.abc import Mapping
from typing import Any

from agents.mcp import MCPServerStdio
from mcp.shared.exceptions import MCPError
from mcp.types import REQUEST_TIMEOUT

from agent import SETTINGS, draw


async def main() -> None:
    command, *arguments = SETTINGS["command"]
    async with MCPServerStdio({"command": command, "args": arguments, "env": SETTINGS["env"]}) as server:
        await server.list_tools()

        async def call(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
            try:
                result = await server.call_tool(name, dict(given))
            except MCPError as error:
                if error.code == REQUEST_TIMEOUT:
                    raise TimeoutError from error
                raise
            assert not result.is_error, result.content
            return result.structured_content or {}

        await draw(call)


asyncio.run(main())
