"""The part of AUTOMATIC1111's API that clients call, under `/sdapi/v1/`. Switched on by the setting `a1111`.

As in OpenAI's interface, a call lasts until the image is drawn, inside `Submissions.attend`. The API has no job ids:
`progress` and `interrupt` are about the jobs of the caller's own calls.
"""

import asyncio
import binascii
import json
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from umrgen.model import LIMITS
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.http import Services
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.api.schemas import decode_generate, read_object
from umrgen.server.http.auth import authenticate
from umrgen.server.http.bodies import read_body
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem, to_problem
from umrgen.server.services.call_references import HeldReferences
from umrgen.server.services.caller import Caller

__all__ = ["routes"]

MAX_BODY = 32 << 20
PART = 256 << 10
"""Characters of base64 that are decoded at once; a multiple of 4."""
MOST_IMAGES = 10
PATH = "/sdapi/v1"
_PASSED = ("prompt", "steps", "width", "height", "seed")
_LISTS: Mapping[str, Any] = {
    "samplers": [{"name": "Euler", "aliases": ["euler"], "options": {}}],
    "schedulers": [
        {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
    ],
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}],
    "latent-upscale-modes": [{"name": "Latent"}],
    "sd-vae": [],
    "loras": [],
}
"""Names that clients show for choice; none has an effect here."""

Handler = Callable[[Request, Caller], Awaitable[Any]]


def routes(services: Services) -> list[Route]:
    """Return the routes; none while the interface is switched off."""
    if not services.settings.a1111:
        return []
    api = _Api(services)
    calls: list[tuple[str, str, Handler]] = [
        ("options", "GET", api.options),
        ("options", "POST", api.set_options),
        ("sd-models", "GET", api.models),
        ("progress", "GET", api.progress),
        ("interrupt", "POST", api.interrupt),
        *((name, "GET", _listing(values)) for name, values in _LISTS.items()),
    ]
    return [
        *(Route(f"{PATH}/{name}", api.answering(handler), methods=[method]) for name, method, handler in calls),
        *(Route(f"{PATH}/{name}", _Drawing(api), methods=["POST"]) for name in ("txt2img", "img2img")),
    ]


def _listing(values: Any) -> Handler:
    async def listing(request: Request, caller: Caller) -> Any:
        return values

    return listing


def _error(error: Exception) -> Response:
    """Return an error in the form of FastAPI's, which the original uses; with the remedy in the text."""
    problem = to_problem(error)
    text = f"{problem.body.error.rstrip('.')}. {problem.body.next}"
    body = {"error": problem.body.code, "detail": text, "body": "", "errors": text}
    headers = problem.headers | ({"WWW-Authenticate": 'Basic realm="umrgen"'} if problem.status == 401 else {})
    return json_response(body, problem.status, headers)


class _Api:
    """The calls, and the jobs that each key's calls are waiting for."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.waiting: defaultdict[str, list[Job]] = defaultdict(list)

    async def caller(self, request: Request) -> Caller:
        """Authenticate by Basic with the API key as the password, or by a bearer token."""
        headers = dict(request.headers.raw)
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                _, _, key = b64decode(value, validate=True).partition(b":")
            except binascii.Error:
                raise Problem("unauthorized", "the Authorization header is not valid") from None
            headers[b"authorization"] = b"Bearer " + key
        return await authenticate(self.services, request.scope, headers)

    def answering(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return json_response(await handler(request, await self.caller(request)))
            except Exception as error:
                return _error(error)

        return answer

    def _model(self) -> str:
        info = self.services.state.executor.info
        return info.models[0] if info and info.models else self.services.state.engine

    async def options(self, request: Request, caller: Caller) -> Any:
        return {"sd_model_checkpoint": self._model(), "samples_format": "png", "CLIP_stop_at_last_layers": 1}

    async def set_options(self, request: Request, caller: Caller) -> Any:
        """Accept any options: clients set the model that they read before. None has an effect."""
        await read_body(request, MAX_BODY)
        return {}

    async def models(self, request: Request, caller: Caller) -> Any:
        name = self._model()
        return [{"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}]

    async def progress(self, request: Request, caller: Caller) -> Any:
        waits = self.services.job_waits
        jobs = [await waits.find(caller, job.id) for job in self.waiting[caller.key.id]]
        active = [job for job in jobs if not job.over]
        steps = sum(job.request.steps for job in jobs) or 1
        done = sum(job.request.steps if job.over else job.step for job in jobs)
        eta = (await waits.view(active[0])).eta if active else None
        state = {
            "skipped": False,
            "interrupted": False,
            "job": active[0].id if active else "",
            "job_count": len(active),
            "job_no": len(jobs) - len(active),
            "sampling_step": active[0].step if active else 0,
            "sampling_steps": active[0].request.steps if active else 0,
        }
        return {
            "progress": done / steps if active else 0.0,
            "eta_relative": eta or 0.0,
            "state": state,
            "current_image": None,
            "textinfo": None,
        }

    async def interrupt(self, request: Request, caller: Caller) -> Any:
        """Cancel the jobs of the caller's own calls, and no other."""
        for job in list(self.waiting[caller.key.id]):
            await self.services.cancellations.cancel(caller, job.id)
        return {}

    # --- drawing ---

    async def decode(self, request: Request, caller: Caller) -> tuple[list[GenerationRequest], HeldReferences | None]:
        """Return one request for each image of a call, and the images that it sent."""
        data = await read_object(request, MAX_BODY)
        values = {"width": 512, "height": 512} | {name: data[name] for name in _PASSED if name in data}
        values |= self._optional(data)
        generation, _ = decode_generate(values, self.services.state.default_steps)
        count = _count(data, "batch_size") * _count(data, "n_iter")
        if count > MOST_IMAGES:
            raise Problem("invalid_request", f"batch_size × n_iter must be {MOST_IMAGES} or less; got {count}")
        images = await _images(data)
        if not images:
            return generation.several(count), None
        with await self.services.uploads.admit(caller) as reserved:
            held = await self.services.call_references.add(caller, reserved, images)
        return generation.with_references(held.names).several(count), held

    def _optional(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that clients send always, without those that the engine does not support."""
        info = self.services.state.info
        given = {"negative": data.get("negative_prompt"), "cfg": data.get("cfg_scale")}
        return {name: value for name, value in given.items() if value is not None and info and name in info.features}

    async def answer(self, caller: Caller, jobs: Sequence[Job]) -> dict[str, Any]:
        """Wait for the jobs, and return the body of the response."""
        images: list[str] = []
        for job in jobs:
            over = await self.services.job_waits.until_over(caller, job)
            images += [b64encode(data).decode() for _, data in await self.services.outputs.of_job(over)]
        first, seeds = jobs[0].request, [job.request.seed for job in jobs]
        info = {
            "prompt": first.prompt,
            "all_prompts": [first.prompt] * len(jobs),
            "negative_prompt": first.negative,
            "seed": seeds[0],
            "all_seeds": seeds,
            "width": first.width,
            "height": first.height,
            "steps": first.steps,
            "sampler_name": "Euler",
            "batch_size": len(jobs),
            "sd_model_name": self._model(),
            "infotexts": [first.prompt] * len(jobs),
            "job_ids": [job.id for job in jobs],
        }
        parameters = {name: info[name] for name in ("prompt", "negative_prompt", "seed", "width", "height", "steps")}
        return {"images": images, "parameters": parameters, "info": json.dumps(info)}


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name, 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_IMAGES:
        raise Problem("invalid_request", f"{name} must be 1 to {MOST_IMAGES}; got {value!r:.40}", field=name)
    return value


async def _images(data: Mapping[str, Any]) -> list[bytes]:
    """Return the images of `init_images`. Raises Problem."""
    images = data.get("init_images", [])
    if not isinstance(images, list) or len(images) > LIMITS.references:
        raise Problem("invalid_request", f"init_images must be a list of at most {LIMITS.references} images")
    return [await _decoded(image) for image in images]


async def _decoded(image: Any) -> bytes:
    """Return the bytes of an image in base64, or in a data URL. Raises Problem.

    It is decoded in parts, between which the event loop runs: on a thread, it would block the loop all the same.
    """
    text = image if isinstance(image, str) else "?"
    text = text.partition(",")[2] if text.startswith("data:") else text
    try:
        if "=" in text[:-2]:
            raise ValueError
        parts = []
        for start in range(0, len(text), PART):
            parts.append(b64decode(text[start : start + PART], validate=True))
            await asyncio.sleep(0)
        return b"".join(parts)
    except ValueError:
        raise Problem("invalid_request", "init_images must have images in base64", field="init_images") from None


class _Drawing:
    """The ASGI endpoint of txt2img and img2img: it sends its response inside `Submissions.attend`."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            caller = await self._api.caller(request)
            requests, held = await self._api.decode(request, caller)
            async with self._api.services.submissions.attend(caller, requests, held) as jobs:
                waiting = self._api.waiting[caller.key.id]
                waiting += jobs
                try:
                    with CancelledOnDisconnect(scope, receive):
                        body = await self._api.answer(caller, jobs)
                finally:
                    for job in jobs:
                        waiting.remove(job)
                    if not waiting:
                        self._api.waiting.pop(caller.key.id, None)
                await json_response(body)(scope, receive, send)
        except Exception as error:
            await _error(error)(scope, receive, send)
