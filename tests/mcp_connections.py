"""Connections of the official Python client of MCP to the tools for agents. `options` are those of its `Client`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from support import ServerProcess, clean_environment


@asynccontextmanager
async def over_http(server: ServerProcess, mode: str, key: str = "", **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key or server.key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode, **options) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(url: str, key: str, folder: Path, mode: str, **options: Any) -> AsyncIterator[Client]:
    environment = clean_environment(UMRGEN_BASE_URL=url, UMRGEN_API_KEY=key)
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "umrgen", "mcp", "--folder", str(folder)], env=environment
    )
    async with Client(command, mode=mode, **options) as client:
        yield client


@asynccontextmanager
async def connected(
    server: ServerProcess, transport: str, mode: str, folder: Path, **options: Any
) -> AsyncIterator[Client]:
    if transport == "http":
        made = over_http(server, mode, **options)
    else:
        made = over_stdio(server.url, server.key, folder, mode, **options)
    async with made as client:
        yield client
