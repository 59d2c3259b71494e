"""Download a model of the hub: its configuration and its safetensors files, at one pinned revision.

The engine downloads nothing itself: it loads the revision that was pulled last, or the one that its option names.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from httpx2 import HTTPError

from umrgen.durable import make_folder, sync
from umrgen.server.engines import EngineFailure
from umrgen.server.engines.diffusers.model_files import INDEX, PINNED, ModelFiles, find, hub_folder

__all__ = ["Progress", "pull"]

Progress = Callable[[str, int, int], None]
"""Called after each file with its name, the bytes that are there now, and the bytes of all files."""

SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Configuration, weights and tokenizers; no code, no pickle, no images."""


def _wanted(files: Iterable[str]) -> list[str]:
    """Return the files of the pipeline's components, without single-file and reduced copies of the weights."""
    names = [name for name in files if name.endswith(SUFFIXES) and name.count("/") <= 1]
    copies = (".fp16.", ".bf16.", ".non_ema.", "flax_", "openvino")
    plain = [name for name in names if not any(copy in name for copy in copies)]
    folders = {name.partition("/")[0] for name in plain if name.endswith(".safetensors")}
    # Some models have a component only as fp16.
    plain += [name for name in names if name not in plain and name.partition("/")[0] not in folders]
    return [name for name in plain if "/" in name or name == INDEX]


def _information(name: str, revision: str | None) -> Any:
    """Return the hub's record of a model. Raises EngineFailure."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision, files_metadata=True)
    except (OSError, ValueError, HTTPError) as error:
        raise _failure(name, error) from None


def _failure(name: str, error: Exception) -> EngineFailure:
    return EngineFailure(
        f"the model {name!r} cannot be downloaded: {error}. A model with terms of use needs them accepted on its page, "
        "and a token in HF_TOKEN"
    )


def _pin(name: str, commit: str) -> None:
    """Write down which revision was downloaded; a complete file or none."""
    reference = hub_folder(name) / "refs" / PINNED
    make_folder(reference.parent)
    unfinished = reference.with_name(f"{PINNED}.new")
    unfinished.write_text(commit)
    sync(unfinished)
    os.replace(unfinished, reference)
    sync(reference)


def pull(name: str, revision: str | None = None, progress: Progress = lambda file, done, total: None) -> ModelFiles:
    """Download the model `name` (owner/name) and return its files; files that are there are not downloaded again.

    `revision` is a commit, tag or branch; it is resolved to a commit once, and the engine loads that commit until the
    next pull. Raises EngineFailure: the hub does not respond, has no such model, or the model is one that the engine
    would refuse.
    """
    from huggingface_hub import hf_hub_download

    information = _information(name, revision)
    sizes = {file.rfilename: file.size or 0 for file in information.siblings or ()}
    wanted = sorted(_wanted(sizes), key=lambda file: (file.endswith(".safetensors"), file))
    if INDEX not in sizes:
        raise EngineFailure(f"the model {name!r} has no {INDEX}: it is no pipeline of diffusers")
    done, total = 0, sum(sizes[file] for file in wanted)
    for file in wanted:
        try:
            hf_hub_download(name, file, revision=information.sha)
        except (OSError, ValueError, HTTPError) as error:
            raise _failure(name, error) from None
        done += sizes[file]
        progress(file, done, total)
    files = find(name, name, revision=information.sha)
    _pin(name, str(information.sha))
    return files
