"""Reference images: accepted and refused files, and the stored result."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from made_images import MIB, encoded_image, png_of_size
from PIL import Image

from support import SMALL, ServerProcess, cli, finish, problem, server, submit
from umrgen import Client, InvalidRequest
from umrgen.image_files import verify

UPLOAD = "/api/v1/upload-reference"


def send(http: httpx2.Client, data: bytes, name: str = "x.png") -> httpx2.Response:
    return http.post(UPLOAD, files={"file": (name, data)})


@pytest.fixture
def running(state: Path):  # type: ignore[no-untyped-def]
    with server(state) as started:
        yield started


class TestAccepted:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "name"), [("PNG", "portrait.png"), ("JPEG", "notes.txt"), ("WEBP", "../../evil.php")]
    )
    def test_the_content_and_not_the_name_determines_the_type(
        self, running: ServerProcess, kind: str, name: str
    ) -> None:
        with running.http() as http:
            upload = send(http, encoded_image(kind), name).json()
            assert (upload["success"], upload["width"], upload["height"]) == (True, 64, 48)
            assert upload["filename"].startswith("ref_")
            assert name not in upload["filename"]
            back = http.get(upload["url"])
            assert back.headers["content-type"] == "image/png"
            assert verify(back.content).width == 64

    def test_only_pixels_are_kept(self, running: ServerProcess) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: rotated by 90 degrees
        exif.get_ifd(0x8825)[1] = "N"
        exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS latitude
        exif[0x010E] = "SECRET-PLACE"
        data = encoded_image("JPEG", exif=exif) + b"<?php polyglot ?><script>alert(1)</script>"
        with running.http() as http:
            upload = send(http, data).json()
            assert (upload["width"], upload["height"]) == (48, 64), "the orientation is applied"
            back = http.get(upload["url"]).content
        assert not Image.open(io.BytesIO(back)).getexif()
        for hidden in (b"SECRET-PLACE", b"polyglot", b"<script", b"Exif"):
            assert hidden not in back

    @pytest.mark.slow
    def test_a_large_image_is_scaled_down(self, running: ServerProcess) -> None:
        with running.http() as http:
            upload = send(http, encoded_image("JPEG", (4000, 1000))).json()
        assert (upload["width"], upload["height"]) == (2048, 512)

    @pytest.mark.slow
    def test_ten_mebibytes_are_accepted(self, running: ServerProcess) -> None:
        data = encoded_image("PNG")
        padded = data + bytes(10 * MIB - len(data))
        with running.http() as http:
            assert send(http, padded).status_code == 200
            problem(send(http, padded + b"\0"), 413, "too_large")

    @pytest.mark.slow
    def test_an_eleventh_image_is_refused(self, running: ServerProcess) -> None:
        images = [encoded_image("PNG", seed=seed) for seed in range(11)]
        with running.http() as http:
            names = [send(http, image).json()["filename"] for image in images[:10]]
            problem(send(http, images[10]), 409, "too_many_references")
            with Client(running.url, running.key, journal=False) as client, pytest.raises(InvalidRequest):
                client.upload(images[10])  # without retries, because waiting does not help
            stored = lambda: sorted(path.name for path in (running.state / "outputs").glob("sid_*/*"))  # noqa: E731
            assert stored() == sorted(names), "no file of the eleventh is stored"
            assert [each["filename"] for each in http.get(UPLOAD).json()["references"]] == names
            assert http.delete(f"{UPLOAD}/{names[0]}").json()["filename"] == names[0]
            problem(http.delete(f"{UPLOAD}/{names[0]}"), 404, "reference_not_found")
            assert send(http, images[10]).status_code == 200
            assert len(stored()) == 10

    def test_the_same_image_again_has_the_same_name_and_counts_once(self, running: ServerProcess) -> None:
        lossless = encoded_image("WEBP", lossless=True)
        with running.http() as http, ThreadPoolExecutor(2) as pool:
            names = {send(http, encoded_image("PNG")).json()["filename"] for _ in range(3)}
            names |= {answer.json()["filename"] for answer in pool.map(lambda _: send(http, lossless), range(2))}
            assert len(names) == 1
            assert len(http.get(UPLOAD).json()["references"]) == 1
            other = [send(http, encoded_image("PNG", seed=seed)).json()["filename"] for seed in range(2, 11)]
            assert len(set(other) | names) == 10
            assert send(http, encoded_image("PNG")).json()["filename"] in names
            http.delete(f"{UPLOAD}/{names.pop()}")
            again = send(http, encoded_image("PNG")).json()
            assert http.get(again["url"]).status_code == 200

    @pytest.mark.slow
    def test_sixteen_bits_of_grey_stay_grey(self, running: ServerProcess) -> None:
        encoded = io.BytesIO()
        Image.fromarray(np.full((32, 32), 20_000, np.uint16)).save(encoded, "PNG")
        with running.http() as http:
            upload = send(http, encoded.getvalue()).json()
            back = np.asarray(Image.open(io.BytesIO(http.get(upload["url"]).content)))
        assert back.shape == (32, 32, 3)
        assert set(back.ravel()) == {20_000 >> 8}


class TestRefused:
    @pytest.mark.slow
    def test_a_jpeg_with_thousands_of_scans_is_refused(self, running: ServerProcess) -> None:
        encoded = io.BytesIO()
        Image.new("RGB", (2000, 2000), (200, 30, 30)).save(encoded, "JPEG", progressive=True)
        data = encoded.getvalue()
        start = data.rindex(b"\xff\xda")
        bomb = data[:start] + data[start:-2] * 300 + data[-2:]
        with running.http() as http:
            problem(send(http, bomb), 415, "unsupported_media_type")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            b"GIF89a" + bytes(100),
            b"%PDF-1.7 " + bytes(100),
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            b"\xff\xd8\xff\xe0" + bytes(1000),
            b"RIFF\x10\0\0\0WEBPVP8 " + bytes(100),
            encoded_image("PNG")[:-40],
            encoded_image("BMP"),
            encoded_image("TIFF"),
        ],
        ids=["empty", "svg", "gif", "pdf", "png head", "jpeg head", "webp head", "cut off", "bmp", "tiff"],
    )
    def test_other_file_types_are_refused(self, running: ServerProcess, data: bytes) -> None:
        with running.http() as http:
            problem(send(http, data), 415, "unsupported_media_type")
        assert [path for path in (running.state / "outputs").rglob("*") if path.is_file()] == []

    @pytest.mark.slow
    def test_a_decompression_bomb_is_refused(self, running: ServerProcess) -> None:
        bomb = png_of_size(30_000, 3_000)
        assert len(bomb) < MIB
        with running.http() as http:
            error = problem(send(http, bomb), 415, "unsupported_media_type")
            assert "32 million pixels" in str(error["error"])
            assert http.get("/healthz").status_code == 200

    @pytest.mark.slow
    def test_invalid_forms_are_refused(self, running: ServerProcess) -> None:
        data = encoded_image("PNG")
        with running.http() as http:
            problem(
                http.post(UPLOAD, content=data, headers={"Content-Type": "image/png"}), 415, "unsupported_media_type"
            )
            problem(http.post(UPLOAD, files={"image": data}), 400, "invalid_request")
            problem(http.post(UPLOAD, data={"x": "text"}, files={"x": b"y"}), 400, "invalid_request")
            problem(http.post(UPLOAD, files=[("file", data)] * 11), 400, "invalid_request")
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            for body in (b"", b"--x", b"--y\r\n\r\n--y--", b"\0" * 100, b"--x\r\nA: b\r\n" * 1000):
                problem(http.post(UPLOAD, content=body, headers=kind), 400, "invalid_request")


class TestUsed:
    def test_a_reference_image_changes_the_image(self, running: ServerProcess) -> None:
        red = io.BytesIO()
        Image.new("RGB", (64, 64), (255, 0, 0)).save(red, "PNG")
        with running.http() as http:
            name = send(http, red.getvalue()).json()["filename"]
            plain = finish(http, submit(http, seed=3))
            guided = finish(http, submit(http, seed=3, reference_images=[name]))
            means = [
                np.asarray(Image.open(io.BytesIO(http.get(job["image_url"]).content))).mean((0, 1))
                for job in (plain, guided)
            ]
        assert means[1][0] - means[1][2] > means[0][0] - means[0][2] + 10, "the red reference image makes it redder"

    @pytest.mark.slow
    def test_a_deleted_reference_image_fails_the_job(self, state: Path) -> None:
        with server(state, "--step-delay", "0.5") as running, running.http() as http:
            name = send(http, encoded_image("PNG")).json()["filename"]
            first = submit(http, steps=50)
            waiting = submit(http, reference_images=[name])
            http.delete(f"{UPLOAD}/{name}").raise_for_status()
            http.post(f"/api/v1/cancel/{first}")
            job = finish(http, waiting)
        assert (job["state"], job["error_code"]) == ("failed", "reference_gone")

    @pytest.mark.slow
    def test_uploads_by_the_client_and_the_command_line(self, running: ServerProcess, tmp_path: Path) -> None:
        image = tmp_path / "mine.jpg"
        image.write_bytes(encoded_image("JPEG"))
        environment = {"UMRGEN_BASE_URL": running.url, "UMRGEN_API_KEY": running.key}
        with Client(running.url, running.key, journal=False) as client:
            name = client.upload(image)
            saved = client.generate("a boat", tmp_path / "a.png", **SMALL, reference_images=[name])
        assert saved.path.is_file()
        assert cli("upload", str(image), **environment).stdout.startswith("ref_")
        size = ("--width", "512", "--height", "512", "--steps", "1")
        done = cli("generate", "a boat", "--reference", str(image), *size, "-o", str(tmp_path / "b.png"), **environment)
        assert done.returncode == 0, done.stderr
        absent = cli("upload", str(tmp_path / "nothing.png"), **environment)
        assert absent.returncode == 1
        assert "cannot be read" in absent.stderr
        text = tmp_path / "notes.txt"
        text.write_text("no image")
        refused = cli("generate", "a boat", "--reference", str(image), "--reference", str(text), *size, **environment)
        assert refused.returncode == 1
        assert f"the reference {text} is not a PNG, JPEG or WebP image" in refused.stderr
        assert (
            len(
                httpx2.get(f"{running.url}{UPLOAD}", headers={"Authorization": f"Bearer {running.key}"}).json()[
                    "references"
                ]
            )
            == 1
        )
