"""A server that holds every connection and answers all of them when one sends data: the minimum cost.

    python benchmarks/bare.py BYTES

Prints its port. `server.py waiters` runs it in turns with the real one: its time is the system's share.
"""

import asyncio
import sys
from typing import Any

import uvloop

ANSWER = b'"state":"failed"'.ljust(int(sys.argv[1]))
held: list[Any] = []


class Caller(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        held.append(transport)

    def data_received(self, data: bytes) -> None:
        for transport in held:
            transport.write(ANSWER)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Caller, "127.0.0.1", 0, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
