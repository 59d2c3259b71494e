import hashlib
import io
import struct
import zlib
from base64 import b64encode
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from umrgen.errors import OutputCorrupt, OutputMissing
from umrgen.image_files import digest_from_headers, sniff, verify
from umrgen.server.png import encode_png


def noise(height: int, width: int, seed: int = 0) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(24, 40)).save(stream, kind, **options)
    return stream.getvalue()


PNG = encode_png(noise(20, 30))


class TestEncoding:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
    def test_pillow_decodes_the_same_pixels(self, height: int, width: int, seed: int) -> None:
        pixels = noise(height, width, seed)
        with Image.open(io.BytesIO(encode_png(pixels))) as image:
            image.load()
            assert np.array_equal(np.asarray(image), pixels)

    def test_a_view_with_strides_is_encoded_correctly(self) -> None:
        pixels = noise(20, 30)[::-2, ::3]
        with Image.open(io.BytesIO(encode_png(pixels))) as image:
            assert np.array_equal(np.asarray(image), pixels)

    @pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (4, 4, 1)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="height, width, 3"):
            encode_png(np.zeros(shape, np.uint8))


class TestVerifying:
    def test_a_valid_image_returns_its_properties(self) -> None:
        facts = verify(PNG, length=len(PNG), sha256=hashlib.sha256(PNG).hexdigest())
        assert (facts.media_type, facts.width, facts.height, facts.bytes) == ("image/png", 30, 20, len(PNG))

    def test_files_written_by_pillow_are_valid(self) -> None:
        for kind, media_type in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")):
            assert verify(saved(kind)).media_type == media_type
        assert verify(saved("JPEG", progressive=True)).width == 40

    def test_empty_is_missing(self) -> None:
        with pytest.raises(OutputMissing):
            verify(b"")

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"<!doctype html><p>hi", "HTML"), (b'{"error": "gone"}', "JSON"), (b"GIF89a" + bytes(20), "not PNG")],
    )
    def test_content_that_is_not_an_image_is_described(self, content: bytes, message: str) -> None:
        with pytest.raises(OutputCorrupt, match=message):
            verify(content)

    @given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
    def test_any_changed_byte_of_a_png_is_detected(self, at: int, change: int) -> None:
        broken = bytearray(PNG)
        broken[at] ^= change
        with pytest.raises(OutputCorrupt):
            verify(bytes(broken))

    @pytest.mark.parametrize("data", [PNG, saved("JPEG"), saved("WEBP")], ids=["png", "jpeg", "webp"])
    def test_any_truncation_is_detected(self, data: bytes) -> None:
        for length in {1, 13, len(data) // 100, len(data) // 2, len(data) - 1}:
            with pytest.raises(OutputCorrupt):
                verify(data[:length])

    def test_another_length_or_digest_than_announced_is_corrupt(self) -> None:
        with pytest.raises(OutputCorrupt, match="announced"):
            verify(PNG, length=len(PNG) - 1)
        with pytest.raises(OutputCorrupt, match="after its end"):
            verify(PNG + b"x")
        with pytest.raises(OutputCorrupt, match="SHA-256"):
            verify(PNG, sha256="00" * 32)

    def test_a_png_without_image_data_is_corrupt(self) -> None:
        def chunk(name: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
        with pytest.raises(OutputCorrupt, match="no image data"):
            verify(PNG[:8] + chunk(b"IHDR", header) + chunk(b"IEND", b""))

    @given(st.binary(max_size=200))
    def test_random_bytes_raise_documented_errors_only(self, data: bytes) -> None:
        for head in (b"", PNG[:8], b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBP", b"RIFF\x10\0\0\0WEBPVP8X"):
            with suppress(OutputCorrupt, OutputMissing):
                verify(head + data)

    def test_sizes_are_read(self) -> None:
        for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}):
            facts = verify(saved("WEBP", **options))
            assert (facts.width, facts.height) == (40, 24)


def test_sniffing() -> None:
    assert [sniff(data) for data in (PNG, saved("JPEG"), saved("WEBP"), b"BM")] == [
        "image/png",
        "image/jpeg",
        "image/webp",
        None,
    ]


class TestDigests:
    digest = hashlib.sha256(b"x").digest()
    field = f"sha-256=:{b64encode(digest).decode()}:"

    def test_repr_digest_takes_precedence_and_content_digest_needs_a_whole_response(self) -> None:
        assert digest_from_headers({"repr-digest": f"md5=:AA==:, {self.field}"}, partial=True) == self.digest.hex()
        assert digest_from_headers({"content-digest": self.field}, partial=False) == self.digest.hex()
        assert digest_from_headers({"content-digest": self.field}, partial=True) is None

    @pytest.mark.parametrize(
        "value", ["", "sha-256", "sha-256=::", "sha-256=:????:", "sha-256=:AAAA:", "sha-512=:AA==:"]
    )
    def test_an_invalid_digest_is_ignored(self, value: str) -> None:
        assert digest_from_headers({"repr-digest": value}, partial=False) is None
