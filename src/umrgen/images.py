"""The rules of an image file, without any I/O: what it is, whether it is whole, how it is written.

PNG (third edition of the W3C specification), JPEG (ITU T.81) and WebP (RFC 9649) are recognised by
content, never by name.
"""

import hashlib
import struct
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umrgen.errors import OutputCorrupt, OutputMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ImageFacts", "SavedImage", "digest_from_headers", "encode_png", "sniff", "verify"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a verified file turned out to be; sizes in pixels, None where the format hides them."""

    media_type: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class SavedImage:
    """A verified image file on disk."""

    path: Path
    job_id: str
    bytes: int
    sha256: str
    media_type: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    engine: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
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
    """The media type that the first 12 or more bytes announce, or None."""
    if head.startswith(PNG_MAGIC):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def _describe_intruder(head: bytes) -> str:
    """Words for what stands in an image's place."""
    text = head.lstrip()[:1]
    if text == b"<":
        return "an HTML page"
    if text in (b"{", b"["):
        return "JSON"
    return "no PNG, JPEG or WebP"


def verify(data: bytes, *, length: int | None = None, sha256: str | None = None) -> ImageFacts:
    """Check that `data` is one whole image and say what it is.

    `length` is the number of bytes the server announced, `sha256` the hex digest it promised; each
    is checked when given. Raises OutputMissing for an empty body, OutputCorrupt for anything else.
    """
    if not data:
        raise OutputMissing("the server sent an empty file")
    media_type = sniff(data[:16])
    if media_type is None:
        raise OutputCorrupt(f"the server sent {_describe_intruder(data[:256])} in the image's place")
    if length is not None and length != len(data):
        raise OutputCorrupt(f"the image has {len(data)} bytes, the server announced {length}")
    actual = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != actual:
        raise OutputCorrupt("the image's sha-256 is not the one the server promised")
    width, height = _CHECKS[media_type](data)
    return ImageFacts(media_type, len(data), actual, width, height)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    at = len(PNG_MAGIC)
    while at + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, at)
        end = at + 12 + length
        if end > len(view):
            break
        (crc,) = struct.unpack_from(">I", view, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != crc:
            raise OutputCorrupt("the PNG is damaged: a checksum does not match")
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : end - 4]
        at = end
        if bytes(view[at - 8 : at - 4]) == b"IEND":
            if at != len(view):
                raise OutputCorrupt("the PNG has bytes after its end")
            return
    raise OutputCorrupt("the PNG is cut off before its end")


def _check_png(data: bytes) -> tuple[int, int]:
    chunks = _png_chunks(data)
    name, header = next(chunks)
    if name != b"IHDR" or len(header) != 13:
        raise OutputCorrupt("the PNG has no header")
    width, height = struct.unpack_from(">II", header)
    if b"IDAT" not in {name for name, _ in chunks}:
        raise OutputCorrupt("the PNG holds no picture")
    return width, height


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _check_jpeg(data: bytes) -> tuple[int | None, int | None]:
    if not data.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise OutputCorrupt("the JPEG is cut off before its end")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    return None, None


def _check_webp(data: bytes) -> tuple[int | None, int | None]:
    announced = struct.unpack_from("<I", data, 4)[0] + 8
    if announced != len(data):
        raise OutputCorrupt("the WebP is cut off or has bytes after its end")
    match data[12:16] if len(data) >= 30 else b"":
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise OutputCorrupt("the WebP holds no picture")


_CHECKS: Mapping[str, Callable[[bytes], tuple[int | None, int | None]]] = {
    "image/png": _check_png,
    "image/jpeg": _check_jpeg,
    "image/webp": _check_webp,
}


def digest_from_headers(headers: Mapping[str, str], *, partial: bool) -> str | None:
    """The SHA-256 (hex) that `Repr-Digest` promises for the whole file (RFC 9530), or None.

    `Content-Digest` covers the whole file only when the answer is not a range (`partial`).
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


# --- writing ---------------------------------------------------------------------------------------


def _deflate_rle(raw: bytes) -> bytes:
    """zlib with run lengths only: on Up-filtered rows as small as level 1, at a fraction of its time."""
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(raw) + packer.flush()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _text_chunk(key: str, value: str) -> bytes:
    """iTXt, uncompressed: UTF-8, so that a prompt in any language stays readable.

    Keys and values come from us; NUL, which would end the text early, is dropped from values.
    """
    return _chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.replace("\0", "").encode())


def _xmp(source_type: str) -> str:
    """An XMP packet that states how the picture came about (IPTC Photo Metadata 2025.1)."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def encode_png(
    pixels: "NDArray[np.uint8]", texts: Mapping[str, str] | None = None, *, source_type: str | None = None
) -> bytes:
    """A PNG of RGB `pixels`, shape (height, width, 3).

    `texts` become text chunks, `source_type` (a term of IPTC's digitalsourcetype list, for example
    `trainedAlgorithmicMedia`) an XMP packet. Every row uses the Up filter: the difference to the row
    above is one numpy subtraction, and leaves runs that run-length deflate takes quickly.
    Raises ValueError for another shape or type.
    """
    import numpy as np

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 of shape (height, width, 3), not {pixels.dtype} {pixels.shape}")
    height, width, _ = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    extra = [_text_chunk(key, value) for key, value in (texts or {}).items()]
    if source_type is not None:
        extra.append(_text_chunk("XML:com.adobe.xmp", _xmp(source_type)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            PNG_MAGIC,
            _chunk(b"IHDR", header),
            *extra,
            _chunk(b"IDAT", _deflate_rle(rows.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )
