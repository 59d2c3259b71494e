"""`POST /api/v1/verify`: whether an image was made here, and what its C2PA manifest states."""

from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.references import file_of
from umrgen.server.http.api.responses import ManifestAnswer, VerificationAnswer, json_response
from umrgen.server.http.auth import address_of, authenticate, has_credentials
from umrgen.server.http.forms import boundary_of, read_form
from umrgen.server.services.caller import Caller
from umrgen.server.services.decoding import MAX_BYTES
from umrgen.server.services.verifications import ImageVerification

__all__ = ["verify"]


async def verify(services: Services, request: Request) -> Response:
    """Verify the form's one file, in the field `file`. The file is not stored."""
    address = address_of(request.scope)
    caller = await _caller(services, request, address)
    boundary = boundary_of(request, "a file in the field `file`")
    with services.verifications.receive(caller, address):
        data = file_of(await read_form(request, boundary, MAX_BYTES))
        found = await services.verifications.verify(data, caller)
    return json_response(_answer(found))


async def _caller(services: Services, request: Request, address: str) -> Caller | None:
    """Return the caller; None for one without a key, where the server allows it."""
    headers = dict(request.headers.raw)
    if has_credentials(headers) or not services.verifications.public:
        return await authenticate(services, request.scope, headers)
    services.verifications.count_stranger(address)
    return None


def _answer(found: ImageVerification) -> VerificationAnswer:
    known, manifest = found.known, found.inspected.manifest
    return VerificationAnswer(
        made_here="no" if known is None else "exact" if known.exact else "similar",
        distance=known.distance if known else None,
        created_at=known.created_at if known else None,
        engine=known.engine if known else None,
        job_id=known.job_id if known else None,
        watermark=found.inspected.watermark,
        manifest=ManifestAnswer(**{name: manifest[name] for name in ManifestAnswer.__struct_fields__}),
    )
