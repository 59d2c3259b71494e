"""`langchain-mcp-adapters` on `mcp` 1.x.

By default it opens a session, or starts `umrgen mcp`, for each call of a tool; in the mode `session`, there is one
session. It has no time limit of a request: here it gets one. It cancels no call at this limit.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp.shared.exceptions import McpError

from agent import SETTINGS, draw

TIMED_OUT = 408


def connection() -> dict[str, Any]:
    limit = {"session_kwargs": {"read_timeout_seconds": timedelta(seconds=SETTINGS["limit"])}}
    if SETTINGS["transport"] == "stdio":
        command, *arguments = SETTINGS["command"]
        return {"transport": "stdio", "command": command, "args": arguments, "env": SETTINGS["env"], **limit}
    return {
        "transport": "http",
        "url": SETTINGS["url"],
        "headers": {"Authorization": f"Bearer {SETTINGS['key']}"},
        **limit,
    }


async def main() -> None:
    client = MultiServerMCPClient({"umrgen": connection()})  # type: ignore[dict-item]
    if SETTINGS["mode"] != "session":
        await use(await client.get_tools())
        return
    async with client.session("umrgen") as session:
        await use(await load_mcp_tools(session))


async def use(found: list[BaseTool]) -> None:
    tools = {tool.name: tool for tool in found}

    async def call(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        request = {"type": "tool_call", "id": "1", "name": name, "args": dict(given)}
        try:
            message = await tools[name].ainvoke(request)
        except McpError as error:
            if error.error.code == TIMED_OUT:
                raise TimeoutError from error
            raise
        assert message.status == "success", message.content
        answer: Mapping[str, Any] = message.artifact["structured_content"]
        return answer

    await draw(call)


asyncio.run(main())
