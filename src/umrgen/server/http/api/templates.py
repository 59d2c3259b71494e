"""`/api/v1/templates`: list, read, store and delete the caller's templates."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.responses import DeletedTemplate, TemplateAnswer, TemplatesAnswer, json_response
from umrgen.server.http.api.schemas import decode_template, read_object
from umrgen.server.services.caller import Caller
from umrgen.server.services.templates import Template

__all__ = ["all_of", "get", "put", "remove"]

MAX_BODY = 128 << 10
"""Bytes of the largest body: the longest texts of a request, as JSON with escapes, have half of it."""


async def all_of(services: Services, request: Request, caller: Caller) -> Response:
    """List the session's templates, by name."""
    found = await services.templates.all(caller)
    return json_response(TemplatesAnswer(templates=[_wire(template) for template in found]))


async def get(services: Services, request: Request, caller: Caller) -> Response:
    """Return one template."""
    return json_response(_wire(await services.templates.get(caller, request.path_params["name"])))


async def put(services: Services, request: Request, caller: Caller) -> Response:
    """Store the request in the body under the name in the path, in place of an earlier one."""
    fields, warnings = decode_template(await read_object(request, MAX_BODY))
    template = await services.templates.put(caller, request.path_params["name"], fields)
    return json_response(_wire(template, warnings))


async def remove(services: Services, request: Request, caller: Caller) -> Response:
    """Delete one template; again is the same as once."""
    name = request.path_params["name"]
    await services.templates.remove(caller, name)
    return json_response(DeletedTemplate(name=name))


def _wire(template: Template, warnings: list[str] | None = None) -> TemplateAnswer:
    fields = msgspec.json.decode(template.request)
    return TemplateAnswer(name=template.name, request=fields, updated_at=template.updated_at, warnings=warnings or [])
