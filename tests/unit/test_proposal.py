"""The proposal of a model for a machine, and the settings file for it."""

import stat
from pathlib import Path

import pytest

from umrgen.server.deployment import user_unit
from umrgen.server.machine import Gpu, MachineFacts, inspect_machine
from umrgen.server.model_choice import choose
from umrgen.server.proposal import CANDIDATES, config_text, propose
from umrgen.server.settings import Settings

GIB = 1 << 30
ALL = frozenset(("comfyui", "diffusers", "procedural"))


def facts(*gpus: int, free: int = 500, comfyui: str = "", engines: frozenset[str] = ALL) -> MachineFacts:
    cards = tuple(Gpu(f"card {number}", memory * GIB) for number, memory in enumerate(gpus))
    return MachineFacts(cards, 64 * GIB, free * GIB, comfyui, engines)


@pytest.mark.parametrize(
    ("found", "model", "reason"),
    [
        (facts(), "procedural", "no GPU with 8 GiB or more was found"),
        (facts(6), "procedural", "the GPU has less than 8 GiB"),
        (facts(8), "black-forest-labs/FLUX.2-klein-4B", "is moved in parts to the 8 GiB of the card 0"),
        (facts(16), "black-forest-labs/FLUX.2-klein-4B", "fits into the 16 GiB of the card 0"),
        (facts(24), "Tongyi-MAI/Z-Image-Turbo", "fits into the 24 GiB of the card 0"),
        (facts(6, 24), "Tongyi-MAI/Z-Image-Turbo", "fits into the 24 GiB of the card 1"),
        (facts(24, free=10), "procedural", "only 10 GiB of disk are free"),
        (facts(24, engines=ALL - {"diffusers"}), "procedural", "diffusers is not installed"),
        (facts(24, comfyui="http://127.0.0.1:8188"), "http://127.0.0.1:8188", "a ComfyUI runs on this machine"),
        (facts(comfyui="http://127.0.0.1:8188", engines=ALL - {"comfyui"}), "procedural", "no GPU"),
    ],
)
def test_the_model_follows_from_the_machine(found: MachineFacts, model: str, reason: str) -> None:
    proposal = propose(found)
    assert proposal.model == model
    assert reason in proposal.reason


def test_a_better_choice_is_named_with_the_command_for_it() -> None:
    assert "pip install 'umrgen[server,diffusers]'" in propose(facts(24, engines=ALL - {"diffusers"})).advice
    assert "42 GiB of free disk" in propose(facts(24, free=10)).advice


def test_each_candidate_is_a_name_of_the_hub() -> None:
    assert {choose(candidate.name).engine for candidate in CANDIDATES} == {"diffusers"}


@pytest.mark.parametrize("found", [facts(), facts(24, 24), facts(comfyui="http://127.0.0.1:8188", free=3)])
def test_the_settings_file_has_the_proposal(found: MachineFacts, tmp_path: Path) -> None:
    file, proposal = tmp_path / "umrgen.toml", propose(found)
    file.write_text(config_text(proposal, found, tmp_path / 'a "folder"', 3091))
    settings = Settings.load({}, {}, file)
    assert (settings.model, settings.engine, settings.port) == (proposal.model, proposal.engine, 3091)
    assert settings.state == tmp_path / 'a "folder"'
    assert settings.devices == max(1, len(found.gpus))
    assert settings.retain_gib == (1 if found.free == 3 * GIB else 100)


def test_the_cards_that_nvidia_smi_lists_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA RTX 4090, 24564'\necho 'NVIDIA GRID, [N/A]'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = inspect_machine(tmp_path / "not" / "there")
    assert found.gpus == (Gpu("NVIDIA RTX 4090", 24564 << 20),)
    assert found.free > 0
    assert "procedural" in found.engines


@pytest.mark.parametrize("content", ["exit 9", "echo garbage", "echo ',,'"])
def test_a_failing_nvidia_smi_is_no_card(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{content}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "NVIDIA" not in str(inspect_machine(tmp_path).gpus)


def test_the_unit_of_a_user_quotes_paths() -> None:
    unit = user_unit(Path("/home/a b/umrgen"), Path("/home/100%/umrgen.toml"))
    assert 'ExecStart="/home/a b/umrgen" serve --config /home/100%%/umrgen.toml' in unit
    assert "EnvironmentFile=-/home/100%%/umrgen.env" in unit
