"""Provenance records in PNG, JPEG and WebP files: written, read again, and not believed too easily."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from umrgen.image_files import PNG_MAGIC, verify
from umrgen.provenance import Mark, Provenance, inspect, mark, parameters_of, parameters_text, read
from umrgen.provenance.containers import content_digest, packets, with_packet
from umrgen.provenance.record import MAX_RECORD
from umrgen.provenance.xmp import packet, record_of

RECORD = Provenance(
    "trainedAlgorithmicMedia",
    version="1.2",
    engine="diffusers",
    engine_version="0.42",
    model="Z-Image-Turbo",
    revision="abc123",
    prompt='a "lighthouse" & 灯台 \U0001f5fc\nat <dusk>',
    negative="fog",
    seed=7,
    steps=8,
    cfg=1.5,
    width=512,
    height=640,
    loras=(("ink", 0.5),),
    references=("ab" * 32,),
    batch=2,
    job_id="ext_1",
    created_at=1795329417360,
)


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(5).integers(0, 256, (24, 40, len(mode))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise if len(mode) > 1 else noise[:, :, 0], mode).save(file, kind, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x010E] = "a description"
FILES = {
    "png": picture("PNG"),
    "png with alpha": picture("PNG", "RGBA"),
    "jpeg": picture("JPEG"),
    "progressive jpeg": picture("JPEG", progressive=True),
    "jpeg with exif": picture("JPEG", exif=EXIF),
    "cmyk jpeg": picture("JPEG", "CMYK"),
    "grey jpeg": picture("JPEG", "L"),
    "webp": picture("WEBP"),
    "lossless webp": picture("WEBP", lossless=True),
    "webp with alpha": picture("WEBP", "RGBA"),
    "lossless webp with alpha": picture("WEBP", "RGBA", lossless=True),
    "webp with exif": picture("WEBP", exif=EXIF),
}


@pytest.fixture(params=FILES)
def plain(request: pytest.FixtureRequest) -> bytes:
    return FILES[request.param]


def pixels(data: bytes) -> tuple[str, bytes]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.mode, image.tobytes()


class TestMark:
    def test_a_record_is_read_again_and_the_pixels_are_the_same(self, plain: bytes) -> None:
        marked = mark(plain, RECORD)
        assert read(marked) == RECORD
        assert inspect(marked).mark is Mark.MARKED
        assert pixels(marked) == pixels(plain)
        assert verify(marked).media_type == verify(plain).media_type

    def test_other_programs_read_the_packet(self, plain: bytes) -> None:
        with Image.open(io.BytesIO(mark(plain, RECORD))) as image:
            image.load()
            xmp = image.info["xmp"]
        for part in (
            b"digitalsourcetype/trainedAlgorithmicMedia",
            b'CreatorTool="UMRGEN 1.2"',
            b'AISystemUsed="UMRGEN diffusers Z-Image-Turbo"',
        ):
            assert part in xmp

    def test_a_png_has_the_texts_that_other_tools_read(self) -> None:
        with Image.open(io.BytesIO(mark(FILES["png"], RECORD))) as image:
            image.load()
            assert image.text["parameters"].startswith(RECORD.prompt)  # type: ignore[union-attr]
            assert json.loads(image.text["umrgen"])["job_id"] == "ext_1"  # type: ignore[union-attr]

    def test_a_second_mark_replaces_the_first(self, plain: bytes) -> None:
        twice = mark(mark(plain, replace(RECORD, seed=1)), RECORD)
        assert twice == mark(plain, RECORD)
        assert len(packets(twice)) == 1

    def test_changed_pixels_are_noticed(self, plain: bytes) -> None:
        other = io.BytesIO()
        with Image.open(io.BytesIO(plain)) as image:
            kind = image.format
            image.rotate(180).save(other, kind)
        copied = with_packet(other.getvalue(), packets(mark(plain, RECORD))[0])
        found = inspect(copied)
        assert (found.mark, found.record) == (Mark.CHANGED, RECORD)

    def test_a_record_without_a_prompt_removes_the_texts_of_other_tools(self) -> None:
        texts = PngImagePlugin.PngInfo()
        for key in ("prompt", "workflow", "parameters"):
            texts.add_text(key, "a secret lighthouse")
        exif = Image.Exif()
        exif[0x010E] = "a secret lighthouse"
        for plain in (
            picture("PNG", pnginfo=texts, exif=exif),
            picture("JPEG", exif=exif, comment="a secret lighthouse"),
            picture("WEBP", exif=exif),
        ):
            assert b"secret" in plain
            hidden = mark(plain, replace(RECORD, prompt=None, negative=None))
            assert b"secret" not in hidden
            assert pixels(hidden) == pixels(plain)
            kept = inspect(hidden).record
            assert kept is not None
            assert (kept.prompt, kept.seed) == (None, 7)

    def test_the_texts_of_other_tools_stay_with_a_prompt(self) -> None:
        texts = PngImagePlugin.PngInfo()
        texts.add_text("workflow", "{}")
        assert b"workflow" in mark(picture("PNG", pnginfo=texts), RECORD)

    @settings(max_examples=60, deadline=None)
    @given(prompt=st.text(max_size=2000), kind=st.sampled_from(["png", "jpeg", "webp"]))
    def test_every_prompt_can_be_written(self, prompt: str, kind: str) -> None:
        record = replace(RECORD, prompt=prompt or "x")
        encodable = record.prompt.encode("utf-8", "replace").decode()  # type: ignore[union-attr]
        found = read(mark(FILES[kind], record))
        assert found is not None
        assert (found.prompt or "").encode("utf-8", "replace").decode() == encodable

    def test_the_longest_request_fits_into_a_jpeg(self) -> None:
        longest = replace(
            RECORD,
            prompt="\U0001f5fc" * 2000,
            negative="\U0001f5fc" * 2000,
            loras=tuple(("\U0001f5fc" * 200, 0.123456) for _ in range(8)),
            references=("ab" * 32,) * 10,
            model="m" * 200,
        )
        found = read(mark(FILES["jpeg"], longest))
        assert found is not None
        assert found.prompt == longest.prompt


class TestForeignMarks:
    def test_no_mark_proves_nothing(self, plain: bytes) -> None:
        found = inspect(plain)
        assert (found.mark, found.record, found.source_type) == (Mark.NONE, None, None)
        assert "proves nothing" in found.reason

    def test_the_source_type_of_another_program_is_reported(self) -> None:
        for body in (
            '<rdf:Description rdf:about="" xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            'I:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/compositeSynthetic"/>',
            '<rdf:Description xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><I:DigitalSourceType '
            'rdf:resource="http://cv.iptc.org/newscodes/digitalsourcetype/compositeSynthetic"/></rdf:Description>',
        ):
            found = inspect(with_packet(FILES["jpeg"], rdf(body)))
            assert (found.mark, found.source_type, found.record) == (Mark.CHANGED, "compositeSynthetic", None)

    def test_settings_of_a1111_are_read(self) -> None:
        texts = PngImagePlugin.PngInfo()
        texts.add_text(
            "parameters",
            "a boat\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, "
            'Model hash: 1a2b, Model: some-model, Lora hashes: "ink: 12, oil: 34", Version: 1.6',
        )
        found = inspect(picture("PNG", pnginfo=texts))
        assert found.mark is Mark.CHANGED
        assert found.record == Provenance(
            "trainedAlgorithmicMedia",
            prompt="a boat",
            negative="fog",
            seed=42,
            steps=20,
            cfg=7.0,
            width=512,
            height=768,
            model="some-model",
        )

    def test_two_packets_are_no_mark(self) -> None:
        first = mark(FILES["png"], RECORD)
        chunk = first[first.index(b"iTXtXML:com") - 4 :]
        (length,) = struct.unpack(">I", chunk[:4])
        end = len(PNG_MAGIC) + 25
        doubled = first[:end] + chunk[: length + 12] + first[end:]
        found = inspect(doubled)
        assert (found.mark, found.record) == (Mark.CHANGED, None)
        assert "several" in found.reason

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "<",
            "<a/>",
            '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
            '<!DOCTYPE x [<!ENTITY a "a">]>' + packet(RECORD, "ab"),
            "x" * 300_000,
            "<a>" * 100_000,
        ],
    )
    def test_a_packet_that_cannot_be_read_is_no_record(self, text: str) -> None:
        assert record_of(text) is None
        assert inspect(with_packet(FILES["webp"], text)).mark is Mark.NONE

    @settings(max_examples=200, deadline=None)
    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=5))
    def test_fields_of_a_wrong_type_are_left_out(self, value: Any) -> None:
        names = [name for name in RECORD.as_dict() if name != "source_type"]
        record = Provenance.from_json(json.dumps({"source_type": "algorithmicMedia"} | dict.fromkeys(names, value)))
        assert record is not None
        assert isinstance(record.job_id, str)
        assert isinstance(record.seed, int | None)
        record.to_json()

    def test_a_record_of_an_earlier_version_is_read(self) -> None:
        earlier = {
            "prompt": "a boat",
            "seed": 3,
            "engine": {"name": "procedural", "kind": "procedural", "version": "1"},
        }
        record = Provenance.from_json(json.dumps(earlier))
        assert record == Provenance(
            "algorithmicMedia", engine="procedural", engine_version="1", prompt="a boat", seed=3
        )

    @pytest.mark.parametrize(
        "text", ["[]", "null", "5", "{}", '{"source_type": 5}', "[" * 100_000, "x" * (MAX_RECORD + 1)]
    )
    def test_other_json_is_no_record(self, text: str) -> None:
        assert Provenance.from_json(text) is None

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from(sorted(FILES)),
        st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=8)), min_size=1, max_size=6),
        st.integers(0, 4000),
    )
    def test_damaged_files_are_answered(self, name: str, changes: list[tuple[int, bytes]], end: int) -> None:
        data = bytearray(mark(FILES[name], RECORD)[: end + 1])
        for at, value in changes:
            data[at : at + len(value)] = value
        assert inspect(bytes(data)).mark in Mark

    @pytest.mark.parametrize("data", [b"", b"text", PNG_MAGIC, b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"])
    def test_files_that_are_no_images_have_no_mark(self, data: bytes) -> None:
        assert inspect(data).mark is Mark.NONE

    def test_control_characters_of_a_record_are_not_shown(self) -> None:
        text = json.dumps({"source_type": "algorithmicMedia", "engine": "\x1b[2J\u202eevil", "job_id": "a\nb"})
        record = Provenance.from_json(text)
        assert record is not None
        assert record.engine.isprintable()
        assert record.job_id.isprintable()


def rdf(body: str) -> str:
    namespace = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{namespace}">{body}</rdf:RDF></x:xmpmeta>'


def test_the_text_of_a1111_is_read_as_it_is_written() -> None:
    found = parameters_of(parameters_text(RECORD))
    assert found is not None
    for name in ("prompt", "negative", "seed", "steps", "cfg", "width", "height", "model"):
        assert getattr(found, name) == getattr(RECORD, name)


@pytest.mark.parametrize("write", [lambda: packet(RECORD, "ab"), lambda: parameters_text(RECORD)])
def test_records_are_written_the_same_each_time(write: Callable[[], str]) -> None:
    assert write() == write()


def test_the_digest_covers_the_pixels_and_not_the_texts(plain: bytes) -> None:
    assert content_digest(mark(plain, RECORD)) == content_digest(plain)
    assert content_digest(FILES["png"]) != content_digest(FILES["png with alpha"])


def test_a_png_stays_valid_for_a_strict_reader() -> None:
    data, at = mark(FILES["png"], RECORD), len(PNG_MAGIC)
    names = []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        names.append(data[at + 4 : at + 8])
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(data[at + 4 : at + 8 + length])
        at += 12 + length
    assert (names[0], names[-1]) == (b"IHDR", b"IEND")
