"""Marks that state how an image was made, in the file itself: written by the server, read by everyone.

`mark` writes a record into a PNG, JPEG or WebP file, and `read` finds it again. A mark is not signed: it says what a
file states of itself, and no mark proves nothing. A C2PA manifest, which is signed, is checked by `verify`.
"""

import os
import re
from base64 import b64decode
from pathlib import Path

from umrgen.errors import UmrgenError
from umrgen.provenance.a1111 import parameters_of, parameters_text
from umrgen.provenance.containers import content_digest, with_packet
from umrgen.provenance.manifest import Manifest
from umrgen.provenance.record import Provenance
from umrgen.provenance.verification import Mark, Verification, inspect, unsigned_marks
from umrgen.provenance.xmp import packet

__all__ = [
    "Manifest",
    "Mark",
    "Provenance",
    "Verification",
    "inspect",
    "mark",
    "parameters_of",
    "parameters_text",
    "read",
    "read_roots",
    "verify",
]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_CERTIFICATE = re.compile(f"{_BEGIN}(.*?){_END}", re.DOTALL)


def mark(data: bytes, record: Provenance) -> bytes:
    """Return the image with the record: as XMP, and in a PNG also as text chunks that other tools read.

    The pixels are not encoded again. A record without a prompt also removes texts of other tools, which may have it.
    Raises OutputCorrupt for a damaged file.
    """
    texts = {"parameters": parameters_text(record), "umrgen": record.to_json()}
    return with_packet(data, packet(record, content_digest(data)), texts, keep_texts=record.prompt is not None)


def verify(image: str | os.PathLike[str] | bytes, *, trust: str | os.PathLike[str] | None = None) -> Verification:
    """Return what an image, a file or its bytes, states of itself.

    It is checked offline: the record of UMRGEN or AUTOMATIC1111, the source type of any program, and whether the
    pixels are those for which UMRGEN's record was written; and the C2PA manifest, with the extra `umrgen[c2pa]`.
    `trust`: a PEM file with the root certificates of the signers to trust. Raises OSError for a file that cannot be
    read, and UmrgenError for a `trust` without certificates.
    """
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    return inspect(data, read_roots(Path(trust)) if trust is not None else "")


def read_roots(file: Path) -> str:
    """Return the certificates of a PEM file, without other text. Raises OSError and UmrgenError."""
    found = _CERTIFICATE.findall(file.read_text("ascii", "replace"))
    try:
        if not all(b64decode("".join(body.split()), validate=True) for body in found) or not found:
            raise ValueError
    except ValueError:
        raise UmrgenError(f"{file} has no certificates in PEM form", code="no_certificates") from None
    return "".join(f"{_BEGIN}{body}{_END}\n" for body in found)


def read(data: bytes) -> Provenance | None:
    """Return the record of an image; None without one, or with a damaged file. The manifest is not checked."""
    return unsigned_marks(data).record
