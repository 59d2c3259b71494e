"""The JavaScript reader of marks finds in each file what the Python one does."""

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_images import encoded_image
from PIL import Image

from support import clean_environment
from umrgen.image_files import png_chunk, sniff
from umrgen.provenance import Provenance, inspect, mark
from umrgen.provenance.containers import with_packet
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.signing.trial import write_trial

JS = Path(__file__).parents[2] / "js"
RECORD = Provenance(
    "trainedAlgorithmicMedia",
    version="1",
    engine="diffusers",
    prompt="a \"boat\" & <a> 'sail'\n灯台",
    seed=7,
    job_id="ext_1",
)
SCRIPT = """
import { readFileSync } from "node:fs";
import { inspect } from "umrgen/provenance";
const found = [];
for (const path of process.argv.slice(2)) found.push(await inspect(new Blob([readFileSync(path)])));
console.log(JSON.stringify(found));
"""


def xmp(text: str) -> str:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{text}</x:xmpmeta>'


def changed(data: bytes) -> bytes:
    """Return the image with other pixels and the same packet."""
    image = Image.open(io.BytesIO(data))
    file = io.BytesIO()
    image.rotate(90).save(file, image.format, xmp=image.info["xmp"], lossless=True)
    return file.getvalue()


def twice(data: bytes) -> bytes:
    at = data.index(b"XML:com.adobe.xmp") - 8
    packet = data[at : at + 12 + int.from_bytes(data[at : at + 4])]
    return data[:at] + packet + data[at:]


def files(signer: ManifestSigner) -> Iterator[bytes]:
    for kind in ("PNG", "JPEG", "WEBP"):
        plain = encoded_image(kind)
        marked = mark(plain, RECORD)
        yield from (plain, marked, changed(marked), marked[:-9], signer.sign(marked, RECORD))
        yield with_packet(plain, xmp("<umrgen:record>no JSON</umrgen:record>"))
    yield twice(mark(encoded_image("PNG"), RECORD))
    yield with_packet(encoded_image("PNG"), '<!DOCTYPE a [<!ENTITY b "c">]>' + xmp("<a>&b;</a>"))
    yield with_packet(encoded_image("PNG"), "x" * (300 << 10))
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeSynthetic"
    names = (
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    )
    name = "Iptc4xmpExt:DigitalSourceType"
    for description in (
        f'<rdf:Description {names} {name}="{source}"/>',
        f"<rdf:Description {names}><{name}>{source}</{name}></rdf:Description>",
    ):
        yield with_packet(encoded_image("WEBP"), xmp(description))
    settings = 'Steps: 20, CFG scale: 6.5, Seed: 7, Size: 512x768, Model: "m, n"'
    parameters = f'a boat, at "sea"\nin fog\nNegative prompt: people\n{settings}'
    for texts in (
        {"parameters": parameters},
        {"parameters": "Steps: 4"},
        {"parameters": "a text about Steps"},
        {"umrgen": RECORD.to_json()},
        {"umrgen": "no JSON", "parameters": parameters, "Author": "x"},
    ):
        plain = encoded_image("PNG")
        chunks = b"".join(
            png_chunk(b"tEXt", f"{key}\0{text}".encode("latin-1", "replace")) for key, text in texts.items()
        )
        yield plain[:33] + chunks + plain[33:]
        unpacked = b"".join(png_chunk(b"iTXt", f"{key}\0\0\0en\0\0{text}".encode()) for key, text in texts.items())
        yield plain[:33] + unpacked + plain[33:]
        yield with_packet(
            plain[:33] + unpacked + plain[33:],
            xmp(f'<rdf:Description {names} {name}="{source}"/>'),
        )
    yield plain[:33] + png_chunk(b"iTXt", b"parameters\0\x01\0\0\0packed") + png_chunk(b"tEXt", b"no zero") + plain[33:]
    head = encoded_image("PNG")[:33]
    yield head + png_chunk(b"IEND", b"")
    yield b"no image"


@pytest.fixture
def signer(tmp_path: Path) -> ManifestSigner:
    write_trial(tmp_path / "signing")
    return ManifestSigner(
        SigningOptions(*(str(tmp_path / "signing" / f"{name}.pem") for name in ("certificate", "key")))
    )


def test_the_marks_are_those_that_python_reads(signer: ManifestSigner, tmp_path: Path) -> None:
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed")
    installed = tmp_path / "node_modules" / "umrgen"
    installed.parent.mkdir()
    installed.symlink_to(JS)
    (tmp_path / "read.mjs").write_text(SCRIPT)
    data = list(files(signer))
    paths = [tmp_path / f"image-{number}" for number in range(len(data))]
    for path, content in zip(paths, data, strict=True):
        path.write_bytes(content)
    command = [program, "read.mjs", *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for one, content in zip(found, data, strict=True):
        expected = inspect(content)
        record = expected.record.as_dict() if expected.record else None
        if expected.manifest.present and expected.manifest.valid is not True:
            continue
        what = (sniff(content[:16]), expected.reason, one["reason"])
        assert (one["mark"], one["sourceType"], one["record"]) == (expected.mark, expected.source_type, record), what
        assert one["hasManifest"] == expected.manifest.present
    assert {one["mark"] for one in found} == {"marked", "changed", "none"}
    assert sum(one["hasManifest"] for one in found) == 3
