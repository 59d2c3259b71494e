"""PNG writing: RGB pixels with text chunks (W3C PNG, third edition)."""

import struct
import zlib
from collections.abc import Mapping
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from umrgen.image_files import PNG_MAGIC

__all__ = ["encode_png"]


isal_zlib: ModuleType | None
try:
    from isal import isal_zlib
except ImportError:  # there is no wheel for every platform
    isal_zlib = None


def _deflate(raw: bytes) -> bytes:
    """Compress Up-filtered rows: by ISA-L where it is installed, else with run lengths only, which takes longer."""
    return _deflate_rle(raw) if isal_zlib is None else isal_zlib.compress(raw, 1)


def _deflate_rle(raw: bytes) -> bytes:
    """Compress with run lengths only: the rows become as small as with level 1, in a fraction of the time."""
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(raw) + packer.flush()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _text_chunk(key: str, value: str) -> bytes:
    """Return an uncompressed iTXt chunk: UTF-8, for prompts in any language. NUL, which ends a text, is removed."""
    return _chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.replace("\0", "").encode())


def _xmp(source_type: str) -> str:
    """Return an XMP packet that states how the image was created (IPTC Photo Metadata 2025.1)."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def encode_png(
    pixels: NDArray[np.uint8], texts: Mapping[str, str] | None = None, *, source_type: str | None = None
) -> bytes:
    """Return a PNG of RGB `pixels` of shape (height, width, 3). Raises ValueError for another shape or type.

    `texts` become text chunks, `source_type` (a term of IPTC's digitalsourcetype list, for example
    `trainedAlgorithmicMedia`) becomes an XMP packet. Every row uses the Up filter: the difference from the row above
    is one numpy subtraction, and results in runs that run-length deflate compresses fast.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 of shape (height, width, 3); got {pixels.dtype} {pixels.shape}")
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
            _chunk(b"IDAT", _deflate(rows.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )
