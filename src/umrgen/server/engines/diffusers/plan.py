"""The choice of data type, offloading, attention and compilation, from the model's size and the memory there is.

The engine uses it when it loads a model; `umrgen engine plan` prints it without loading one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from umrgen.server.engines.diffusers.model_files import ModelFiles
from umrgen.server.engines.diffusers.options import DiffusersOptions, Size

__all__ = ["Machine", "Plan", "machine_here", "plan"]

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a parameter."""
WORKING = GIB
"""Bytes that drawing needs in addition to the weights: an estimate, not measured."""
WORKING_PER_MEGAPIXEL = 3 * GIB // 2
DEFAULT_SIZES: tuple[Size, ...] = ((512, 512), (768, 768), (1024, 1024))
"""Measured on CUDA; a batch seldom gains above 768 × 768."""
CUDA_BATCH = 4
"""The largest batch that is measured on CUDA unless max_batch is given."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and its memory in bytes; for the CPU and for MPS, `memory` is that of the machine."""

    device: str
    memory: int
    ram: int
    bfloat16: bool = True
    """Whether it computes with bfloat16."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The way in which a model is loaded on a device."""

    device: str
    dtype: str
    offload: str
    attention: str
    compile: bool
    max_batch: int
    sizes: tuple[Size, ...]
    weights: int
    """Bytes of all weights in the data type."""
    expected: int
    """Bytes of device memory while it draws: an estimate."""
    fits: bool
    """False if even the strongest offloading needs more memory than there is."""

    def line(self) -> str:
        """Return the choice in one line, for the log."""
        sizes = ", ".join(f"{width}x{height}" for width, height in self.sizes) or "none"
        return (
            f"device {self.device}, dtype {self.dtype}, offload {self.offload}, attention {self.attention}, "
            f"compile {'yes' if self.compile else 'no'}, batches of up to {self.max_batch}, warm-up {sizes}, "
            f"weights {self.weights / GIB:.1f} GiB, expected {self.expected / GIB:.1f} GiB"
        )


def _dtype(options: DiffusersOptions, machine: Machine) -> str:
    if options.dtype != "auto":
        return options.dtype
    if machine.device == "cpu":
        return "float32"
    return "bfloat16" if machine.bfloat16 else "float16"


def _working(sizes: tuple[Size, ...]) -> int:
    megapixels = max((width * height for width, height in sizes or DEFAULT_SIZES)) / (1 << 20)
    return WORKING + int(WORKING_PER_MEGAPIXEL * megapixels)


def _needs(weights: Mapping[str, int], working: int) -> dict[str, int]:
    """Return the device memory of each kind of offloading."""
    largest = max(weights.values(), default=0)
    return {"none": sum(weights.values()) + working, "model": largest + working, "group": working}


def _offload(options: DiffusersOptions, machine: Machine, needs: Mapping[str, int]) -> str:
    """Return the weakest offloading that fits. Only on CUDA there is another memory to offload to."""
    if not machine.device.startswith("cuda"):
        return "none"
    if options.offload != "auto":
        return options.offload
    return next((kind for kind, needed in needs.items() if needed <= machine.memory), "group")


def plan(files: ModelFiles, options: DiffusersOptions, machine: Machine) -> Plan:
    """Return how the engine loads the model on this machine."""
    cuda = machine.device.startswith("cuda")
    dtype = _dtype(options, machine)
    sizes = options.sizes if options.sizes is not None else DEFAULT_SIZES if cuda else ()
    weights = {name: count * BYTES[dtype] for name, count in files.parameters.items()}
    needs = _needs(weights, _working(sizes))
    offload = _offload(options, machine, needs)
    compiled = cuda and offload == "none" and options.loras is None
    return Plan(
        device=machine.device,
        dtype=dtype,
        offload=offload,
        attention="native" if options.attention == "auto" else options.attention,
        compile=compiled if options.compile is None else options.compile,
        max_batch=options.max_batch or (CUDA_BATCH if cuda else 1),
        sizes=sizes,
        weights=sum(weights.values()),
        expected=needs[offload],
        fits=needs[offload] <= machine.memory and sum(weights.values()) <= max(machine.ram, machine.memory),
    )


def _ram() -> int:
    """Return the bytes of memory that programs can still get; 0 where the system has no /proc/meminfo."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def machine_here(device: str = "auto", process: int = 0) -> Machine:
    """Return the device that `device` means for a process on this machine, and its free memory. Imports torch.

    Raises ImportError without torch, and ValueError for a device that is not there.
    """
    import torch

    ram = _ram()
    if device == "auto":
        device = (
            f"cuda:{process}" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    here = Machine(device, ram, ram)
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            raise ValueError(f"there is no device {device}; this machine has {torch.cuda.device_count()} CUDA devices")
        free, _ = torch.cuda.mem_get_info(number)
        return replace(here, device=f"cuda:{number}", memory=free, bfloat16=torch.cuda.is_bf16_supported())
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("there is no device mps on this machine")
    return here
