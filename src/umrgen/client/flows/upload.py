"""Sending an image as a multipart form: a reference image, or one to verify."""

import os
import secrets
from io import BytesIO

from umrgen.client.descriptions import ServerVerification, parse_verification
from umrgen.client.failures import disk_reason
from umrgen.client.flow import CallContext, Flow, RetryBudget
from umrgen.client.options import PilImage, Reference
from umrgen.client.protocol import API, call, is_missing_endpoint
from umrgen.client.responses import parse_upload
from umrgen.errors import ApiError, InvalidRequest, NotUmrgen, Unsupported
from umrgen.image_files import EXTENSIONS, sniff
from umrgen.paths import user_path

__all__ = ["read_image", "read_reference", "upload", "verify"]

MAX_BYTES = 10 << 20
"""The largest upload that a server accepts (contract, section 2)."""


def read_image(image: Reference) -> bytes:
    """Return the bytes of an image or a file. Raises InvalidRequest for an image that no server would accept."""
    try:
        if isinstance(image, bytes):
            data = image
        elif isinstance(image, str | os.PathLike):
            data = user_path(image).read_bytes()
        else:
            data = _as_png(image)
    except OSError as error:
        raise InvalidRequest(f"the image {image!s} cannot be read: {disk_reason(error)}") from None
    if not data:
        raise InvalidRequest("the image is empty")
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"the image must have at most {MAX_BYTES:,} bytes; got {len(data):,}")
    return data


def read_reference(image: Reference) -> bytes:
    """Return the bytes of a reference image. Raises InvalidRequest for one that no server would accept."""
    data = read_image(image)
    if sniff(data[:16]) is None:
        name = f"the reference {image!s}" if isinstance(image, str | os.PathLike) else "the reference"
        raise InvalidRequest(f"{name} is not a PNG, JPEG or WebP image", next="Choose another file.")
    return data


def _as_png(image: PilImage) -> bytes:
    if not callable(getattr(image, "save", None)):
        raise TypeError(f"a reference must be a path, bytes or an image of Pillow; got {type(image).__name__}")
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def upload(context: CallContext, image: bytes) -> "Flow[str]":
    """Upload an image; return the name under which a request refers to it. Raises Unsupported.

    It is not sent again when it may have reached the server: a session may hold only a few uploads. The first servers
    store it under the name in the form, and check the extension.
    """
    body, kind = _form(image)
    try:
        no_retries = RetryBudget(context, 0)
        path = f"{API}/upload-reference"
        _, data = yield from call(context, "POST", path, body=body, content_type=kind, retries=no_retries)
    except ApiError as error:
        if is_missing_endpoint(error):
            raise Unsupported(
                "this server does not support reference images",
                status=error.status,
                next="Submit without reference images, or use a server that supports them.",
            ) from None
        raise
    name = parse_upload(data)
    if name is None:
        raise NotUmrgen("the response to the upload has no file name")
    return name


def verify(context: CallContext, image: bytes) -> "Flow[ServerVerification]":
    """Ask the server whether it made an image. The server stores nothing, so the call may be repeated.

    Raises Unsupported on older servers, and InvalidRequest for a file that is no image.
    """
    body, kind = _form(image)
    try:
        _, data = yield from call(context, "POST", f"{API}/verify", body=body, content_type=kind)
    except ApiError as error:
        if is_missing_endpoint(error):
            raise Unsupported("this server does not verify images", status=error.status) from None
        raise
    found = parse_verification(data)
    if found is None:
        raise NotUmrgen("the response to the verification does not say whether the image was made here")
    return found


def _form(image: bytes) -> tuple[bytes, str]:
    """Return the form with the image in its field `file`, and the form's content type.

    The file has a unique name with the extension of its content.
    """
    boundary = secrets.token_hex(16)
    media_type = sniff(image) or "application/octet-stream"
    file_name = f"reference-{secrets.token_hex(16)}{EXTENSIONS.get(media_type, '')}"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
