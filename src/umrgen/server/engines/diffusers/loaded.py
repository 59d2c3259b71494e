"""A model in memory: the pipeline, placed on its device by the plan."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.diffusers.allocation import is_out_of_memory
from umrgen.server.engines.diffusers.model_files import ModelFiles
from umrgen.server.engines.diffusers.options import DiffusersOptions
from umrgen.server.engines.diffusers.plan import GIB, Machine, Plan, plan

__all__ = ["LoadedModel", "denoiser", "load_model", "place"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedModel:
    """A pipeline, and how it was loaded."""

    files: ModelFiles
    plan: Plan
    pipeline: Any
    image_pipeline: Any = None
    """The image-to-image pipeline over the same components; None if the family has none."""


def denoiser(pipeline: Any) -> Any:
    """Return the transformer or the UNet of a pipeline."""
    return getattr(pipeline, "transformer", None) or pipeline.unet


def _from_files(files: ModelFiles, dtype: str) -> Any:
    """Load the weights into the memory of the CPU. Downloads nothing, and executes no code of the model."""
    import diffusers
    import torch

    kind = getattr(diffusers, files.family.pipeline)
    loading: dict[str, Any] = {"dtype": getattr(torch, dtype), "local_files_only": True}
    if files.single_file is not None and not files.replaces:
        return kind.from_single_file(str(files.single_file), config=str(files.folder), **loading)
    if files.single_file is not None:
        loading[files.replaces] = _single_part(files, loading)
    return kind.from_pretrained(str(files.folder), use_safetensors=True, trust_remote_code=False, **loading)


def _single_part(files: ModelFiles, loading: Mapping[str, Any]) -> Any:
    """Load the component that a single file contains; the folder has its configuration."""
    import diffusers

    kind = getattr(diffusers, files.part_class)
    return kind.from_single_file(str(files.single_file), config=str(files.folder), subfolder=files.replaces, **loading)


def place(pipeline: Any, device: str, offload: str) -> None:
    """Move the pipeline to the device, or install the hooks that move its parts there while they compute."""
    import torch

    pipeline.remove_all_hooks()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(torch.device(device), offload_type="leaf_level", use_stream=True)
    else:
        pipeline.to(device)


def _place_first(pipeline: Any, name: str, chosen: Plan) -> None:
    """Place a new pipeline. Raises EngineFailure if the device has too little memory, or cannot offload."""
    try:
        place(pipeline, chosen.device, chosen.offload)
    except (RuntimeError, ValueError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        log.error("the model %s cannot be placed", name, exc_info=error)
        raise EngineFailure(
            f"the model {name!r} cannot be placed on {chosen.device} with offload {chosen.offload}; try offload model "
            "or group, or a smaller model"
        ) from None


def _set_attention(pipeline: Any, backend: str) -> None:
    """Choose the attention's implementation. Raises EngineFailure for one that is not installed."""
    if backend == "native":
        return
    try:
        denoiser(pipeline).set_attention_backend(backend)
    except (AttributeError, ImportError, RuntimeError, ValueError):
        raise EngineFailure(f"the attention backend {backend!r} cannot be used here; leave out attention") from None


def _compile(pipeline: Any) -> None:
    """Compile the repeated blocks, so that another size needs no new compilation."""
    part = denoiser(pipeline)
    if hasattr(part, "compile_repeated_blocks"):
        part.compile_repeated_blocks(fullgraph=True, dynamic=True)


def _image_pipeline(files: ModelFiles, pipeline: Any) -> Any:
    """Return the image-to-image pipeline, which shares all components."""
    import diffusers

    if not files.family.image_pipeline:
        return None
    made = getattr(diffusers, files.family.image_pipeline)(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made


def _quiet() -> None:
    """Turn off the libraries' progress bars and warnings; errors are still logged."""
    import diffusers
    import transformers

    for logging_of in (diffusers.utils.logging, transformers.utils.logging):
        logging_of.set_verbosity_error()
        logging_of.disable_progress_bar()


def load_model(files: ModelFiles, options: DiffusersOptions, machine: Machine) -> LoadedModel:
    """Load a model. Raises EngineFailure for one that does not fit, or whose files are damaged."""
    chosen = plan(files, options, machine)
    print(f"diffusers engine: loading {files.name}: {chosen.line()}", file=sys.stderr, flush=True)
    if not chosen.fits:
        raise EngineFailure(
            f"the model {files.name!r} needs {chosen.expected / GIB:.1f} GiB on {chosen.device} and "
            f"{chosen.weights / GIB:.1f} GiB for its weights; there are {machine.memory / GIB:.1f} GiB free there. "
            "Choose a smaller model, or a smaller dtype"
        )
    _quiet()
    try:
        pipeline = _from_files(files, chosen.dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        log.error("the model %s cannot be loaded", files.name, exc_info=error)
        raise EngineFailure(
            f"the model {files.name!r} cannot be loaded ({type(error).__name__}): a file is missing or damaged, or the "
            "device is out of memory; the log has the details"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    _set_attention(pipeline, chosen.attention)
    _place_first(pipeline, files.name, chosen)
    if chosen.compile:
        _compile(pipeline)
    return LoadedModel(files, chosen, pipeline, _image_pipeline(files, pipeline))
