"""Ingredients of signed images: the manifests of reference images, which are stored without them as pixels.

The decoder of an upload checks its manifest and writes an archive of it. The archive is stored beside the pixels. It is
enough to name the reference, with its own manifest, in the manifest of an image that is drawn from it.
"""

import hashlib
import secrets
from io import BytesIO
from typing import Any

from umrgen.image_files import PNG_MAGIC, png_chunk, sniff
from umrgen.provenance.containers import manifest_size

__all__ = ["archived", "label_of", "with_origin"]

MAX_ARCHIVE = 1 << 20
"""Bytes of an archive that is stored; a manifest with some ingredients and their thumbnails has less."""
_LABEL = 32
"""Bytes before the archive: the ingredient's label in it, by which an action refers to it."""
_HEADER = 25
"""Bytes of a PNG's first chunk."""
SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
"""No thumbnails, which take most of the time; nothing is fetched; the result is verified by tests, not each time."""


def archived(data: bytes) -> bytes:
    """Return the label and the archive of an image's manifest; b"" for an image without one.

    Also for a manifest that cannot be read or is too large, and without the library of `umrgen[c2pa]`.
    """
    if not 0 < manifest_size(data) <= MAX_ARCHIVE:
        return b""
    try:
        from c2pa import Builder, C2paError, Context
    except (ImportError, OSError, RuntimeError):
        return b""
    label, archive = f"reference-{secrets.token_hex(11)}", BytesIO()
    ingredient = {"title": "reference", "relationship": "inputTo", "label": label}
    try:
        with Context.from_dict(SETTINGS) as context, Builder.from_json({}, context=context) as builder:
            builder.add_ingredient(ingredient, sniff(data[:16]) or "", BytesIO(data))
            builder.write_ingredient_archive(label, archive)
    except (C2paError, ValueError):
        return b""
    found = archive.getvalue()
    return label.encode() + found if len(found) <= MAX_ARCHIVE else b""


def label_of(archive: bytes) -> tuple[str, BytesIO]:
    """Return the label, and the archive as the library reads it."""
    return archive[:_LABEL].decode("ascii", "replace"), BytesIO(archive[_LABEL:])


def with_origin(png: bytes, data: bytes) -> bytes:
    """Return the PNG with the digest of the file that it was made from.

    So the pixels of a file with a manifest, and those of another file, are different uploads.
    """
    text = b"Source\0sha-256 " + hashlib.sha256(data).hexdigest().encode()
    end = len(PNG_MAGIC) + _HEADER
    return png[:end] + png_chunk(b"tEXt", text) + png[end:]
