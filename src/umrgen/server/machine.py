"""Facts about this machine that decide which engine it can run: GPUs, memory, free disk, a ComfyUI, packages."""

import os
import shutil
import subprocess
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket

from umrgen.server.comfyui_hint import DEFAULT_URL, is_there
from umrgen.text import printable

__all__ = ["Gpu", "MachineFacts", "free_port", "inspect_machine"]

SMI_SECONDS = 10.0
PACKAGES = {"diffusers": ("torch", "diffusers"), "comfyui": ("websockets",), "procedural": ("numpy",)}
"""The packages that each engine needs in this environment."""
PORTS = 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics card, and its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What was found on this machine; sizes in bytes."""

    gpus: tuple[Gpu, ...]
    memory: int
    free: int
    """Free space where the images are to be kept."""
    comfyui: str
    """The address of a ComfyUI that responds; "" without one."""
    engines: frozenset[str]
    """The engines whose packages are installed."""


def inspect_machine(state: Path) -> MachineFacts:
    """Look at this machine. Changes nothing; takes a few seconds at most."""
    return MachineFacts(
        gpus=_nvidia_gpus() or _amd_gpus(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        free=shutil.disk_usage(next(path for path in (state, *state.parents) if path.exists())).free,
        comfyui=DEFAULT_URL if is_there() else "",
        engines=frozenset(name for name, packages in PACKAGES.items() if all(map(find_spec, packages))),
    )


def _nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the cards that nvidia-smi lists; none if it is missing, fails, or hangs."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in listed.splitlines():
        name, _, mebibytes = line.rpartition(",")
        with suppress(ValueError):  # a card without this figure has "[N/A]"
            found.append(Gpu(printable(name.strip(), 80), int(mebibytes) << 20))
    return tuple(found)


def _amd_gpus(drivers: Path = Path("/sys/class/drm")) -> tuple[Gpu, ...]:
    """Return the cards of the kernel's amdgpu driver."""
    found = []
    for file in sorted(drivers.glob("card*/device/mem_info_vram_total")):
        with suppress(OSError, ValueError):
            found.append(Gpu("AMD GPU", int(file.read_text())))
    return tuple(found)


def free_port(first: int) -> int:
    """Return the first port from `first` on that is free on loopback; `first` if none of the next ones is."""
    for port in range(first, first + PORTS):
        with closing(socket(AF_INET, SOCK_STREAM)) as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    return first
