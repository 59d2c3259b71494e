"""The rules of image files, without I/O: the media type, and whether a file is complete.

PNG (third edition of the W3C specification), JPEG (ITU T.81) and WebP (RFC 9649) are recognised by
their content, never by a name.
"""

import builtins
import hashlib
import os
import struct
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umrgen.errors import OutputCorrupt, OutputMissing

if TYPE_CHECKING:
    from umrgen.provenance import Provenance

__all__ = [
    "EXTENSIONS",
    "MEDIA_TYPES",
    "PNG_MAGIC",
    "ImageFacts",
    "SavedImage",
    "digest_from_headers",
    "png_chunk",
    "png_chunks",
    "png_texts",
    "sniff",
    "verify",
]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
MEDIA_TYPES = {suffix: media for media, suffix in EXTENSIONS.items()} | {".jpeg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The properties of a verified file; width and height in pixels, None when they cannot be read."""

    media_type: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class SavedImage:
    """A verified image: a file on disk, or in memory, when it was written to a file object, a pipe or a device."""

    path: Path
    """The file; of an image in memory, the name that its file would have, or the pipe or device."""
    job_id: str
    bytes: int
    sha256: str
    media_type: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    engine: str | None = None
    others: tuple["SavedImage", ...] = ()
    """The further images of the same job."""
    request: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """Of `generate_many`: the request that this image belongs to, as it was given."""
    content: builtins.bytes | None = field(default=None, compare=False, repr=False)
    """The bytes of an image in memory; None when they are in the file."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "SavedImage":
        """Return the image in a file, with its seed, engine and job as the file states them; see `provenance`.

        `job_id` is empty without such a record. Raises OSError for a file that cannot be read, and OutputCorrupt and
        OutputMissing for one that is not a complete image.

        >>> SavedImage.read("lighthouse.png").provenance.prompt
        'a lighthouse at dusk'
        """
        from umrgen.provenance import read as read_record

        file = Path(path)
        data = file.read_bytes()
        facts, record = verify(data), read_record(data)
        return cls(
            file,
            record.job_id if record else "",
            facts.bytes,
            facts.sha256,
            facts.media_type,
            facts.width,
            facts.height,
            record.seed if record else None,
            (record.engine or None) if record else None,
        )

    @property
    def provenance(self) -> "Provenance | None":
        """How the image was made, as the file states it: prompt, seed, engine, references, job; None without that."""
        from umrgen.provenance import read as read_record

        return read_record(self.data)

    @property
    def data(self) -> builtins.bytes:
        """The bytes of the image; those of a file are read now. `bytes` is their number."""
        return self.path.read_bytes() if self.content is None else self.content

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None when they cannot be read."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    def _repr_png_(self) -> builtins.bytes | None:
        """Return the image for a notebook, which shows it."""
        return self.data if self.media_type == "image/png" else None

    def _repr_jpeg_(self) -> builtins.bytes | None:
        return self.data if self.media_type == "image/jpeg" else None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the CLI prints them as JSON; of several images, each in `images`."""
        images = [replace(self, others=()), *self.others]
        listed = {"images": [image.as_dict() for image in images]} if self.others else {}
        return listed | {
            "job_id": self.job_id,
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "seed": self.seed,
            "engine": self.engine,
        }


def sniff(head: bytes) -> str | None:
    """Return the media type by the first 12 or more bytes, or None."""
    if head.startswith(PNG_MAGIC):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def _describe_content(head: bytes) -> str:
    """Return a description of content that is not an image, for an error message."""
    first = head.lstrip()[:1]
    if first == b"<":
        return "an HTML page"
    if first in (b"{", b"["):
        return "JSON"
    return "a file that is not PNG, JPEG or WebP"


def verify(data: bytes, *, length: int | None = None, sha256: str | None = None) -> ImageFacts:
    """Check that `data` is one complete image; return its properties.

    `length` is the number of bytes and `sha256` the hex digest in the response's headers; each is checked when it is
    not None. Raises OutputMissing for an empty body, OutputCorrupt for any other mismatch.
    """
    if not data:
        raise OutputMissing("the server sent an empty file")
    media_type = sniff(data[:16])
    if media_type is None:
        raise OutputCorrupt(f"expected an image, got {_describe_content(data[:256])}")
    if length is not None and length != len(data):
        raise OutputCorrupt(f"the image has {len(data)} bytes, but the server announced {length}")
    actual = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != actual:
        raise OutputCorrupt(f"the image's SHA-256 is {actual}, not {sha256}")
    width, height = _CHECKS[media_type](data)
    return ImageFacts(media_type, len(data), actual, width, height)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: length, name, body and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name of each chunk of a PNG, and the whole chunk. Raises OutputCorrupt for a damaged file."""
    view = memoryview(data)
    at = len(PNG_MAGIC)
    while at + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, at)
        end = at + 12 + length
        if end > len(view):
            break
        (crc,) = struct.unpack_from(">I", view, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != crc:
            raise OutputCorrupt("the PNG is damaged: a chunk's checksum does not match")
        yield bytes(view[at + 4 : at + 8]), view[at:end]
        at = end
        if bytes(view[at - 8 : at - 4]) == b"IEND":
            if at != len(view):
                raise OutputCorrupt("the PNG has bytes after its end")
            return
    raise OutputCorrupt("the PNG is truncated")


def png_texts(data: bytes) -> dict[str, str]:
    """Return the uncompressed text chunks of a PNG by key; {} for another file. Raises OutputCorrupt."""
    texts = {}
    for name, chunk in png_chunks(data) if data.startswith(PNG_MAGIC) else ():
        key, _, rest = bytes(chunk[8:-4]).partition(b"\0") if name in (b"iTXt", b"tEXt") else (b"", b"", b"")
        if name == b"tEXt":
            texts[key.decode("latin-1")] = rest.decode("latin-1")
        elif rest.startswith(b"\0\0"):
            texts[key.decode("latin-1")] = rest[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
    return texts


def _check_png(data: bytes) -> tuple[int, int]:
    chunks = png_chunks(data)
    name, first = next(chunks)
    header = first[8:-4]
    if name != b"IHDR" or len(header) != 13:
        raise OutputCorrupt("the PNG has no header")
    width, height = struct.unpack_from(">II", header)
    if b"IDAT" not in {name for name, _ in chunks}:
        raise OutputCorrupt("the PNG has no image data")
    return width, height


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _check_jpeg(data: bytes) -> tuple[int | None, int | None]:
    if not data.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise OutputCorrupt("the JPEG is truncated")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    return None, None


def _check_webp(data: bytes) -> tuple[int | None, int | None]:
    declared = struct.unpack_from("<I", data, 4)[0] + 8
    if declared != len(data):
        raise OutputCorrupt("the WebP is truncated or has bytes after its end")
    match data[12:16] if len(data) >= 30 else b"":
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise OutputCorrupt("the WebP has no image data")


_CHECKS: Mapping[str, Callable[[bytes], tuple[int | None, int | None]]] = {
    "image/png": _check_png,
    "image/jpeg": _check_jpeg,
    "image/webp": _check_webp,
}


def digest_from_headers(headers: Mapping[str, str], *, partial: bool) -> str | None:
    """Return the SHA-256 (hex) of the whole file by `Repr-Digest` (RFC 9530), or None.

    `Content-Digest` covers the whole file only when the response is not a range (`partial`).
    """
    fields = ["repr-digest"] if partial else ["repr-digest", "content-digest"]
    for name in fields:
        for item in headers.get(name, "").split(","):
            algorithm, _, value = item.strip().partition("=")
            if algorithm == "sha-256" and value.startswith(":") and value.endswith(":"):
                try:
                    digest = b64decode(value[1:-1], validate=True)
                except ValueError:
                    continue
                if len(digest) == 32:
                    return digest.hex()
    return None
