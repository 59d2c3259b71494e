"""Prompt embeddings, kept: another seed for the same prompt needs no text encoder."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from inspect import signature
from typing import Any

from umrgen.server.engines.diffusers.families import Family

__all__ = ["KEPT", "PromptCache", "Text"]

KEPT = 256
"""Prompts."""
KEPT_BYTES = 1 << 30
Text = tuple[str, str]
"""A prompt and its negative prompt."""
Embeds = Mapping[str, Any]
"""The pipeline's arguments for one prompt: tensors with a batch of one, or lists of one tensor."""


def _bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return value.numel() * value.element_size() if value is not None else 0


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_moved(each, device) for each in value]
    return value.to(device) if value is not None else None


def _joined(values: Sequence[Any]) -> Any:
    """Return the embeddings of several prompts as one argument. Raises ValueError for tensors of different shapes."""
    import torch

    if isinstance(values[0], list):
        return [each for value in values for each in value]
    if values[0] is None:
        return None
    if len({value.shape for value in values}) > 1:
        raise ValueError("the embeddings have different lengths")
    return torch.cat(list(values))


class PromptCache:
    """The embeddings of the last `KEPT` prompts, in the CPU's memory, at most `KEPT_BYTES`."""

    def __init__(self, family: Family, device: str) -> None:
        self._family = family
        self._device = device
        self._kept: OrderedDict[Hashable, Embeds] = OrderedDict()
        self._bytes = 0
        self.encoded = 0
        """The number of prompts that were encoded, for tests."""

    def arguments(self, pipeline: Any, texts: Sequence[Text], guided: bool, loras: Hashable) -> dict[str, Any]:
        """Return the pipeline's arguments for the prompts: kept embeddings, or the prompts themselves.

        The lists are new in each call: ZImagePipeline writes its chat template into the list of the caller.
        """
        if self._family.embeds:
            each = [self._embeds(pipeline, text, guided, loras) for text in texts]
            try:
                return {name: _moved(_joined([one[name] for one in each]), self._device) for name in each[0]}
            except ValueError:
                pass
        return self._plain(texts, guided)

    def _plain(self, texts: Sequence[Text], guided: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {"prompt": [prompt for prompt, _ in texts]}
        blank = self._family.blank_negative
        # Without a negative prompt SDXL has zeros for its embeddings, which those of an empty text are not.
        if self._family.negative and guided and (blank is not None or any(negative for _, negative in texts)):
            arguments["negative_prompt"] = [negative or blank or "" for _, negative in texts]
        return arguments

    def _embeds(self, pipeline: Any, text: Text, guided: bool, loras: Hashable) -> Embeds:
        key = (text, guided, loras)
        if key not in self._kept:
            self._keep(key, self._encode(pipeline, text, guided, loras))
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encode(self, pipeline: Any, text: Text, guided: bool, loras: Hashable) -> Embeds:
        self.encoded += 1
        known = signature(pipeline.encode_prompt).parameters
        wanted = {
            **self._plain([text], guided),
            "do_classifier_free_guidance": guided,
            "num_images_per_prompt": 1,
            "device": self._device,
        }
        found = pipeline.encode_prompt(**{name: value for name, value in wanted.items() if name in known})
        embeds = dict(zip(self._family.embeds, found, strict=False))
        # A family without negative prompts is guided by the difference to an empty prompt.
        if guided and not self._family.negative:
            empty = self._embeds(pipeline, ("", ""), False, loras)
            embeds |= {f"negative_{name}": value for name, value in empty.items()}
        return {name: _moved(value, "cpu") for name, value in embeds.items() if value is not None}

    def _keep(self, key: Hashable, embeds: Embeds) -> None:
        self._kept[key] = embeds
        self._bytes += sum(map(_bytes, embeds.values()))
        while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= sum(map(_bytes, oldest.values()))
