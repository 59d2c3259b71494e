"""`GET /v1/models`: the engine's models, or the engine itself. Requests for images may name any model."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.server.http import Services
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.auth import authenticate
from umrgen.server.http.openai.errors import error_response

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    async def models(request: Request) -> Response:
        try:
            return json_response(await _answer(services, request))
        except Exception as error:
            return error_response(error)

    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model:path}", models, methods=["GET"]),
    ]


async def _answer(services: Services, request: Request) -> Mapping[str, object]:
    caller = await authenticate(services, request.scope, dict(request.headers.raw))
    can = await services.state.capabilities(caller)
    found = [_model(name) for name in (can.info.models if can.info and can.info.models else (can.engine,))]
    wanted = request.path_params.get("model")
    if wanted is None:
        return {"object": "list", "data": found}
    return next((model for model in found if model["id"] == wanted), _model(wanted))


def _model(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "umrgen"}
