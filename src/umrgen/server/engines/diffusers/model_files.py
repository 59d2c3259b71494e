"""The files of a model: where they are, and that they contain weights only.

Reads JSON and lists folders; it imports no framework and downloads nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.diffusers.families import FAMILIES, Family, family_of

__all__ = ["PINNED", "ModelFiles", "find", "hub_folder"]

LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""The libraries that a component's class may be from; another one is code of the model's folder.

`stable_diffusion` is the part of diffusers with the safety checker.
"""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
"""Formats that execute code when they are read."""
PINNED = "umrgen"
"""The reference in the hub's cache for the revision that `pull` downloaded."""
INDEX = "model_index.json"
LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header, as its format allows."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine, examined: a known family, weights as safetensors, no code."""

    name: str
    folder: Path
    """The pipeline's folder; for a single file, the folder of its configuration."""
    family: Family
    revision: str
    """The commit of a model of the hub; "" for others."""
    parameters: Mapping[str, int]
    """The number of parameters of each component."""
    single_file: Path | None = None
    replaces: str = ""
    """The component that the single file contains; "" if it contains all of them."""
    part_class: str = ""
    """The class of that component."""


def _hub_cache() -> Path:
    """Return the folder where the hub's library keeps downloads, by its documented environment variables."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    home = Path(os.environ.get("HF_HOME", home))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def hub_folder(name: str) -> Path:
    """Return the folder of a hub's model in the cache: `refs/` names commits, `snapshots/` has their files."""
    return _hub_cache() / f"models--{name.replace('/', '--')}"


def _snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a downloaded revision. Raises EngineFailure."""
    folder, wanted = hub_folder(name), revision or PINNED
    reference = folder / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    snapshot = folder / "snapshots" / commit
    if not (snapshot / INDEX).is_file():
        of = f" revision {revision}" if revision else ""
        raise EngineFailure(f"the model {name!r}{of} is not on this machine; download it: umrgen engine pull {name}")
    return snapshot


def _json(path: Path, model: str) -> dict[str, Any]:
    """Return the content of a JSON file of the model. Raises EngineFailure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise EngineFailure(f"the model {model!r} has no {path.name}: it is no pipeline of diffusers") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise EngineFailure(f"the {path.name} of the model {model!r} is no JSON object")
    return content


def _family(index: Mapping[str, Any], model: str, called: str) -> Family:
    family = family_of(index, called)
    if family is None:
        shown = str(index.get("_class_name"))[:80]
        raise EngineFailure(
            f"the model {model!r} is a {shown}, which this engine does not have; it has {', '.join(sorted(FAMILIES))}"
        )
    return family


def _components(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the library of each component that is there."""
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[0] is not None:
            yield name, str(entry[0])


def _refuse_code(folder: Path, index: Mapping[str, Any], model: str) -> None:
    """Raise EngineFailure if loading the model would execute code from its folder."""
    foreign = [name for name, library in _components(index) if library not in LIBRARIES]
    foreign += [path.parent.name or path.name for path in sorted(folder.glob("**/*.py"))]
    foreign += [path.parent.name for path in sorted(folder.glob("*/config.json")) if "auto_map" in _json(path, model)]
    if foreign or not isinstance(index.get("_class_name"), str):
        raise EngineFailure(
            f"the model {model!r} contains code of its own ({(foreign or ['pipeline'])[0]}), which is not executed; "
            "choose a model of classes that diffusers and transformers have"
        )


def parameters(file: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header. Raises EngineFailure."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), LARGEST_HEADER)))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EngineFailure(f"{file.name} is no safetensors file, or is damaged") from None


def component_parameters(folder: Path) -> dict[str, int]:
    """Return the number of parameters of each component. Raises EngineFailure for a damaged file."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        found[path.parent.name] = found.get(path.parent.name, 0) + parameters(path)
    return found


def _refuse_pickle(folder: Path, index: Mapping[str, Any], model: str) -> None:
    """Raise EngineFailure if a component has weights only in a format that executes code."""
    for name, _ in _components(index):
        files = list((folder / name).glob("*")) if (folder / name).is_dir() else []
        pickles = [path for path in files if path.suffix in PICKLES]
        if pickles and not any(path.suffix == ".safetensors" for path in files):
            raise EngineFailure(
                f"the component {name!r} of the model {model!r} has its weights only as {pickles[0].suffix}, a format "
                "that executes code when it is read; convert the model to safetensors"
            )


def _examined(name: str, folder: Path, called: str, revision: str = "") -> ModelFiles:
    """Examine a folder. `called` contains the names by which a variant can be recognized."""
    index = _json(folder / INDEX, name)
    _refuse_code(folder, index, name)
    _refuse_pickle(folder, index, name)
    return ModelFiles(name, folder, _family(index, name, called), revision, component_parameters(folder))


def _single(name: str, file: Path, config: Path | None) -> ModelFiles:
    """Examine a single file: all weights of a model or, if the folder has those of its text encoder, the denoiser."""
    assert config is not None  # the options were checked
    index = _json(config / INDEX, name)
    _refuse_code(config, index, name)
    family = _family(index, name, f"{name} {file.stem}")
    if not family.single_file:
        raise EngineFailure(f"a {family.pipeline} cannot be loaded from one file; give its folder as model")
    there = component_parameters(config)
    if "text_encoder" not in there:
        return ModelFiles(name, config, family, "", {"checkpoint": parameters(file)}, file)
    part = "transformer" if "transformer" in index else "unet"
    there[part] = parameters(file)
    return ModelFiles(name, config, family, "", there, file, part, str(index[part][1]))


def find(name: str, source: str, *, config: Path | None = None, revision: str | None = None) -> ModelFiles:
    """Return the files of the model `source` (a folder, a .safetensors file or a hub name).

    Raises EngineFailure if it is not on this machine, if its family is unknown, or if it could execute code.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _examined(name, path.resolve(), f"{name} {path.name}")
    if path.suffix == ".safetensors":
        return _single(name, path.resolve(), config)
    folder = _snapshot(source, revision)
    return _examined(name, folder, f"{name} {source}", folder.name)
