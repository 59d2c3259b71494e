"""The API's calls under /api/v1, except the status call."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from umrgen import __version__
from umrgen.model import LIMITS
from umrgen.server.http import Services
from umrgen.server.http.api import batch, jobs, references, templates
from umrgen.server.http.api.generate import generate
from umrgen.server.http.api.responses import CapabilitiesAnswer, EngineAnswer, KeyLimits, Sizes, Steps, json_response
from umrgen.server.http.api.status import wire
from umrgen.server.http.api.verify import verify
from umrgen.server.http.auth import authenticate
from umrgen.server.http.problems import to_problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import MAX_JOBS
from umrgen.server.services.server_state import ServerCapabilities

__all__ = ["SUBMIT", "capabilities_response", "routes", "submit"]

SUBMIT = "/api/v1/generate"

_CALLS = (
    *("generate", "status", "wait", "batch_status", "events", "cancel", "jobs", "upload_reference"),
    *("idempotency", "digests", "webhooks", "search", "favorites", "delete", "thumbnails", "verify", "templates"),
)

Handler = Callable[[Services, Request, Caller], Awaitable[Response]]


async def _keyed(services: Services, handler: Handler, request: Request) -> Response:
    caller = await authenticate(services, request.scope, dict(request.headers.raw))
    return await handler(services, request, caller)


async def submit(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """`generate` as a plain ASGI handler: the router and its middleware cost as much as the job."""
    try:
        response = await _keyed(services, generate, Request(scope, receive))
    except Exception as error:
        response = to_problem(error).response()
    await response(scope, receive, send)


def routes(services: Services) -> list[Route]:
    def keyed(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        return partial(_keyed, services, handler)

    return [
        Route(SUBMIT, keyed(generate), methods=["POST"]),  # handled ahead of the router; this refuses other methods
        Route("/api/v1/status", keyed(batch.statuses), methods=["POST"]),
        Route("/api/v1/jobs", keyed(jobs.jobs), methods=["GET"]),
        Route("/api/v1/jobs/delete", keyed(jobs.delete_many), methods=["POST"]),
        Route("/api/v1/jobs/{job_id}", keyed(jobs.set_favorite), methods=["PATCH"]),
        Route("/api/v1/jobs/{job_id}", keyed(jobs.delete), methods=["DELETE"]),
        Route("/api/v1/cancel/{job_id}", keyed(cancel), methods=["POST"]),
        Route("/api/v1/upload-reference", keyed(references.add), methods=["POST"]),
        Route("/api/v1/upload-reference", keyed(references.all_of), methods=["GET"]),
        Route("/api/v1/upload-reference/{filename}", keyed(references.remove), methods=["DELETE"]),
        Route("/api/v1/templates", keyed(templates.all_of), methods=["GET"]),
        Route("/api/v1/templates/{name:path}", keyed(templates.get), methods=["GET"]),
        Route("/api/v1/templates/{name:path}", keyed(templates.put), methods=["PUT"]),
        Route("/api/v1/templates/{name:path}", keyed(templates.remove), methods=["DELETE"]),
        Route("/api/v1/verify", partial(verify, services), methods=["POST"]),
        Route("/api/v1/capabilities", keyed(capabilities), methods=["GET"]),
    ]


async def cancel(services: Services, request: Request, caller: Caller) -> Response:
    """Cancel the job and return it; a job that is over already does not change."""
    job = await services.cancellations.cancel(caller, request.path_params["job_id"])
    return json_response(wire(services, await services.job_waits.view(job)))


async def capabilities(services: Services, request: Request, caller: Caller) -> Response:
    """Return what this server can do for this key."""
    return capabilities_response(await services.state.capabilities(caller))


def capabilities_response(can: ServerCapabilities) -> Response:
    """Return the response with these capabilities."""
    info, caps = can.info, can.caps
    return json_response(
        CapabilitiesAnswer(
            version=__version__,
            engine=EngineAnswer(
                name=can.engine,
                state=can.engine_state,
                kind=info.kind if info else None,
                version=info.version if info else None,
                features=list(info.features) if info else [],
                models=list(info.models) if info else [],
                loras=list(info.loras) if info else [],
                default_cfg=info.default_cfg if info else None,
            ),
            sizes=Sizes(
                min=max(LIMITS.side_min, info.min_side) if info else LIMITS.side_min,
                max=min(LIMITS.side_max, info.max_side) if info else LIMITS.side_max,
                default=LIMITS.side_default,
                multiple_of=can.size_multiple,
            ),
            steps=Steps(
                min=info.min_steps if info else 1,
                max=can.max_steps,
                default=can.default_steps,
                of_models=dict(info.model_steps) if info else {},
            ),
            prompt_chars=LIMITS.prompt_chars,
            calls=list(_CALLS),
            max_wait=can.longest_wait,
            batch_max=MAX_JOBS,
            limits=KeyLimits(
                requests_per_minute=can.rate or None,
                concurrent=caps.active or None,
                daily=caps.daily or None,
                queued=caps.queued or None,
                running=can.running_cap or None,
            ),
            used_today=can.used_today,
            queued=can.queued,
            accepts_jobs=can.refusal is None,
            refusal=can.refusal,
        )
    )
