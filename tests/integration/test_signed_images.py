"""Signed images from the server to the clients: download, verify, conversion; and a certificate that cannot sign."""

import base64
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import c2pa
import openai
import pytest
from PIL import Image

import umrgen
from support import ServerProcess, clean_environment, cli, server, until
from umrgen import Client
from umrgen.image_files import sniff, verify
from umrgen.provenance import Mark, Provenance, inspect, mark
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EncodedImage, EngineFailure, EngineInfo
from umrgen.server.engines.encoding import encoded
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.signing.trial import make_trial, write_trial
from umrgen.testing import FaultServer, Truncate, png_bytes

JS = Path(__file__).parents[2] / "js"
SMALL = {"width": 512, "height": 512, "steps": 1}
JS_SAVE = """
import { Umrgen } from "umrgen";
import { saveImage } from "umrgen/node";
const umrgen = new Umrgen({});
const job = await umrgen.submit("a boat", { width: 512, height: 512, steps: 1 });
const saved = await saveImage(job, "boat.png");
console.log(saved.mediaType, saved.width);
"""


def flags(folder: Path, *more: str) -> tuple[str, ...]:
    return (
        *("--signing-certificate", str(folder / "certificate.pem")),
        *("--signing-key", str(folder / "key.pem")),
        *more,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signing") / "trial"
    made = cli("provenance", "init", str(folder))
    assert made.returncode == 0
    assert "other validators will report the signer as untrusted" in made.stdout
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    return folder


@pytest.fixture(scope="module")
def signing_server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("signing") / "state", *flags(folder)) as running:
        yield running


def draw(running: ServerProcess, to: Path, **request: object) -> Path:
    with Client(running.url, running.key, journal=None) as client:
        client.generate("a red boat", to, **SMALL, **request)  # type: ignore[arg-type]
    return to


def expire(folder: Path) -> None:
    """Write a certificate that has expired, and its key."""
    write_trial(folder)
    chain, key, _ = make_trial(datetime.now(UTC) - timedelta(days=30), days=10)
    (folder / "certificate.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)


def metric(running: ServerProcess, name: str) -> float | None:
    with running.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


class TestSignedServer:
    def test_a_drawn_image_is_signed(self, signing_server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        file = draw(signing_server, tmp_path / "boat.png", seed=11)
        found = umrgen.verify(file, trust=folder / "root.pem")
        assert (found.mark, found.manifest.valid, found.manifest.trusted) == (Mark.MARKED, True, True)
        assert found.record is not None
        assert found.record.seed == 11
        assert c2pa.Reader("image/png", io.BytesIO(file.read_bytes())).get_validation_state() == "Valid"
        checked = cli("verify", str(file), "--json", "--trust", str(folder / "root.pem"))
        manifest = json.loads(checked.stdout)["files"][0]["manifest"]
        assert (checked.returncode, manifest["valid"], manifest["trusted"]) == (0, True, True)
        assert "signature  It was signed by UMRGEN trial signer" in cli("show", str(file)).stdout
        assert metric(signing_server, "umrgen_signing_up") == 1
        assert 396 < (metric(signing_server, "umrgen_signing_certificate_seconds") or 0) / 86400 < 398

    def test_the_javascript_client_saves_it(self, signing_server: ServerProcess, tmp_path: Path) -> None:
        program = shutil.which("node")
        if program is None:
            pytest.skip("Node is not installed")
        installed = tmp_path / "node_modules" / "umrgen"
        installed.parent.mkdir()
        installed.symlink_to(JS)
        (tmp_path / "save.mjs").write_text(JS_SAVE)
        address = {"UMRGEN_BASE_URL": signing_server.url, "UMRGEN_API_KEY": signing_server.key}
        done = subprocess.run(
            [program, "save.mjs"], cwd=tmp_path, env=clean_environment(**address), capture_output=True, text=True
        )
        assert done.stdout.split() == ["image/png", "512"], done.stderr
        assert umrgen.verify(tmp_path / "boat.png").manifest.valid

    def test_a_signed_reference_keeps_its_manifest(
        self, signing_server: ServerProcess, folder: Path, tmp_path: Path
    ) -> None:
        original = tmp_path / "photo.jpg"
        file = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
        signer = ManifestSigner(SigningOptions(str(folder / "certificate.pem"), str(folder / "key.pem")))
        original.write_bytes(signer.sign(file.getvalue(), Provenance("trainedAlgorithmicMedia")))
        plain = tmp_path / "plain.jpg"
        plain.write_bytes(file.getvalue())
        with Client(signing_server.url, signing_server.key, journal=None) as client:
            names = [client.upload(image) for image in (original, plain, original)]
            assert names[0] == names[2] != names[1], "the same content has the same name"
            drawn = tmp_path / "drawn.png"
            client.generate("a red boat", drawn, reference_images=[*names], **SMALL)
        report = json.loads(c2pa.Reader("image/png", io.BytesIO(drawn.read_bytes())).json())
        assert report["validation_state"] == "Valid"
        ingredients = report["manifests"][report["active_manifest"]]["ingredients"]
        assert len(ingredients) == 2
        (signed,) = [each for each in ingredients if each.get("active_manifest")]
        assert signed["active_manifest"] in report["manifests"]
        assert "failure" not in signed["validation_results"]["activeManifest"] or not [
            each["code"]
            for each in signed["validation_results"]["activeManifest"]["failure"]
            if each["code"] != "signingCredential.untrusted"
        ]
        stored = [path.name for path in (signing_server.state / "outputs").glob("sid_*/ref_*")]
        assert sorted(path.rpartition(".")[2] for path in stored) == ["c2pa", "png", "png"]
        with signing_server.http() as http:
            for name in names[:2]:
                assert http.delete(f"/api/v1/upload-reference/{name}").status_code == 200
        assert not list((signing_server.state / "outputs").glob("sid_*/ref_*"))

    @pytest.mark.parametrize("output_format", ["jpeg", "webp"])
    def test_a_conversion_by_the_server_is_signed_again(
        self, signing_server: ServerProcess, folder: Path, output_format: str
    ) -> None:
        with openai.OpenAI(base_url=f"{signing_server.url}/v1", api_key=signing_server.key) as sdk:
            answer = sdk.images.generate(
                model="any",
                prompt="a boat",
                size="512x512",  # type: ignore[arg-type]
                output_format=output_format,  # type: ignore[arg-type]
                extra_body={"steps": 1},
            )
        data = base64.b64decode(answer.data[0].b64_json or "")  # type: ignore[index]
        found = inspect(data, (folder / "root.pem").read_text())
        assert sniff(data[:16]) == f"image/{output_format}"
        assert (found.mark, found.manifest.trusted) == (Mark.MARKED, True)
        report = json.loads(c2pa.Reader(f"image/{output_format}", io.BytesIO(data)).json())
        (parent,) = report["manifests"][report["active_manifest"]]["ingredients"]
        assert parent["relationship"] == "parentOf"
        assert parent["active_manifest"] in report["manifests"]

    def test_a_conversion_by_the_client_keeps_the_record_only(
        self, signing_server: ServerProcess, tmp_path: Path
    ) -> None:
        found = umrgen.verify(draw(signing_server, tmp_path / "boat.jpg", seed=4))
        assert (found.mark, found.manifest.present) == (Mark.MARKED, False)
        assert found.record is not None
        assert found.record.seed == 4

    def test_check_prints_what_a_validator_reports(self, folder: Path) -> None:
        checked = cli("provenance", "check", *flags(folder))
        assert checked.returncode == 0
        for part in ("issuer    UMRGEN trial root", "key use   email protection", "which is not known as trusted"):
            assert part in checked.stdout
        assert cli("provenance", "init", str(folder)).returncode == 1
        assert "is there already, and is not replaced" in cli("provenance", "init", str(folder)).stderr


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_interrupted_download_of_a_signed_image_is_resumed(kind: str, folder: Path, tmp_path: Path) -> None:
    record, plain = Provenance("algorithmicMedia", seed=1), io.BytesIO()
    Image.open(io.BytesIO(png_bytes(60_000))).convert("RGB").save(plain, kind)
    signer = ManifestSigner(SigningOptions(str(folder / "certificate.pem"), str(folder / "key.pem")))
    signed = signer.sign(mark(plain.getvalue(), record), record)
    with FaultServer(mode="legacy", job_seconds=0, image=signed) as faults:
        script = faults.on("GET /outputs/*", Truncate(share=0.5), times=1)
        with Client(faults.url, faults.key, journal=None) as client:
            saved = client.generate("a boat", tmp_path / f"boat.{kind.lower()}")
        assert script.requests
    assert saved.path.read_bytes() == signed
    assert inspect(signed).manifest.valid


TSA_SETTINGS = """
[tsa]
default_tsa = trial
[trial]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
"""
TSA_CERTIFICATE = (
    *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "tsa.key", "-out", "tsa.pem", "-subj", "/O=a/CN=tsa"),
    *("-addext", "extendedKeyUsage=critical,timeStamping", "-addext", "keyUsage=critical,digitalSignature"),
    *("-addext", "basicConstraints=critical,CA:FALSE"),
)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class TimeStamps(BaseHTTPRequestHandler):
    """A time-stamp authority (RFC 3161)."""

    folder: Path

    def do_POST(self) -> None:
        (self.folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        openssl(self.folder, "ts", "-reply", "-config", "settings", "-queryfile", "query", "-out", "reply")
        body = (self.folder / "reply").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/timestamp-reply")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Print nothing."""


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[str]:
    TimeStamps.folder = tmp_path
    (tmp_path / "settings").write_text(TSA_SETTINGS)
    (tmp_path / "serial").write_text("01\n")
    openssl(tmp_path, *TSA_CERTIFICATE)
    with ThreadingHTTPServer(("127.0.0.1", 0), TimeStamps) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_a_signature_has_the_stamp_of_the_authority(folder: Path, authority: str) -> None:
    signing = SigningOptions(str(folder / "certificate.pem"), str(folder / "key.pem"), authority)
    record = Provenance("algorithmicMedia", seed=1)
    signed = ManifestSigner(signing).sign(mark(png_bytes(), record), record)
    reader = c2pa.Reader("image/png", io.BytesIO(signed))
    results = reader.get_validation_results()["activeManifest"]
    assert "timeStamp.validated" in {each["code"] for each in results["success"]}
    assert reader.get_active_manifest()["signature_info"]["time"]
    found = inspect(signed, (folder / "root.pem").read_text())
    assert (found.mark, found.manifest.trusted) == (Mark.MARKED, True)


class TestCertificatesThatCannotSign:
    @pytest.mark.slow
    def test_images_stay_unsigned(self, state: Path, tmp_path: Path) -> None:
        expire(tmp_path / "expired")
        with server(state, *flags(tmp_path / "expired")) as running:
            file = draw(running, tmp_path / "boat.png")
            assert metric(running, "umrgen_signing_up") == 0
            assert metric(running, "umrgen_signing_certificate_seconds") == 0
            log = running.log()
        found = umrgen.verify(file)
        assert (found.mark, found.manifest.present) == (Mark.MARKED, False)
        assert "images cannot be signed: the certificate expired on" in log
        assert "the image is not signed: the certificate expired on" in log
        secret = (tmp_path / "expired" / "key.pem").read_text().splitlines()[1]
        assert secret not in log

    def test_no_job_is_accepted_until_the_certificate_is_renewed(self, state: Path, tmp_path: Path) -> None:
        folder = tmp_path / "expired"
        expire(folder)
        running = ServerProcess(state, *flags(folder, "--signing-failure", "stop"))
        running.launch()
        try:
            with running.http() as http:
                refused = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL)
                assert refused.status_code == 503
                assert refused.json()["code"] == "engine_unavailable"
                assert "images cannot be signed: the certificate expired on" in refused.json()["error"]
                assert str(folder) not in refused.text
                assert http.get("/readyz").status_code == 503
                chain, key, _ = make_trial()
                (folder / "certificate.pem").write_bytes(chain)
                (folder / "key.pem").write_bytes(key)
                until(lambda: http.get("/readyz").status_code == 200)
            assert umrgen.verify(draw(running, tmp_path / "boat.png")).manifest.valid
        finally:
            assert running.stop() == 0

    @pytest.mark.slow
    def test_a_job_fails_when_its_image_must_be_signed_and_is_not(
        self, state: Path, folder: Path, tmp_path: Path
    ) -> None:
        unreachable = ("--signing-failure", "stop", "--signing-authority", "http://127.0.0.1:9/")
        with server(state, *flags(folder, *unreachable)) as running, pytest.raises(umrgen.JobFailed) as failed:
            draw(running, tmp_path / "boat.png")
        assert "the image cannot be signed: the time-stamp authority did not answer" in str(failed.value)
        assert not (tmp_path / "boat.png").exists()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--signing-key", "key.pem"), "signing_key is set without signing_certificate"),
            (("--signing-authority", "ftp://x"), "must be a URL such as http://timestamp.example.org; got 'ftp://x'"),
        ],
    )
    def test_settings_that_contradict_each_other(self, state: Path, arguments: tuple[str, ...], reason: str) -> None:
        refused = cli("serve", "--state", str(state), "--port", "0", *arguments)
        assert refused.returncode != 0
        assert reason in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_remote_engine_signs_too(folder: Path) -> None:
    signing = SigningOptions(str(folder / "certificate.pem"), str(folder / "key.pem"), required=True)
    task = DrawTask("ext_1", GenerationRequest("a boat", 7, width=512, height=512, steps=1), (png_bytes(),))
    info = EngineInfo("fake", "model", "1")
    image = encoded(EncodedImage(png_bytes(), "image/png"), task, info, signer=ManifestSigner(signing))
    assert inspect(image.data).manifest.valid
    assert verify(image.data).media_type == "image/png"
    broken = ManifestSigner(replace(signing, key="/no/such/file"))
    with pytest.raises(EngineFailure, match="the image cannot be signed: the key file cannot be read"):
        encoded(EncodedImage(png_bytes(), "image/png"), task, info, signer=broken)
