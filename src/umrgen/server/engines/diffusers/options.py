"""The options of the diffusers engine, validated before anything is imported."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umrgen.model import LIMITS

__all__ = ["DiffusersOptions", "Size", "check"]

Size = tuple[int, int]
"""Width and height in pixels."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
OFFLOADS = ("auto", "none", "model", "group")
COMPILES = ("auto", True, False)
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""The name of a model on the hub: owner/name."""
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,200}")
ATTENTION = re.compile(r"[a-z0-9_]+")
SIZE = re.compile(r"(\d+)x(\d+)")
LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True)
class DiffusersOptions:
    """The options, each of the right type and within its bounds."""

    models: Mapping[str, str]
    """The folder, file or hub name of each model, by the name that requests use. The first is the default."""
    config: Path | None
    revision: str | None
    loras: Path | None
    dtype: str
    devices: tuple[str, ...]
    offload: str
    attention: str
    compile: bool | None
    """None: on CUDA, unless there are LoRAs or weights are offloaded."""
    max_batch: int | None
    """None: measured on CUDA, 1 on other devices."""
    sizes: tuple[Size, ...] | None
    """None: 1024x1024 on CUDA, none on other devices."""
    preview_every: int
    """Steps; 0: no previews."""
    steps: int | None
    cfg: float | None
    strength: float

    def device(self, number: int) -> str:
        """Return the device of the process with this number. Raises ValueError if the option names too few."""
        if self.devices == ("auto",):
            return "auto"
        if number >= len(self.devices):
            raise ValueError(f"process {number + 1} has no device: the option devices lists {len(self.devices)}")
        return self.devices[number]


def _wrong(name: str, must: str, value: Any) -> ValueError:
    return ValueError(f"{name} must be {must}; got {value!r}")


def _choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise _wrong(name, " or ".join(str(choice).lower() for choice in choices), value)
    return value


def _text(name: str, value: Any, pattern: "re.Pattern[str]", must: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(name, must, value)
    return value


def _number(name: str, value: Any, least: float, most: float, kind: type = int) -> Any:
    admitted = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, admitted) or not least <= value <= most:
        raise _wrong(name, f"{'a whole number of ' if kind is int else ''}{least:g} to {most:g}", value)
    return value


def _folder(name: str, value: Any) -> Path:
    if not isinstance(value, str) or not Path(value).expanduser().is_dir():
        raise _wrong(name, "a folder that exists", value)
    return Path(value).expanduser().resolve()


def _listed(value: Any) -> list[Any]:
    """Return a list, or a text with commas, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _devices(device: Any, devices: Any) -> tuple[str, ...]:
    if device != "auto" and devices:
        raise ValueError("device and devices cannot be given together")
    name = "devices" if devices else "device"
    return tuple(_text(name, each, DEVICE, "auto, cpu, mps, cuda or cuda:N") for each in _listed(devices or device))


def _sizes(sizes: Any) -> tuple[Size, ...] | None:
    if sizes is None:
        return None
    if sizes in ("", []):
        return ()
    found = [SIZE.fullmatch(str(each)) for each in _listed(sizes)]
    pairs = [(int(match[1]), int(match[2])) for match in found if match]
    if len(pairs) < len(found) or any(
        not LIMITS.side_min <= side <= LIMITS.side_max for pair in pairs for side in pair
    ):
        raise _wrong("sizes", f"like 1024x1024, sides of {LIMITS.side_min} to {LIMITS.side_max}", sizes)
    return tuple(pairs)


def _name(model: str) -> str:
    """Return the name by which requests select a model that has no other name."""
    path = Path(model).expanduser()
    return path.stem if path.suffix == ".safetensors" else path.name if path.exists() else model


def _models(model: Any, models: Any) -> dict[str, str]:
    if bool(model) == bool(models):
        raise ValueError("give either model, a folder, a .safetensors file or a hub name, or models, a table of them")
    table = {_name(str(model)): model} if model else models
    if not isinstance(table, Mapping):
        raise _wrong("models", "a table of names and models", models)
    for name, source in table.items():
        if not isinstance(source, str) or not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise _wrong("models", "a table of names and models", models)
        _check_source(source)
    return dict(table)


def _check_source(source: str) -> None:
    """Raise ValueError unless the model is a folder, a safetensors file, or has the form of a hub name."""
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return
    if path.is_file():
        raise _wrong("model", "a folder, a .safetensors file or a hub name (other files can contain code)", source)
    if not REPOSITORY.fullmatch(source):
        raise ValueError(
            f"there is no model {source!r}: no such folder or file, and a hub name has the form owner/name"
        )


def _config(config: Any, models: Mapping[str, str]) -> Path | None:
    """Return the folder with a single file's configuration, which would be downloaded otherwise."""
    single = [name for name, source in models.items() if source.endswith(".safetensors")]
    if single and not config:
        raise ValueError(
            f"the model {single[0]!r} is one file: give config, a folder with its family's model_index.json and "
            "the configuration of each component"
        )
    return _folder("config", config) if config else None


def _attention(attention: Any) -> str:
    name = _text("attention", attention, ATTENTION, "auto or the name of an attention backend of diffusers")
    if "hub" in name.split("_"):
        raise ValueError(f"attention must not be a backend that downloads its kernels; got {name!r}")
    return name


def check(
    *,
    model: Any,
    models: Any,
    config: Any,
    revision: Any,
    loras: Any,
    dtype: Any,
    device: Any,
    devices: Any,
    offload: Any,
    attention: Any,
    compile: Any,
    max_batch: Any,
    sizes: Any,
    preview_every: Any,
    steps: Any,
    cfg: Any,
    strength: Any,
) -> DiffusersOptions:
    """Return the options. Raises ValueError, with the value that is refused, for the first wrong one."""
    table = _models(model, models)
    if compile is True and loras:
        raise ValueError("compile cannot be true together with loras: each other LoRA would compile the model again")
    return DiffusersOptions(
        models=table,
        config=_config(config, table),
        revision=_text("revision", revision, REVISION, "a commit, tag or branch") if revision else None,
        loras=_folder("loras", loras) if loras else None,
        dtype=_choice("dtype", dtype, DTYPES),
        devices=_devices(device, devices),
        offload=_choice("offload", offload, OFFLOADS),
        attention=_attention(attention),
        compile=None if _choice("compile", compile, COMPILES) == "auto" else compile,
        max_batch=None if max_batch is None else _number("max_batch", max_batch, 1, LARGEST_BATCH),
        sizes=_sizes(sizes),
        preview_every=_number("preview_every", preview_every, 0, LIMITS.steps_max),
        steps=None if steps is None else _number("steps", steps, 1, LIMITS.steps_max),
        cfg=None if cfg is None else _number("cfg", cfg, 0, 30, float),
        strength=_number("strength", strength, 0.01, 1, float),
    )
