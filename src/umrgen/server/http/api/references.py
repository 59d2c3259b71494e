"""`/api/v1/upload-reference`: add, list and delete reference images."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.responses import Deleted, Reference, References, json_response
from umrgen.server.http.forms import FormPart, boundary_of, read_form
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.decoding import MAX_BYTES
from umrgen.server.services.uploads import Upload

__all__ = ["add", "all_of", "file_of", "remove"]


async def add(services: Services, request: Request, caller: Caller) -> Response:
    """Store the form's one file, in the field `file`; the same content again has the same name."""
    boundary = boundary_of(request, "a file in the field `file`")
    with await services.uploads.admit(caller) as reserved:
        upload = await reserved.add(file_of(await read_form(request, boundary, MAX_BYTES)))
        services.call_references.keep(caller, upload.name)
    return json_response(_wire(services, upload))


async def all_of(services: Services, request: Request, caller: Caller) -> Response:
    """List the session's reference images, oldest first."""
    found = await services.uploads.all(caller)
    return json_response(References(references=[_wire(services, upload) for upload in found]))


async def remove(services: Services, request: Request, caller: Caller) -> Response:
    """Delete one. A queued job that uses it will fail with `reference_gone`."""
    name = request.path_params["filename"]
    await services.uploads.remove(caller, name)
    return json_response(Deleted(filename=name))


def _wire(services: Services, upload: Upload) -> Reference:
    path = f"/outputs/{upload.session_id}/{upload.name}?session_id={upload.session_id}"
    return Reference(
        filename=upload.name,
        url=services.signatures.sign(path),
        bytes=upload.bytes,
        width=upload.width,
        height=upload.height,
        created_at=upload.created_at,
        expires_at=services.uploads.expires_at(upload),
    )


def file_of(parts: Sequence[FormPart]) -> bytes:
    """Return the content of the form's field `file`. Raises Problem."""
    files = [part.content for part in parts if part.name == "file"]
    if len(files) != 1:
        error = f"the form must have one file in the field `file`; got {len(files)}"
        raise Problem("invalid_request", error, field="file")
    if len(files[0]) > MAX_BYTES:
        raise Problem("too_large", f"the image must have {MAX_BYTES} bytes or fewer; got {len(files[0])}", field="file")
    return files[0]
