"""C2PA manifests: signed with a certificate of the test, read by the library's reader and by ours, and refused."""

import io
import json
import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import umrgen
from umrgen.image_files import PNG_MAGIC, sniff, verify
from umrgen.provenance import Manifest, Mark, Provenance, inspect, mark
from umrgen.provenance.containers import content_digest, manifest_size, packets, with_packet
from umrgen.provenance.manifest import MAX_MANIFEST
from umrgen.server.signing import ManifestSigner, SigningFailed, SigningOptions, trial
from umrgen.server.signing.certificates import BadCredentials, CredentialFiles
from umrgen.server.signing.status import SigningStatus
from umrgen.server.signing.trial import make_trial, write_trial
from umrgen.testing import FakeClock

EXPIRED = Path(__file__).parents[1] / "fixtures" / "manifests" / "signed_by_expired_certificate.png"
"""An image that was signed by a certificate of `make_trial`, seconds before that expired: on 2026-11-27."""
RECORD = Provenance(
    "trainedAlgorithmicMedia",
    version="1.2",
    engine="diffusers",
    engine_version="0.42",
    model="Z-Image-Turbo",
    prompt="a lighthouse 灯台 \U0001f5fc",
    seed=7,
    cfg=1.5,
    loras=(("ink", 0.5),),
    job_id="ext_1",
)


def picture(kind: str, seed: int = 5) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
KINDS = ["PNG", "JPEG", "WEBP"]
MARKED = {kind: mark(picture(kind), RECORD) for kind in KINDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signing") / "trial"
    write_trial(folder)
    return folder


def options(folder: Path, **changed: Any) -> SigningOptions:
    return replace(SigningOptions(str(folder / "certificate.pem"), str(folder / "key.pem")), **changed)


@pytest.fixture(scope="module")
def signer(folder: Path) -> ManifestSigner:
    return ManifestSigner(options(folder))


@pytest.fixture(params=KINDS)
def marked(request: pytest.FixtureRequest) -> bytes:
    return MARKED[request.param]


def report(data: bytes) -> dict[str, Any]:
    """Return the report of the library's reader."""
    found: dict[str, Any] = json.loads(c2pa.Reader(sniff(data[:16]), io.BytesIO(data)).json())
    return found


def active(data: bytes) -> dict[str, Any]:
    found = report(data)
    manifest: dict[str, Any] = found["manifests"][found["active_manifest"]]
    return manifest


def actions(data: bytes) -> list[dict[str, Any]]:
    (found,) = [each for each in active(data)["assertions"] if each["label"].startswith("c2pa.actions")]
    listed: list[dict[str, Any]] = found["data"]["actions"]
    return listed


def checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the right checksums."""
    result, at = bytearray(data), len(PNG_MAGIC)
    while at + 12 <= len(result):
        (length,) = struct.unpack_from(">I", result, at)
        end = at + 8 + length
        result[end : end + 4] = struct.pack(">I", zlib.crc32(result[at + 4 : end]))
        at = end + 4
    return bytes(result)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def manifest_chunk(data: bytes) -> bytes:
    """Return the chunk caBX of a PNG."""
    start = data.index(b"caBX") - 4
    (length,) = struct.unpack_from(">I", data, start)
    return data[start : start + 12 + length]


def with_chunk(data: bytes, added: bytes) -> bytes:
    """Return a PNG with a chunk after its header."""
    return data[:33] + added + data[33:]


class TestSigning:
    def test_the_readers_agree_that_it_is_valid(self, marked: bytes, signer: ManifestSigner) -> None:
        signed = signer.sign(marked, RECORD)
        found = inspect(signed)
        assert (found.mark, found.record) == (Mark.MARKED, RECORD)
        assert (found.manifest.present, found.manifest.valid, found.manifest.trusted) == (True, True, False)
        assert found.manifest.signer == "UMRGEN trial signer, UMRGEN trial"
        assert "not known as trusted" in found.reason
        assert report(signed)["validation_state"] == "Valid"
        assert verify(signed).media_type == verify(marked).media_type
        assert content_digest(signed) == content_digest(marked)

    def test_the_manifest_states_how_the_image_was_made(self, marked: bytes, signer: ManifestSigner) -> None:
        signed = signer.sign(marked, RECORD)
        (action,) = actions(signed)
        assert action["action"] == "c2pa.created"
        assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert action["softwareAgent"] == {"name": "UMRGEN diffusers Z-Image-Turbo", "version": "0.42"}
        assert inspect(signed).manifest.record == RECORD
        assert "thumbnail" not in active(signed)

    def test_a_signer_is_trusted_by_its_root_only(self, signer: ManifestSigner, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "image.png").write_bytes(signer.sign(MARKED["PNG"], RECORD))
        assert umrgen.verify(tmp_path / "image.png", trust=folder / "root.pem").manifest.trusted
        (tmp_path / "other.pem").write_bytes(make_trial()[2])
        found = umrgen.verify(tmp_path / "image.png", trust=tmp_path / "other.pem").manifest
        assert (found.valid, found.trusted) == (True, False)

    @pytest.mark.parametrize("body", [None, "", "!!!!", "AAA"])
    def test_a_list_without_certificates_is_refused(self, body: str | None, tmp_path: Path) -> None:
        text = "text" if body is None else PEM.format(body)
        (tmp_path / "roots.pem").write_text(text)
        with pytest.raises(umrgen.UmrgenError, match=r"roots\.pem has no certificates in PEM form"):
            umrgen.verify(MARKED["PNG"], trust=tmp_path / "roots.pem")

    def test_a_list_with_damaged_certificates_trusts_no_signer(self, signer: ManifestSigner, folder: Path) -> None:
        signed, root = signer.sign(MARKED["PNG"], RECORD), (folder / "root.pem").read_text()
        for roots in (PEM.format("AAAA"), PEM.format("!!!!"), PEM.format("!!!!") + root):
            found = inspect(signed, roots).manifest
            assert (found.valid, found.trusted) == (True, False)
        assert inspect(signed, PEM.format("AAAA") + root).manifest.valid

    def test_references_keep_their_own_manifests(self, signer: ManifestSigner) -> None:
        reference = signer.sign(MARKED["JPEG"], RECORD)
        signed = signer.sign(MARKED["PNG"], RECORD, [reference, picture("WEBP")])
        first, second = active(signed)["ingredients"]
        assert first["relationship"] == second["relationship"] == "inputTo"
        assert first["active_manifest"] == report(reference)["active_manifest"]
        assert "active_manifest" not in second
        assert len(actions(signed)[0]["parameters"]["ingredients"]) == 2
        assert inspect(signed).manifest.valid

    def test_a_reference_with_a_damaged_manifest_is_an_ingredient(self, signer: ManifestSigner) -> None:
        reference = signer.sign(MARKED["PNG"], RECORD)
        damaged = checksums(reference.replace(b"c2pa.created", b"c2pa.creatEd", 1))
        found = inspect(signer.sign(MARKED["PNG"], RECORD, [damaged])).manifest
        assert (found.valid, found.trusted) == (True, False)

    def test_a_conversion_has_the_original_as_its_parent(self, signer: ManifestSigner) -> None:
        original = signer.sign(MARKED["PNG"], RECORD)
        converted = signer.sign(MARKED["JPEG"], RECORD, original=original)
        (ingredient,) = active(converted)["ingredients"]
        assert ingredient["relationship"] == "parentOf"
        assert ingredient["active_manifest"] == report(original)["active_manifest"]
        assert [each["action"] for each in actions(converted)] == ["c2pa.opened", "c2pa.converted"]
        found = inspect(converted)
        assert (found.mark, found.manifest.valid, found.source_type) == (Mark.MARKED, True, "trainedAlgorithmicMedia")

    def test_a_new_mark_removes_the_manifest(self, marked: bytes, signer: ManifestSigner) -> None:
        signed = signer.sign(marked, RECORD)
        assert manifest_size(signed)
        assert mark(signed, RECORD) == marked

    @settings(max_examples=30, deadline=None)
    @given(prompt=st.text(max_size=2000))
    def test_every_prompt_can_be_signed(self, signer: ManifestSigner, prompt: str) -> None:
        record = replace(RECORD, prompt=prompt or "x")
        assert inspect(signer.sign(mark(MARKED["PNG"], record), record)).manifest.valid

    def test_a_renewed_certificate_is_used_without_a_restart(self, tmp_path: Path) -> None:
        write_trial(tmp_path / "a")
        signer = ManifestSigner(options(tmp_path / "a"))
        first = signer.sign(MARKED["PNG"], RECORD)
        chain, key, root = make_trial()
        (tmp_path / "a" / "certificate.pem").write_bytes(chain)
        (tmp_path / "a" / "key.pem").write_bytes(key)
        second = signer.sign(MARKED["PNG"], RECORD)
        assert not inspect(first, root.decode()).manifest.trusted
        assert inspect(second, root.decode()).manifest.trusted

    def test_a_time_stamp_authority_that_does_not_answer(self, folder: Path) -> None:
        with pytest.raises(SigningFailed, match="the time-stamp authority did not answer"):
            ManifestSigner(options(folder, authority="http://127.0.0.1:9/")).sign(MARKED["PNG"], RECORD)


class TestChanges:
    def test_a_changed_record_is_noticed(self, marked: bytes, signer: ManifestSigner) -> None:
        signed = signer.sign(marked, RECORD)
        changed = signed.replace(b"a lighthouse", b"a windmill..", 1)
        if sniff(changed[:16]) == "image/png":
            changed = checksums(changed)
        found = inspect(changed)
        assert (found.mark, found.manifest.valid, found.manifest.trusted) == (Mark.CHANGED, False, False)
        assert "changed since" in found.reason

    def test_the_manifest_of_another_image_is_noticed(self, signer: ManifestSigner) -> None:
        other = signer.sign(mark(picture("PNG", 6), RECORD), RECORD)
        found = inspect(with_chunk(MARKED["PNG"], manifest_chunk(other)))
        assert (found.mark, found.manifest.valid) == (Mark.CHANGED, False)
        assert "It is not the file that UMRGEN trial signer, UMRGEN trial signed" in found.reason

    def test_a_record_for_other_pixels_is_not_believed_although_it_is_signed(self, signer: ManifestSigner) -> None:
        other = with_packet(picture("PNG", 6), packets(MARKED["PNG"])[0])
        found = inspect(signer.sign(other, RECORD))
        assert (found.mark, found.manifest.valid) == (Mark.CHANGED, True)
        assert "the pixels were changed since" in found.reason

    def test_pixels_changed_after_signing(self, signer: ManifestSigner) -> None:
        signed = signer.sign(picture("JPEG"), RECORD)
        assert inspect(signed).mark is Mark.MARKED
        assert inspect(signed[:-20] + bytes([signed[-20] ^ 1]) + signed[-19:]).mark is Mark.CHANGED


class TestForeignManifests:
    def test_the_manifest_alone_is_a_mark(self, signer: ManifestSigner) -> None:
        found = inspect(signer.sign(picture("WEBP"), replace(RECORD, source_type="compositeSynthetic")))
        assert (found.mark, found.source_type) == (Mark.MARKED, "compositeSynthetic")
        assert "The C2PA manifest states: compositeSynthetic" in found.reason

    def test_a_photograph_is_not_marked_as_made_by_a_program(self, signer: ManifestSigner) -> None:
        found = inspect(signer.sign(picture("JPEG"), replace(RECORD, source_type="digitalCapture")))
        assert (found.mark, found.source_type, found.manifest.valid) == (Mark.NONE, "digitalCapture", True)

    def test_fields_of_our_record_with_other_types_are_left_out(self, signer: ManifestSigner) -> None:
        wrong = replace(RECORD, seed="7", loras=5, version=["x"], prompt={"a": 1})  # type: ignore[arg-type]
        found = inspect(signer.sign(picture("PNG"), wrong)).manifest.record
        assert found is not None
        assert (found.seed, found.loras, found.version, found.prompt) == (None, (), "", None)
        assert found.job_id == "ext_1"

    def test_control_characters_of_a_signer_are_not_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trial, "ORGANIZATION", "\x1b[2J\u202eevil")
        write_trial(tmp_path / "trial")
        found = inspect(ManifestSigner(options(tmp_path / "trial")).sign(picture("PNG"), RECORD))
        assert found.manifest.valid
        assert (found.manifest.signer or "").isprintable()
        assert found.reason.isprintable()


class TestBadManifests:
    def test_an_expired_signer_is_named_and_not_trusted(self) -> None:
        found = inspect(EXPIRED.read_bytes())
        assert (found.manifest.valid, found.manifest.trusted) == (False, False)
        assert found.manifest.signer == "UMRGEN trial signer, UMRGEN trial"
        assert "a certificate that had expired" in found.reason

    @pytest.mark.parametrize("at", [20, 500, 2000, 3000])
    def test_a_manifest_that_is_cut_short(self, at: int, signer: ManifestSigner) -> None:
        body = manifest_chunk(signer.sign(MARKED["PNG"], RECORD))[8:-4]
        found = inspect(with_chunk(MARKED["PNG"], chunk(b"caBX", body[:at])))
        assert (found.mark, found.manifest.present, found.manifest.valid) == (Mark.CHANGED, True, False)
        assert "cannot be read" in found.reason or "not valid" in found.reason or "changed since" in found.reason

    def test_a_manifest_that_is_too_large_is_not_read(self) -> None:
        found = inspect(with_chunk(MARKED["PNG"], chunk(b"caBX", bytes(MAX_MANIFEST))))
        assert (found.mark, found.manifest.valid) == (Mark.CHANGED, False)
        assert "are not read" in found.reason

    @pytest.mark.parametrize("of_itself", [True, False])
    def test_a_manifest_that_refers_to_itself(self, of_itself: bool, signer: ManifestSigner) -> None:
        signed = signer.sign(MARKED["PNG"], RECORD, [signer.sign(MARKED["PNG"], RECORD)])
        own, other = _labels(signed)
        replaced = signed.replace(other, own) if of_itself else signed.replace(own, other)
        found = inspect(checksums(replaced))
        assert (found.mark, found.manifest.valid, found.manifest.trusted) == (Mark.CHANGED, False, False)

    def test_two_manifests(self, signer: ManifestSigner) -> None:
        signed = signer.sign(MARKED["PNG"], RECORD)
        found = inspect(with_chunk(signed, manifest_chunk(signed)))
        assert (found.mark, found.manifest.valid) == (Mark.CHANGED, False)

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(KINDS),
        st.lists(st.tuples(st.integers(0, 8000), st.binary(max_size=8)), min_size=1, max_size=6),
        st.integers(2000, 9000),
    )
    def test_damaged_files_are_answered(
        self, signer: ManifestSigner, kind: str, changes: list[tuple[int, bytes]], end: int
    ) -> None:
        data = bytearray(signer.sign(MARKED[kind], RECORD)[:end])
        for at, value in changes:
            data[at : at + len(value)] = value
        found = inspect(bytes(data))
        assert found.mark in Mark
        assert not found.manifest.trusted

    def test_without_the_library_its_presence_is_reported(
        self, signer: ManifestSigner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signed, foreign = signer.sign(MARKED["PNG"], RECORD), signer.sign(picture("PNG"), RECORD)
        monkeypatch.setitem(sys.modules, "c2pa", None)
        found = inspect(signed)
        assert (found.mark, found.manifest.present, found.manifest.valid) == (Mark.MARKED, True, None)
        assert "pip install 'umrgen[c2pa]'" in found.reason
        assert inspect(foreign).mark is Mark.NONE
        assert "There is a C2PA manifest" in inspect(foreign).reason

    def test_a_file_without_a_manifest(self) -> None:
        assert inspect(MARKED["PNG"]).manifest == Manifest()


def _labels(signed: bytes) -> tuple[bytes, bytes]:
    """Return the label of the active manifest, and that of its ingredient."""
    own = report(signed)["active_manifest"].encode()
    (other,) = set(re.findall(rb"urn:c2pa:[0-9a-f-]{36}", signed)) - {own}
    return own, other


def rewritten(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def new_key(
    curve: ec.EllipticCurve, encryption: KeySerializationEncryption | None = None
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(curve)
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def other_root(folder: Path) -> None:
    """Write the certificate with another root of the same name."""
    leaf, _ = x509.load_pem_x509_certificates((folder / "certificate.pem").read_bytes())
    (folder / "certificate.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + make_trial()[2])


def no_key_usage(folder: Path) -> None:
    key, secret = new_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (folder / "certificate.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(secret)


class TestCredentials:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda folder: (folder / "key.pem").chmod(0o640), "mode 0640: chmod 600 it"),
            (lambda folder: (folder / "key.pem").unlink(), "the key file cannot be read: No such file"),
            (lambda folder: (folder / "certificate.pem").unlink(), "the certificate file cannot be read: No such file"),
            (rewritten("certificate.pem", b"text"), "has no certificates in PEM form"),
            (rewritten("certificate.pem", bytes(10)), "the certificate file is not PEM"),
            (rewritten("key.pem", b"SECRET-TEXT"), "has no private key in PEM form"),
            (rewritten("key.pem", make_trial()[1]), "does not belong to the first certificate"),
            (rewritten("certificate.pem", b"x" * (2 << 20)), "the certificate file is not PEM"),
            (rewritten("key.pem", new_key(ec.SECP256R1(), BestAvailableEncryption(b"secret"))[1]), "has a passphrase"),
            (rewritten("key.pem", new_key(ec.SECP384R1())[1]), "of the curve P-256"),
            (other_root, "are not a chain"),
            (no_key_usage, "not for digital signatures"),
        ],
    )
    def test_the_reason_is_named(self, change: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
        folder = tmp_path / "trial"
        write_trial(folder)
        change(folder)
        with pytest.raises(BadCredentials, match=reason) as raised:
            CredentialFiles(str(folder / "certificate.pem"), str(folder / "key.pem")).read()
        assert "SECRET" not in str(raised.value)
        assert str(tmp_path) not in str(raised.value)

    def test_dates(self, folder: Path) -> None:
        signer, now = ManifestSigner(options(folder)), datetime.now(UTC)
        signer.credentials(now)
        with pytest.raises(SigningFailed, match="the certificate expired on 20"):
            signer.credentials(now + timedelta(days=400))
        with pytest.raises(SigningFailed, match="is valid from 20"):
            signer.credentials(now - timedelta(days=1))

    def test_the_key_is_not_in_a_representation(self, folder: Path) -> None:
        secret = (folder / "key.pem").read_text().splitlines()[1]
        found = CredentialFiles(str(folder / "certificate.pem"), str(folder / "key.pem")).read()
        assert secret not in repr(found)
        assert secret not in repr(options(folder))


class TestStatus:
    @pytest.mark.parametrize("required", [True, False])
    def test_a_certificate_that_expires_while_the_server_runs(
        self, folder: Path, required: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = FakeClock(wall=datetime.now(UTC).timestamp())
        status = SigningStatus(ManifestSigner(options(folder, required=required)), clock)
        assert (status.trouble(), status.refusal(), caplog.text) == (None, None, "")
        assert 396 < status.seconds_left() / 86400 < 398
        clock.advance(400 * 86400)
        for _ in range(2):
            assert "images cannot be signed: the certificate expired on" in (status.trouble() or "")
        assert (status.refusal() is not None) == required
        assert status.seconds_left() == 0
        assert caplog.text.count("the certificate expired on") == 1
        assert ("no job is accepted" if required else "images stay unsigned") in caplog.text


def test_a_library_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(SigningFailed, match="the library for C2PA cannot be loaded"):
        ManifestSigner(options(folder)).sign(MARKED["PNG"], RECORD)
