"""`umrgen serve` on uvicorn with h11 instead of granian: the same application, through the public `create_app`.

It takes the arguments of the ServerProcess in support.py, and prints what `umrgen serve --json` prints.
"""

import asyncio
import json
import socket
import sys

import click
import uvicorn

from umrgen.cli.serve import serve
from umrgen.server.asgi import create_app
from umrgen.server.implementations import open_keys
from umrgen.server.logs import set_up_logs
from umrgen.server.services.api_keys import NewKey
from umrgen.server.settings import Settings


async def first_key(settings: Settings) -> str | None:
    async with open_keys(settings) as keys:
        return None if await keys.usable() else (await keys.create(NewKey("first")))[0]


def main() -> None:
    context = serve.make_context("serve", sys.argv[2:])
    flags = {name: value for name, value in context.params.items() if name not in ("config", "as_json", "until_eof")}
    settings = Settings.load(flags, {})
    set_up_logs(settings.log_format)
    key = asyncio.run(first_key(settings))
    config = uvicorn.Config(
        create_app(settings),
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with socket.create_server((settings.host, settings.port), backlog=2048) as listener:
        url = f"http://{settings.host}:{listener.getsockname()[1]}"
        click.echo(json.dumps({"url": url, "key": key, "state": str(settings.state), "studio": None}))
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
