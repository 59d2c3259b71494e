"""Where PNG, JPEG and WebP files keep an XMP packet and a C2PA manifest, and a digest of all that is not metadata.

PNG: an iTXt chunk (XMP part 3). JPEG: an APP1 segment. WebP: a chunk "XMP " after the image (RFC 9649), announced in
VP8X. Manifests (C2PA 2.4, annex A): a chunk caBX, segments APP11, a chunk "C2PA". Pixels are not encoded again. The
file is one that `verify` accepted.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator

from umrgen.errors import OutputCorrupt
from umrgen.image_files import PNG_MAGIC, png_chunk, png_chunks, sniff

__all__ = ["content_digest", "manifest_size", "packets", "with_packet"]

_XMP_KEY = b"XML:com.adobe.xmp\0"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME")
_PNG_MANIFEST = b"caBX"
_WEBP_MANIFEST = b"C2PA"
_LONGEST_SEGMENT = 65_533


def packets(data: bytes) -> list[str]:
    """Return the XMP packets of an image, in their order. Raises OutputCorrupt for a damaged file."""
    found = {"image/png": _png_packets, "image/jpeg": _jpeg_packets, "image/webp": _webp_packets}
    media_type = sniff(data[:16])
    return [body.decode("utf-8", "replace") for body in found[media_type](data)] if media_type else []


def manifest_size(data: bytes) -> int:
    """Return the bytes of the C2PA manifest; 0 for a file without one. Raises OutputCorrupt for a damaged file."""
    match sniff(data[:16]):
        case "image/png":
            return sum(len(chunk) for name, chunk in png_chunks(data) if name == _PNG_MANIFEST)
        case "image/jpeg":
            return sum(len(part) for marker, part in _jpeg_segments(data) if _is_jpeg_manifest(marker, part))
        case "image/webp":
            return sum(8 + len(body) for name, body in _webp_chunks(data) if name == _WEBP_MANIFEST)
    return 0


def content_digest(data: bytes) -> str:
    """Return the SHA-256 of the parts of a file that make its pixels: without text, XMP, EXIF and the like."""
    kinds: dict[str, Callable[[bytes], Iterator[bytes | memoryview]]] = {
        "image/png": _png_content,
        "image/jpeg": _jpeg_content,
        "image/webp": _webp_content,
    }
    digest = hashlib.sha256()
    for part in kinds[sniff(data[:16]) or "image/png"](data):
        digest.update(part)
    return digest.hexdigest()


def with_packet(data: bytes, xmp: str, texts: dict[str, str] | None = None, *, keep_texts: bool = True) -> bytes:
    """Return the image with this packet instead of those that it has.

    A C2PA manifest is left out: its hash is that of the earlier file.
    `texts` are added to a PNG as text chunks. Without `keep_texts`, its other text chunks and EXIF are left out, and
    those of the other formats too: they may contain a prompt.
    """
    body = xmp.encode()
    match sniff(data[:16]):
        case "image/png":
            added = [_png_text(key, value) for key, value in (texts or {}).items()]
            return _png_with(data, [*added, _png_text("XML:com.adobe.xmp", xmp)], set(texts or ()), keep_texts)
        case "image/jpeg":
            return _jpeg_with(data, body, keep_texts)
        case "image/webp":
            return _webp_with(data, body, keep_texts)
    return data


# --- PNG ---


def _png_text(key: str, value: str) -> bytes:
    """Return an uncompressed iTXt chunk: UTF-8, for prompts in any language. NUL, which ends a text, is left out."""
    text = value.replace("\0", "").encode("utf-8", "replace")
    return png_chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text)


def _png_packets(data: bytes) -> Iterator[bytes]:
    for name, chunk in png_chunks(data):
        body = bytes(chunk[8:-4]) if name == b"iTXt" else b""
        if body.startswith(_XMP_KEY + b"\0\0"):
            yield body[len(_XMP_KEY) + 2 :].split(b"\0", 2)[-1]


def _png_content(data: bytes) -> Iterator[bytes | memoryview]:
    return (chunk for name, chunk in png_chunks(data) if name not in (*_TEXTS, _PNG_MANIFEST))


def _png_with(data: bytes, added: list[bytes], keys: set[str], keep_texts: bool) -> bytes:
    replaced = {key.encode("latin-1") for key in keys} | {_XMP_KEY.rstrip(b"\0")}
    parts: list[bytes | memoryview] = [PNG_MAGIC]
    for name, chunk in png_chunks(data):
        if name == _PNG_MANIFEST:
            continue
        if name in _TEXTS and (not keep_texts or bytes(chunk[8:-4]).partition(b"\0")[0] in replaced):
            continue
        parts.append(chunk)
        if name == b"IHDR":
            parts += added
    return b"".join(parts)


# --- JPEG ---


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each marker with its segment, and last, with the marker of the scan, all the rest."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:
            break
        yield marker, data[at : at + 2 + length]
        at += 2 + length
    if at >= len(data):
        raise OutputCorrupt("the JPEG has no image data")
    yield 0xDA, data[at:]


def _is_metadata(marker: int) -> bool:
    """Return whether a segment does not change the pixels: APP1 and above but Adobe's colour transform, comments."""
    return marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)


def _is_jpeg_manifest(marker: int, segment: bytes) -> bool:
    return marker == 0xEB and segment[4:6] == b"JP"


def _jpeg_packets(data: bytes) -> Iterator[bytes]:
    for marker, segment in _jpeg_segments(data):
        if marker == 0xE1 and segment[4:].startswith(_XMP_HEADER):
            yield segment[4 + len(_XMP_HEADER) :]


def _jpeg_content(data: bytes) -> Iterator[bytes | memoryview]:
    return (segment for marker, segment in _jpeg_segments(data) if not _is_metadata(marker))


def _jpeg_with(data: bytes, xmp: bytes, keep_texts: bool) -> bytes:
    body = _XMP_HEADER + xmp
    if len(body) > _LONGEST_SEGMENT:
        raise OutputCorrupt("the provenance record is too long for a JPEG file")
    parts = [data[:2]]
    added = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    for marker, segment in _jpeg_segments(data):
        if marker != 0xE0 and added:  # JFIF's own segment must be the first
            parts, added = [*parts, added], b""
        replaced = marker == 0xE1 and segment[4:].startswith(_XMP_HEADER)
        if not (replaced or _is_jpeg_manifest(marker, segment)) and (keep_texts or not _is_metadata(marker)):
            parts.append(segment)
    return b"".join(parts)


# --- WebP ---


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _webp_packets(data: bytes) -> Iterator[bytes]:
    return (body for name, body in _webp_chunks(data) if name == b"XMP ")


def _webp_content(data: bytes) -> Iterator[bytes | memoryview]:
    for name, body in _webp_chunks(data):
        if name not in (b"XMP ", b"EXIF", b"VP8X", _WEBP_MANIFEST):
            yield name
            yield body


def _webp_with(data: bytes, xmp: bytes, keep_texts: bool) -> bytes:
    dropped = {b"XMP ", b"VP8X", _WEBP_MANIFEST} | (set() if keep_texts else {b"EXIF"})
    chunks = [(name, body) for name, body in _webp_chunks(data) if name not in dropped]
    header = next((body for name, body in _webp_chunks(data) if name == b"VP8X"), None) or _webp_header(data)
    flags = (header[0] | 0x04) & (0xFF if keep_texts else ~0x08)
    chunks = [(b"VP8X", bytes([flags]) + header[1:]), *chunks, (b"XMP ", xmp)]
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_header(data: bytes) -> bytes:
    """Return the extended header of a simple file: no flags but alpha, and the size."""
    from umrgen.image_files import verify

    facts = verify(data)
    if not facts.width or not facts.height:
        raise OutputCorrupt("the WebP has no size")
    has_alpha = any(name == b"VP8L" and len(body) > 4 and body[4] & 0x10 for name, body in _webp_chunks(data))
    sides = [(side - 1).to_bytes(3, "little") for side in (facts.width, facts.height)]
    return bytes([0x10 if has_alpha else 0, 0, 0, 0]) + b"".join(sides)
