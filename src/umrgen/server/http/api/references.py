"""`/api/v1/upload-reference`: add, list and delete reference images."""

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.responses import Deleted, Reference, References, json_response
from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.uploads import MAX_BYTES, Upload

__all__ = ["add", "all_of", "remove"]

ENVELOPE = 64 << 10
"""Bytes of a multipart form in addition to its file."""


async def add(services: Services, request: Request, caller: Caller) -> Response:
    """Store the form's one file, in the field `file`. Limits are checked before the file is read."""
    boundary = _boundary(request)
    with await services.uploads.admit(caller) as reserved:
        data = _file_of(await read_body(request, MAX_BYTES + ENVELOPE), boundary)
        upload = await reserved.add(data)
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


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise Problem("unsupported_media_type", "the body must be multipart/form-data with a file in the field `file`")
    return boundary


def _file_of(body: bytes, boundary: bytes) -> bytes:
    """Return the content of the form's field `file`. Raises Problem."""
    files: list[bytes] = []
    names: list[str] = []

    def on_field(field: Field) -> None:
        names.append(_name(field.field_name))

    def on_file(file: File) -> None:
        names.append(_name(file.field_name))
        if names[-1] == "file":
            file.file_object.seek(0)
            files.append(file.file_object.read())

    # The parser keeps the file in memory: nothing unchecked is written to disk.
    config = {"MAX_MEMORY_FILE_SIZE": MAX_BYTES + ENVELOPE + 1, "MAX_FIELDS": 20}
    try:
        parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
        parser.close()
    except FormParserError:
        raise Problem("invalid_request", "the body is not a multipart form") from None
    if len(files) != 1:
        error = f"the form must have one file in the field `file`; got {len(files)}"
        raise Problem("invalid_request", error, field="file")
    if len(files[0]) > MAX_BYTES:
        raise Problem("too_large", f"the image must have {MAX_BYTES} bytes or fewer; got {len(files[0])}", field="file")
    return files[0]


def _name(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
