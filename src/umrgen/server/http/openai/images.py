"""`POST /v1/images/generations` and `/edits`: the response is the image, so the call lasts until it is drawn.

The response is sent inside `Submissions.attend`: a client whose call is cut off, and repeats it, gets the same image.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from umrgen.model import LIMITS
from umrgen.server.conversion import convert
from umrgen.server.domain.job import Job, Output
from umrgen.server.http import Services
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.api.schemas import read_object
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.forms import boundary_of, read_form
from umrgen.server.http.guide import request_base_url
from umrgen.server.http.openai.errors import error_body, error_response
from umrgen.server.http.openai.requests import ImageCall, decode_call
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller

__all__ = ["routes"]

MAX_BODY = 256 << 10
MAX_IMAGES_BODY = 32 << 20
USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""The clients require it; this server counts no tokens."""

Decode = Callable[[Services, Request, Caller], Awaitable[ImageCall]]


def routes(services: Services) -> list[Route]:
    return [
        Route("/v1/images/generations", _Endpoint(services, _generation, "image_generation"), methods=["POST"]),
        Route("/v1/images/edits", _Endpoint(services, _edit, "image_edit"), methods=["POST"]),
    ]


async def _generation(services: Services, request: Request, caller: Caller) -> ImageCall:
    return decode_call(await read_object(request, MAX_BODY), services.state.default_steps, services.state.models)


async def _edit(services: Services, request: Request, caller: Caller) -> ImageCall:
    """Decode an edit: its images become reference images for this call. Their file names are ignored."""
    boundary = boundary_of(request, "the images in fields `image` or `image[]`")
    with await services.uploads.admit(caller) as reserved:
        parts = await read_form(request, boundary, MAX_IMAGES_BODY)
        images = [part.content for part in parts if part.name in ("image", "image[]")]
        fields = {part.name: part.text for part in parts if part.name not in ("image", "image[]")}
        if "mask" in fields:
            raise Problem("invalid_request", "mask is not supported: the whole image is drawn anew", field="mask")
        if not 1 <= len(images) <= LIMITS.references:
            count = f"image must be given 1 to {LIMITS.references} times; got {len(images)}"
            raise Problem("invalid_request", count, field="image")
        call = decode_call(fields, services.state.default_steps, services.state.models)
        return call.with_references(await services.call_references.add(caller, reserved, images))


class _Endpoint:
    """An ASGI endpoint that draws: it sends its response itself, to know when it was sent."""

    def __init__(self, services: Services, decode: Decode, events: str) -> None:
        """`events`: the first part of the names of a stream's events."""
        self._services = services
        self._decode = decode
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        base_url = request_base_url(self._services, request)
        try:
            caller = await authenticate(self._services, scope, dict(request.headers.raw))
            call = await self._decode(self._services, request, caller)
            images = _Images(self._services, caller, call, base_url)
            async with images.attend() as jobs:
                # A disconnect ends the wait, and leaves the jobs unclaimed. It has no effect once all is sent.
                if call.partial_images is None:
                    with CancelledOnDisconnect(scope, receive):
                        body = await images.described_with(jobs)
                    await json_response(body)(scope, receive, send)
                else:
                    with CancelledOnDisconnect(scope, receive):
                        await self._stream(images, jobs, send)
                    await send(_END)
        except _Reported:
            await send(_END)
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _stream(self, images: "_Images", jobs: Sequence[Job], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            for job in jobs:
                async for kind, data in images.events(job):
                    await send(_chunk(f"{self._events}.{kind}", data))
        except Exception as error:  # the status is sent already
            await send(_chunk("error", error_body(error)))
            raise _Reported from error  # the jobs stay unclaimed


_END = {"type": "http.response.body", "body": b""}


class _Reported(Exception):
    """The client was told of an error, in a response that had begun."""


def _chunk(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ASGI message with one Server-Sent Event."""
    body = b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **data}))
    return {"type": "http.response.body", "body": body, "more_body": True}


class _Images:
    """The images of one call, in the form that it asks for."""

    def __init__(self, services: Services, caller: Caller, call: ImageCall, base_url: str) -> None:
        self._services = services
        self._caller = caller
        self._call = call
        self._base_url = base_url

    def attend(self) -> Any:
        return self._services.submissions.attend(self._caller, self._call.requests, self._call.references)

    async def until_over(self, job: Job) -> Job:
        return await self._services.job_waits.until_over(self._caller, job)

    async def described_with(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Wait for the jobs, and return the body of a response that is not a stream."""
        found = [await self.of(await self.until_over(job)) for job in jobs]
        return self.described() | {"data": [image for each in found for image in each], "usage": USAGE}

    def described(self) -> dict[str, Any]:
        call = self._call
        values = {"created": self._services.clock.now() // 1000, "background": "opaque", "quality": "auto"}
        return values | {"size": call.size, "output_format": call.output_format}

    async def of(self, job: Job) -> list[dict[str, Any]]:
        """Return the images of a job that is over. Raises Refusal when it failed."""
        images = await self._services.outputs.of_job(job)
        return [
            await self._encode(output, data) | {"seed": job.request.seed, "job_id": job.id} for output, data in images
        ]

    async def _encode(self, output: Output, data: bytes) -> dict[str, Any]:
        if self._call.as_url:
            return {"url": self._base_url + self._services.signatures.sign(output.url)}
        signer = self._services.signer
        data = await convert(data, self._call.media_type, quality=self._call.compression, signer=signer)
        return {"b64_json": b64encode(data).decode()}

    async def events(self, job: Job) -> Any:
        """Yield the kind and the data of each event of a stream: partial images, then the image."""
        previews = self._services.job_waits.spaced_previews(self._caller, job, self._call.partial_images or 0)
        shown = 0
        async with aclosing(previews):
            async for preview in previews:
                partial = {"b64_json": b64encode(preview).decode(), "partial_image_index": shown}
                yield "partial_image", self.described() | partial | {"output_format": "jpeg"}
                shown += 1
        for image in await self.of(await self.until_over(job)):
            yield "completed", self.described() | image | {"usage": USAGE}
