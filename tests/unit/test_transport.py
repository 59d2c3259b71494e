"""The client's HTTP transport: cancellation closes connections, and redirects are not followed."""

import asyncio
import gc

from umrgen.client.address import Server
from umrgen.client.flow import Options, Step
from umrgen.client.transport import Transport
from umrgen.testing import FaultServer, Redirect, Respond


async def test_a_cancelled_tls_handshake_closes_its_connection() -> None:
    """Garbage collection, which would close it too, is turned off."""
    hello, closed = asyncio.Event(), asyncio.Event()

    async def never_respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        hello.set()
        while await reader.read(4096):
            pass
        closed.set()
        writer.close()

    listening = await asyncio.start_server(never_respond, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    transport = Transport(Server(f"https://127.0.0.1:{port}", None), Options())
    gc.disable()
    try:
        sending = asyncio.create_task(transport.send(Step("GET", "/healthz", {}, None, 0, 60)))
        await hello.wait()
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        async with asyncio.timeout(10):
            await closed.wait()
    finally:
        gc.enable()
        await transport.aclose()
        listening.close()
        await listening.wait_closed()


async def test_a_redirect_is_not_followed() -> None:
    """The transport returns the redirect, and sends no request to its target on the same server."""
    with FaultServer() as server:
        server.on("GET /healthz", Redirect("/elsewhere", 307))
        transport = Transport(Server(server.url, "umr_a-secret"), Options())
        try:
            reply = await transport.send(Step("GET", "/healthz", {}, None, 0.0, 10.0))
        finally:
            await transport.aclose()
        assert (reply.status, reply.headers["location"]) == (307, "/elsewhere")
        assert [request.path for request in server.requests] == ["/healthz"]


async def test_no_cookie_is_stored() -> None:
    """A cookie of a gateway is not sent with the next request, and a cookie that no header can have is no error."""
    with FaultServer() as server:
        server.on("GET /healthz", Respond(200, b"{}", {"Set-Cookie": "a=\xe9; Path=/"}), Respond(200, b"{}"), times=2)
        transport = Transport(Server(server.url, "umr_a-secret"), Options())
        try:
            for _ in range(2):
                await transport.send(Step("GET", "/healthz", {}, None, 0.0, 10.0))
        finally:
            await transport.aclose()
        assert all("cookie" not in request.headers for request in server.requests)
