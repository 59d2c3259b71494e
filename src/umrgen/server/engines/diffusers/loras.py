"""LoRAs, by name from one folder: set for every job, so that nothing of an earlier job is left over."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umrgen.server.domain.request import Lora
from umrgen.server.engines import EngineFailure, OutOfMemory
from umrgen.server.engines.diffusers.allocation import is_out_of_memory
from umrgen.text import printable

__all__ = ["LoraSet", "lora_files"]

log = logging.getLogger(__name__)

LOGGED = 300
"""Characters of a library's error in the log."""
KEPT = 8
"""LoRAs that stay in memory; as many as a request may have."""
Wanted = tuple[tuple[str, float], ...]


def lora_files(folder: Path | None) -> dict[str, Path]:
    """Return the safetensors files directly in the folder by their names, which requests use. No other file is read."""
    if folder is None:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.safetensors")) if path.is_file()}


class LoraSet:
    """The LoRAs of one pipeline."""

    def __init__(self, pipeline: Any, files: Mapping[str, Path]) -> None:
        self._pipeline = pipeline
        self._files = files
        self._loaded: dict[str, str] = {}
        """The adapter's name in the pipeline, by the LoRA's name; the least recently used first."""
        self._number = 0

    def use(self, loras: Sequence[Lora]) -> None:
        """Make these LoRAs, and no others, the active ones. Raises EngineFailure for one that does not fit.

        Loading a LoRA activates it, so the adapters are set for every job, also for one without LoRAs.
        """
        try:
            adapters = [self._adapter(lora.name) for lora in loras]
        finally:
            self._set([])
        self._drop_unused({lora.name for lora in loras})
        if adapters:
            self._set(adapters, [lora.strength for lora in loras])

    def _set(self, adapters: Sequence[str], strengths: Sequence[float] = ()) -> None:
        if adapters:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters(list(adapters), list(strengths))
        elif self._loaded:
            self._pipeline.disable_lora()

    def _adapter(self, name: str) -> str:
        """Return the adapter of a LoRA, which is loaded if it is not there. Raises EngineFailure."""
        if name not in self._files:
            raise EngineFailure(f"there is no LoRA {name!r}")
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        self._loaded[name] = self._loaded.pop(name)
        return self._loaded[name]

    def _load(self, name: str) -> str:
        self._number += 1
        adapter = f"lora{self._number}"
        path = self._files[name]
        try:
            self._pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=adapter,
                local_files_only=True,
                use_safetensors=True,
            )
        # The file determines the exception: other shapes, unknown keys, a damaged header.
        except Exception as error:
            self._discard(adapter)
            if is_out_of_memory(error):
                raise OutOfMemory(f"the LoRA {name!r} needs more memory than there is; use fewer LoRAs") from None
            log.warning("the LoRA %s cannot be loaded: %s", name, printable(str(error), LOGGED))
            raise EngineFailure(f"the LoRA {name!r} does not fit this model, or its file is damaged") from None
        if not self._has(adapter):
            raise EngineFailure(f"the LoRA {name!r} is of another model: none of its weights fits this one")
        return adapter

    def _has(self, adapter: str) -> bool:
        """Return whether a component has the adapter; a file with the keys of another model adds none, silently."""
        return any(adapter in adapters for adapters in self._pipeline.get_list_adapters().values())

    def _discard(self, adapter: str) -> None:
        if self._has(adapter):
            self._pipeline.delete_adapters(adapter)

    def _drop_unused(self, used: set[str]) -> None:
        """Delete the least recently used LoRAs beyond `KEPT`."""
        for name in list(self._loaded):
            if len(self._loaded) > KEPT and name not in used:
                self._pipeline.delete_adapters(self._loaded.pop(name))
