"""Sending a reference image: one file as a multipart form."""

import secrets
from pathlib import Path

from umrgen.client.flow import CallContext, Flow, RetryBudget
from umrgen.client.protocol import API, call, lacks_call
from umrgen.errors import ApiError, InvalidRequest, Unsupported

__all__ = ["read_image", "upload"]

MAX_BYTES = 10 << 20
"""What a server takes (contract, section 2)."""


def read_image(image: "Path | str | bytes") -> bytes:
    """The bytes of an image, or of a file. Raises InvalidRequest for what no server would take."""
    try:
        data = image if isinstance(image, bytes) else Path(image).expanduser().read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the image {image!s} cannot be read: {error.strerror}") from None
    if not data:
        raise InvalidRequest("the image is empty")
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"the image has {len(data):,} bytes; {MAX_BYTES:,} are taken at most")
    return data


def upload(run: CallContext, data: bytes) -> "Flow[str]":
    """Upload an image; give the name by which a request refers to it.

    Not sent again when it may have arrived: a session has room for few. Raises Unsupported.
    """
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="reference"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    try:
        once = RetryBudget(run, 0)
        path = f"{API}/upload-reference"
        _, answer = yield from call(run, "POST", path, body=body, content_type=kind, patience=once)
    except ApiError as error:
        if lacks_call(error):
            raise Unsupported("this server takes no reference images", status=error.status) from None
        raise
    return str(answer.get("filename", ""))
