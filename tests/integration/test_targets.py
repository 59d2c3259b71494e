"""Where images go: what can be known of a target is found before the submit, and a pipe is written to."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import clean_environment, cli, tied
from umrgen import Client, TargetUnusable
from umrgen.client.target import descriptor_of, is_stream
from umrgen.image_files import sniff, verify
from umrgen.testing import FaultServer


@pytest.fixture(scope="module")
def fault_server() -> Iterator[FaultServer]:
    with FaultServer(job_seconds=0) as running:
        yield running


@pytest.fixture
def environment(fault_server: FaultServer, tmp_path: Path) -> dict[str, str]:
    return {
        "UMRGEN_BASE_URL": fault_server.url,
        "UMRGEN_API_KEY": fault_server.key,
        "XDG_DATA_HOME": str(tmp_path / "home"),
    }


def redirected(shell: str, environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run `umrgen` with redirections of a shell, in `folder`."""
    command = tied("sh", "-c", f'"$0" -m umrgen {shell}', sys.executable)
    return subprocess.run(command, cwd=folder, env=clean_environment(**environment), capture_output=True, timeout=60)


class TestBeforeTheSubmit:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("x" * 252 + ".png", "too long"),
            ("/sys/x.png", "/sys"),
            ("/proc/x.png", "/proc"),
            ("missing/x.png", "mkdir -p"),
            ("taken.png", "already exists"),
            ("broken-link.png", "already exists"),
            ("taken.png/x.png", "does not exist"),
            ("x.gif", ".jpg"),
            ("x.TIFF", ".jpg"),
            ("nul\0.png", "NUL"),
        ],
    )
    def test_an_unusable_target(self, fault_server: FaultServer, tmp_path: Path, name: str, said: str) -> None:
        (tmp_path / "taken.png").write_bytes(b"mine")
        (tmp_path / "broken-link.png").symlink_to("nowhere")
        jobs = len(fault_server.jobs)
        with (
            Client(fault_server.url, fault_server.key, journal=None) as client,
            pytest.raises(TargetUnusable) as refused,
        ):
            client.generate("a boat", tmp_path / name)
        assert said in f"{refused.value} {refused.value.next}"
        assert len(fault_server.jobs) == jobs
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken-link.png", "taken.png"]
        assert (tmp_path / "taken.png").read_bytes() == b"mine"

    def test_without_pillow_other_formats_are_refused(
        self, fault_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("umrgen.client.target.find_spec", lambda name: None)
        jobs = len(fault_server.jobs)
        with (
            Client(fault_server.url, fault_server.key, journal=None) as client,
            pytest.raises(TargetUnusable, match="Pillow"),
        ):
            client.generate("a boat", tmp_path / "x.jpg")
        assert len(fault_server.jobs) == jobs

    def test_a_folder_that_is_named_with_a_slash_is_created(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = cli("generate", "a boat", "-n", "2", "-o", f"{tmp_path}/deep/boats/", "--json", **environment)
        assert done.returncode == 0, done.stderr
        assert {Path(image["path"]).parent for image in json.loads(done.stdout)["images"]} == {tmp_path / "deep/boats"}
        refused = cli("generate", "a boat", "-o", "/proc/boats/", **environment)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)

    @pytest.mark.parametrize("length", [200, 240, 251])
    def test_a_long_name_is_possible(self, fault_server: FaultServer, tmp_path: Path, length: int) -> None:
        target = tmp_path / ("ä" * (length // 2) + ".png")
        with Client(fault_server.url, fault_server.key, journal=None) as client:
            assert verify(client.generate("a boat", target).path.read_bytes())
        assert [entry.name for entry in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "jpeg"), (".JPEG", "jpeg"), (".webp", "webp"), (".png", "png")])
def test_the_format_follows_the_extension(fault_server: FaultServer, tmp_path: Path, suffix: str, kind: str) -> None:
    with Client(fault_server.url, fault_server.key, journal=None) as client:
        image = client.generate("a boat", tmp_path / f"x{suffix}")
    facts = verify(image.path.read_bytes(), sha256=image.sha256)
    assert (facts.media_type, image.media_type) == (f"image/{kind}", f"image/{kind}")
    assert (facts.width, facts.height) == (image.width, image.height)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"x{suffix}"]


def test_all_images_of_a_job_are_saved(tmp_path: Path) -> None:
    with FaultServer("legacy", job_seconds=0, images=2) as server:
        environment = {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key, "XDG_DATA_HOME": str(tmp_path)}
        done = cli("generate", "a boat", "-o", str(tmp_path / "x.png"), "--json", **environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [image["path"] for image in result["images"]] == [str(tmp_path / name) for name in ("x.png", "x-2.png")]
    for image in result["images"]:
        verify(Path(image["path"]).read_bytes(), sha256=image["sha256"])
    assert result["path"] == str(tmp_path / "x.png")


class TestStreams:
    @pytest.mark.parametrize("target", ["-", "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
    def test_stdout_has_the_image_and_nothing_else(
        self, environment: dict[str, str], tmp_path: Path, target: str
    ) -> None:
        (tmp_path / "link").symlink_to("/proc/self/fd/1")
        piped = redirected(f"generate boat -o {target} | cat", environment, tmp_path)
        assert verify(piped.stdout), piped.stderr
        assert b"sha256" in piped.stderr
        to_file = redirected(f"generate boat -o {target} --overwrite >> out", environment, tmp_path)
        assert to_file.returncode == 0, to_file.stderr
        assert verify((tmp_path / "out").read_bytes())
        assert (tmp_path / "link").is_symlink()

    def test_a_pipe_is_written_to(self, environment: dict[str, str], tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        done = redirected("generate boat -o pipe.jpg --overwrite & cat pipe.jpg; wait $!", environment, tmp_path)
        assert sniff(done.stdout) == "image/jpeg", done.stderr
        assert (tmp_path / "pipe.jpg").is_fifo()
        assert {entry.name for entry in tmp_path.iterdir()} == {"home", "pipe.jpg"}

    def test_a_full_device_is_one_error(self, environment: dict[str, str], tmp_path: Path) -> None:
        for shell in ("generate boat -q -o - > /dev/full", "generate boat -o /dev/full"):
            done = redirected(shell.replace(" -q", ""), environment, tmp_path)
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(b"umrgen: ")
            assert b"No space left" in done.stderr
            assert b"Traceback" not in done.stderr

    def test_what_stdout_cannot_have(self, environment: dict[str, str], tmp_path: Path) -> None:
        for options in ("--json", "--events", "-n 2"):
            assert redirected(f"generate boat -o - {options}", environment, tmp_path).returncode == 2

    def test_descriptors_and_devices_are_recognised(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "two").symlink_to("one")
        (tmp_path / "one").symlink_to("/dev/fd/7")
        (tmp_path / "loop").symlink_to("loop")
        assert descriptor_of(tmp_path / "two") == 7
        assert [is_stream(Path(name)) for name in ("/dev/null", "/proc/self/fd/99", "/dev/stderr")] == [True] * 3
        assert not any(is_stream(tmp_path / name) for name in ("", "file", "missing", "loop"))
