"""`/mcp`: the tools over HTTP, for callers with an API key. Switched on by the setting `mcp`.

The SDK's own guard needs an OAuth issuer; here each request is authenticated as every other of the API. The tools
themselves are those of `umrgen mcp`, over the services instead of the client.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from umrgen.errors import UmrgenError
from umrgen.mcp.answers import error_line
from umrgen.mcp.tasks import RequestContext
from umrgen.mcp.tools import ImageTools
from umrgen.model import Status
from umrgen.server.domain.job import Job
from umrgen.server.http import Services
from umrgen.server.http.api.schemas import check_values, decode_generate
from umrgen.server.http.api.status import wire
from umrgen.server.http.api.v1 import capabilities_response
from umrgen.server.http.auth import authenticate
from umrgen.server.http.bodies import read_body
from umrgen.server.http.guide import request_base_url
from umrgen.server.http.problems import Problem, to_problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import JobView
from umrgen.server.services.refusal import Refusal

__all__ = ["McpEndpoint"]

PATH = "/mcp"
MAX_BODY = 256 << 10
"""Bytes of a message: the SDK decodes it on the event loop."""
_CALLER = "umrgen.caller"


class McpEndpoint:
    """An ASGI application for the path `/mcp`; `serve` must run while it handles requests."""

    def __init__(self, services: Services) -> None:
        self._services = services
        tools = ImageTools(self._backend, lambda ctx: _caller(ctx).key.id, _explain)
        self._app = tools.streamable_http_app(
            streamable_http_path=PATH,
            stateless_http=False,  # otherwise the cancellations of older clients do not arrive
            # SecurityMiddleware checks Host and Origin of every request.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=MAX_BODY,
        )
        self._sessions = tools.session_manager

    async def serve(self) -> None:
        """Run the sessions of older clients, until cancelled."""
        async with self._sessions.run():
            await asyncio.Event().wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            caller = await authenticate(self._services, scope, dict(scope["headers"]))
            if scope["method"] == "POST":
                receive = await _checked(scope, receive)
        except Exception as error:
            await to_problem(error).response()(scope, receive, send)
            return
        scope["state"][_CALLER] = caller
        # The SDK lets only the user that opened a session use it.
        scope["user"] = AuthenticatedUser(AccessToken(token=caller.key.id, client_id=caller.key.id, scopes=[]))
        await self._app(scope, receive, send)

    def _backend(self, ctx: RequestContext) -> "ServiceBackend":
        base_url = request_base_url(self._services, _request(ctx))
        return ServiceBackend(self._services, _caller(ctx), base_url)


async def _checked(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that gives the body again, once it was read and has a bounded number of values.

    Raises Problem.
    """
    body = await read_body(Request(scope, receive), MAX_BODY)
    check_values(body)
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _explain(error: Exception) -> str | None:
    """Return the text of an error that a service raised, with its remedy; None for a defect."""
    if not isinstance(error, Problem | UmrgenError):
        return None
    body = to_problem(error).body
    return error_line(body.error, body.next, body.job_id if isinstance(body.job_id, str) else None)


def _caller(ctx: RequestContext) -> Caller:
    caller: Caller = _request(ctx).scope["state"][_CALLER]
    return caller


def _request(ctx: RequestContext) -> Request:
    """Return the HTTP request that carried this call; each has its own caller, also within a session."""
    request: Request | None = ctx.request
    assert request is not None
    return request


class ServiceBackend:
    """Implements `umrgen.mcp.backend.ImageBackend` over the services, for one caller."""

    delivery = "Download the URLs in images with GET; no key is needed. view_image shows a small copy."

    def __init__(self, services: Services, caller: Caller, base_url: str) -> None:
        self._services = services
        self._caller = caller
        self._base_url = base_url

    @asynccontextmanager
    async def attend(self, request: Mapping[str, Any]) -> AsyncIterator[str]:
        generation, _ = decode_generate(dict(request), self._services.state.default_steps)
        async with self._services.submissions.attend(self._caller, [generation]) as jobs:
            yield jobs[0].id

    async def _job(self, job_id: str) -> Job:
        return await self._services.job_waits.find(self._caller, job_id)

    def _status(self, view: JobView) -> Status:
        answer = msgspec.to_builtins(wire(self._services, view))
        status = Status.parse(answer, view.job.id)
        assert status is not None
        return status

    async def watch(self, job_id: str) -> AsyncGenerator[Status, None]:
        waits = self._services.job_waits
        waits.check_stream(self._caller)
        async with aclosing(waits.events(self._caller, await self._job(job_id))) as events:
            async for event in events:
                yield self._status(event.view)

    async def get(self, job_id: str) -> Status:
        return self._status(await self._services.job_waits.view(await self._job(job_id)))

    async def cancel(self, job_id: str) -> Status:
        job = await self._services.cancellations.cancel(self._caller, job_id)
        return self._status(await self._services.job_waits.view(job))

    async def page(self, limit: int) -> Sequence[Mapping[str, Any]]:
        listed, _ = await self._services.job_waits.page(self._caller, limit=limit, before=None)
        jobs = [each.view.job for each in listed]
        return [{"job_id": job.id, "state": job.state.value, "prompt": job.request.prompt} for job in jobs]

    async def deliver(self, status: Status) -> Sequence[str]:
        return [self._base_url + url for url in status.images]

    async def image(self, job_id: str, number: int) -> bytes:
        images = await self._services.outputs.of_job(await self._job(job_id))
        if number > len(images):
            raise Refusal("output_not_found", f"the job has {len(images)} images", job_id=job_id)
        return images[number - 1][1]

    async def describe(self) -> Mapping[str, Any]:
        response = capabilities_response(await self._services.state.capabilities(self._caller))
        return msgspec.json.decode(response.body, type=dict[str, Any])
