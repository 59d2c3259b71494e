"""The time that an engine may take to load grows with its model's files."""

from pathlib import Path

import pytest

from umrgen.server.executors.subprocess import load_limit as module
from umrgen.server.executors.subprocess.load_limit import load_limit


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOWEST_DISK", 100)


def test_a_file_adds_the_time_of_a_slow_disk(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(5000))
    assert load_limit(600, {"model": str(model)}) == 650


def test_all_files_of_a_folder_count(tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(bytes(1000))
    assert load_limit(600, {"model": str(tmp_path)}) == 620


def test_a_link_whose_target_is_missing_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    (tmp_path / "moved").symlink_to(tmp_path / "nowhere")
    assert load_limit(600, {"model": str(tmp_path)}) == 610


@pytest.mark.parametrize("options", [{}, {"model": "owner/name"}, {"model": 5}, {"folder": "/"}])
def test_a_name_adds_nothing(options: dict[str, object]) -> None:
    assert load_limit(600, options) == 600
