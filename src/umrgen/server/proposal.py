"""The settings that `umrgen setup` proposes for a machine, with the reasons."""

import json
from dataclasses import dataclass
from pathlib import Path

from umrgen.server.machine import MachineFacts
from umrgen.server.model_choice import choose

__all__ = ["Proposal", "config_text", "propose"]

GIB = 1 << 30
IMAGES_PART = 4
"""The images may use one part in so many of the free disk."""
MOST_IMAGES_GIB = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the hub. Memory is that of the card, and is from the table of engines/diffusers/families.py."""

    name: str
    memory: int
    least: int
    """With less memory than `memory`, parts are moved to main memory while others compute."""
    why: str


CANDIDATES = (
    Candidate(
        "Tongyi-MAI/Z-Image-Turbo", 21 * GIB, 16 * GIB, "8 steps an image, and Apache-2.0 by another project's note"
    ),
    Candidate(
        "black-forest-labs/FLUX.2-klein-4B",
        14 * GIB,
        8 * GIB,
        "4 steps an image, and Apache-2.0 by another project's note",
    ),
)
"""The best first."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model for this machine, the reason for it, and advice on what would be better."""

    model: str
    reason: str
    advice: str = ""
    devices: int = 1

    @property
    def engine(self) -> str:
        return choose(self.model).engine


def propose(facts: MachineFacts) -> Proposal:
    """Return the model to draw with on this machine, of those that need no other choice of the user."""
    if facts.comfyui and "comfyui" in facts.engines:
        return Proposal(facts.comfyui, "a ComfyUI runs on this machine, with its models and its GPU")
    candidate = _candidate(facts)
    if candidate is None:
        reason = "no GPU with 8 GiB or more was found" if not facts.gpus else "the GPU has less than 8 GiB"
        return Proposal("procedural", f"{reason}; this engine draws without a model, from words of the prompt")
    if "diffusers" not in facts.engines:
        advice = f"For {candidate.name}: pip install 'umrgen[server,diffusers]', then run umrgen setup again."
        return Proposal("procedural", "a GPU was found, but diffusers is not installed", advice)
    if facts.free < 2 * candidate.memory:
        advice = f"{candidate.name} needs about {2 * candidate.memory // GIB} GiB of free disk for its download."
        return Proposal("procedural", f"only {facts.free // GIB} GiB of disk are free", advice)
    devices = sum(gpu.memory >= candidate.least for gpu in facts.gpus)
    return Proposal(candidate.name, f"{_fit(facts, candidate)}; {candidate.why}", devices=devices)


def _candidate(facts: MachineFacts) -> Candidate | None:
    largest = max((gpu.memory for gpu in facts.gpus), default=0)
    whole = [candidate for candidate in CANDIDATES if largest >= candidate.memory]
    parts = [candidate for candidate in reversed(CANDIDATES) if largest >= candidate.least]
    return next(iter(whole + parts), None)


def _fit(facts: MachineFacts, candidate: Candidate) -> str:
    largest = max(facts.gpus, key=lambda gpu: gpu.memory)
    how = "fits into" if largest.memory >= candidate.memory else "is moved in parts to"
    return f"it {how} the {largest.memory / GIB:.0f} GiB of the {largest.name}"


def config_text(proposal: Proposal, facts: MachineFacts, state: Path, port: int) -> str:
    """Return the settings file for the proposal."""
    images = max(1, min(MOST_IMAGES_GIB, facts.free // GIB // IMAGES_PART))
    lines = [
        "# Written by umrgen setup. Every setting: docs/settings.md, or: umrgen serve --help",
        'host = "127.0.0.1"',
        f"port = {port}",
        f"state = {json.dumps(str(state), ensure_ascii=False)}",
        f"# {proposal.reason}",
        f"model = {json.dumps(proposal.model, ensure_ascii=False)}",
        *([f"devices = {proposal.devices}"] if proposal.devices > 1 else []),
        "# Above this, the oldest images are deleted.",
        f"retain_gib = {images}",
    ]
    return "\n".join(lines) + "\n"
