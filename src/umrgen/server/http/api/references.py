"""`/api/v1/upload-reference`: reference images in, listed and out again."""

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.responses import Deleted, Reference, References, json_response
from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem
from umrgen.server.ledger import Key, Upload
from umrgen.server.services.caller import Caller
from umrgen.server.services.uploads import MAX_BYTES

__all__ = ["add", "all_of", "remove"]

ENVELOPE = 64 << 10
"""What a multipart form may take beside its file."""
HOUR = 3_600_000


async def add(services: Services, request: Request, key: Key) -> Response:
    """Take the form's one file, in the field `file`. What stands in its way is said before it is read."""
    boundary = _boundary(request)
    with await services.uploads.admit(Caller(key)) as reserved:
        data = _the_file(await read_body(request, MAX_BYTES + ENVELOPE), boundary)
        upload = await reserved.add(data)
    return json_response(_wire(services, upload))


async def all_of(services: Services, request: Request, key: Key) -> Response:
    """The session's reference images, the oldest first."""
    found = await services.uploads.all(Caller(key))
    return json_response(References(references=[_wire(services, upload) for upload in found]))


async def remove(services: Services, request: Request, key: Key) -> Response:
    """Forget one; a job that was to use it will fail, and say so."""
    name = request.path_params["filename"]
    await services.uploads.remove(Caller(key), name)
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
        expires_at=upload.created_at + int(services.settings.upload_hours * HOUR),
    )


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise Problem("unsupported_media_type", "send multipart/form-data with one file in the field: file")
    return boundary


def _the_file(body: bytes, boundary: bytes) -> bytes:
    """The content of the form's field `file`. Raises Problem."""
    files: list[bytes] = []
    names: list[str] = []

    def on_field(field: Field) -> None:
        names.append(_name(field.field_name))

    def on_file(file: File) -> None:
        names.append(_name(file.field_name))
        if names[-1] == "file":
            file.file_object.seek(0)
            files.append(file.file_object.read())

    # Nothing touches the disk before it has been looked at.
    config = {"MAX_MEMORY_FILE_SIZE": MAX_BYTES + ENVELOPE + 1, "MAX_FIELDS": 20}
    try:
        parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
        parser.close()
    except FormParserError:
        raise Problem("invalid_request", "the body is not a multipart form") from None
    if len(files) != 1:
        words = "one file at a time" if files else "there is no file in the field: file"
        raise Problem("invalid_request", words, field="file")
    if len(files[0]) > MAX_BYTES:
        raise Problem("too_large", f"an image may have {MAX_BYTES} bytes at most", field="file")
    return files[0]


def _name(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
