"""Downloading a model from a fake of the hub, in processes of their own: the hub's library reads its settings once."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub

from support import clean_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed: make torch"),
]
PULL = """
import sys
from umrgen.server.engines import EngineFailure
from umrgen.server.engines.diffusers.pull import pull
try:
    files = pull(sys.argv[1], None, lambda file, done, total: print(file, done, total))
    print("revision", files.revision, files.family.pipeline)
except EngineFailure as failure:
    print("failure", failure)
"""
FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/merges.txt",
)
NOT_WANTED = (
    "README.md",
    "pipeline.py",
    "whole.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "onnx/vae/config.json",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    header = b'{"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    for name in (*FILES, *NOT_WANTED):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        weights = len(header).to_bytes(8, "little") + header + bytes(4)
        (folder / name).write_bytes(weights if name.endswith(".safetensors") else b"{}")
    index = {"_class_name": "ZImagePipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def pull(hub: FakeHub, name: str, cache: Path) -> list[str]:
    environment = clean_environment(HF_ENDPOINT=hub.url, HF_HOME=str(cache), HF_HUB_OFFLINE="0")
    run = subprocess.run(
        [sys.executable, "-c", PULL, name], capture_output=True, text=True, env=environment, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_model_is_downloaded_at_one_revision_with_progress(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with FakeHub({"org/model": model}) as hub:
        *files, last = pull(hub, "org/model", cache)
        assert last == f"revision {COMMIT} ZImagePipeline"
        assert sorted(line.split()[0] for line in files) == sorted(FILES)
        assert files[-1].startswith("vae/diffusion_pytorch_model.safetensors ")
        done, total = files[-1].split()[1:]
        assert done == total
        folder = cache / "hub" / "models--org--model"
        assert (folder / "refs" / "umrgen").read_text() == COMMIT
        loaded = {
            str(path.relative_to(folder / "snapshots" / COMMIT)) for path in folder.glob(f"snapshots/{COMMIT}/**/*.*")
        }
        assert loaded == set(FILES)
        before = len([request for request in hub.requests if request.startswith("GET /org")])
        pull(hub, "org/model", cache)
        assert len([request for request in hub.requests if request.startswith("GET /org")]) == before


def test_a_model_that_cannot_be_downloaded_is_refused_and_not_pinned(model: Path, tmp_path: Path) -> None:
    index = {"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    with FakeHub({"org/model": model, "org/other": model}) as hub:
        (failure,) = pull(hub, "org/missing", tmp_path / "cache")
        assert "'org/missing' cannot be downloaded" in failure
        (model / "model_index.json").write_text(json.dumps(index))
        assert "is a WanPipeline, which this engine does not have" in pull(hub, "org/other", tmp_path / "cache")[-1]
        assert not (tmp_path / "cache" / "hub" / "models--org--other" / "refs" / "umrgen").exists()
        (model / "model_index.json").unlink()
        (failure,) = pull(hub, "org/model", tmp_path / "cache")
        assert "has no model_index.json" in failure
    (failure,) = pull(hub, "org/model", tmp_path / "cache")
    assert "cannot be downloaded" in failure
