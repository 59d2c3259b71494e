"""What a caller asks for: the declaration of every parameter of a generation, with its bounds."""

import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from umrgen.model import LIMITS
from umrgen.server.domain.job import JobSpec, Lora

__all__ = ["GenerationRequest", "RequestedLora"]

Side = Annotated[int, Meta(ge=LIMITS.side_min, le=LIMITS.side_max, description="pixels")]


class RequestedLora(msgspec.Struct, frozen=True):
    """A LoRA and how strongly it is applied."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    strength: Annotated[float, Meta(ge=-10, le=10)] = 1.0


class GenerationRequest(msgspec.Struct, frozen=True):
    """The parameters of one generation, as a caller gives them."""

    prompt: Annotated[str, Meta(min_length=1, max_length=LIMITS.prompt_chars)]
    negative: Annotated[str, Meta(max_length=LIMITS.prompt_chars)] = ""
    width: Side = LIMITS.side_default
    height: Side = LIMITS.side_default
    steps: Annotated[int, Meta(ge=1, le=LIMITS.steps_max)] = LIMITS.steps_default
    seed: Annotated[int, Meta(ge=-1, le=LIMITS.seed_max, description="-1 or absent: random")] = -1
    loras: Annotated[tuple[RequestedLora, ...], Meta(max_length=8)] = ()
    reference_images: Annotated[tuple[str, ...], Meta(max_length=LIMITS.references)] = ()
    priority: Annotated[
        int, Meta(ge=-LIMITS.priority, le=LIMITS.priority, description="among this key's own jobs; higher is sooner")
    ] = 0
    webhook_url: Annotated[str, Meta(max_length=2000)] | None = None

    def spec(self) -> JobSpec:
        """Return the job's spec; a random seed is drawn now, so that every attempt draws the same image."""
        return JobSpec(
            prompt=self.prompt,
            negative=self.negative,
            width=self.width,
            height=self.height,
            steps=self.steps,
            seed=secrets.randbits(32) if self.seed == -1 else self.seed,
            loras=tuple(Lora(lora.name, lora.strength) for lora in self.loras),
            reference_images=self.reference_images,
            webhook_url=self.webhook_url,
        )
