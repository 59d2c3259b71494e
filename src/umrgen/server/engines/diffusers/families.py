"""The model families: one row per pipeline class of diffusers.

Steps, guidance scales, negative prompts, reference images and callbacks are from the signatures of diffusers 0.42.1; a
test compares them with the installed version. Distilled variants are in `variants`, with the source
of the numbers. Licences and memory are from the notes of other projects, and "not verified" for the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["FAMILIES", "NOT_VERIFIED", "Family", "Variant", "family_of"]

NOT_VERIFIED = "not verified"


@dataclass(frozen=True, slots=True)
class Variant:
    """A distilled model of a family, found by its name or by its configuration."""

    label: str
    steps: int
    guidance: float
    source: str
    names: tuple[str, ...] = ()
    """Parts of the model's name in lower case."""
    config: str = ""
    """A key of model_index.json that is true."""
    licence: str = NOT_VERIFIED
    memory: str = NOT_VERIFIED


@dataclass(frozen=True, slots=True)
class Family:
    """The properties of a pipeline class."""

    pipeline: str
    steps: int
    guidance: float | None
    guidance_name: str = "guidance_scale"
    """The parameter for `cfg`; "" for a pipeline without one."""
    negative: bool = True
    size_multiple: int = 16
    """Width and height must be multiples of this; a pipeline rounds or refuses other sizes."""
    references: str = ""
    """The form of reference images: "list", "one", "needed" (one, and never without), or "" for none."""
    image_pipeline: str = ""
    """The class of the same family that starts from one reference image (image-to-image)."""
    blank_negative: str | None = None
    """The negative prompt of a request without one, if the pipeline has no guidance without a negative prompt."""
    embeds: tuple[str, ...] = ()
    """The parameters for the results of `encode_prompt`, in its order; (): embeddings are not kept."""
    guided_above: float = 1.0
    """The pipeline uses a negative prompt with a guidance scale above this."""
    callback: bool = True
    """Whether it has `callback_on_step_end`."""
    loras: bool = True
    single_file: bool = False
    packed: bool = False
    """Whether its latents are a sequence of patches of 2 × 2."""
    distilled: bool = False
    """Whether the guidance scale is fixed, and negative prompts have no effect."""
    label: str = ""
    licence: str = NOT_VERIFIED
    memory: str = NOT_VERIFIED
    variants: tuple[Variant, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The features for `EngineInfo`, without LoRAs and previews."""
        references = bool(self.references or self.image_pipeline)
        guided = bool(self.guidance_name) and not self.distilled
        found = {"references": references, "cfg": guided, "negative": self.negative and not self.distilled}
        return tuple(name for name, there in found.items() if there)


TRUE_CFG = "true_cfg_scale"
PAIR = ("prompt_embeds", "negative_prompt_embeds")
RAPID_MLX = "Apache-2.0 (note in Rapid-MLX, pull request 1705)"

_Z_IMAGE_TURBO = Variant(
    "Z-Image-Turbo",
    8,
    0.0,
    "the docstring of ZImagePipeline",
    ("turbo",),
    licence=RAPID_MLX,
    memory="20.4 GB at 1024² on an H100 (SGLang, pull request 18764)",
)
_KLEIN_DISTILLED = Variant(
    "FLUX.2-klein",
    4,
    1.0,
    "the steps of Flux2KleinKVPipeline; its check_inputs ignores guidance",
    config="is_distilled",
    licence=f"klein-4B: {RAPID_MLX}; others not verified",
    memory="klein-4B: 13.7 GB, measured elsewhere; others not verified",
)
_ADD_TURBO = "the model's card, not verified here"

FAMILIES: Mapping[str, Family] = {
    family.pipeline: family
    for family in (
        Family(
            "ZImagePipeline",
            50,
            5.0,
            image_pipeline="ZImageImg2ImgPipeline",
            embeds=PAIR,
            guided_above=0.0,
            single_file=True,
            label="Z-Image",
            variants=(_Z_IMAGE_TURBO,),
        ),
        Family(
            "Flux2KleinPipeline",
            50,
            4.0,
            negative=False,
            references="list",
            embeds=("prompt_embeds",),
            packed=True,
            label="FLUX.2-klein-base",
            variants=(_KLEIN_DISTILLED,),
        ),
        Family("Flux2KleinKVPipeline", 4, None, "", negative=False, references="list", packed=True, distilled=True),
        Family("Flux2Pipeline", 50, 4.0, negative=False, references="list", packed=True, label="FLUX.2"),
        Family(
            "QwenImagePipeline",
            50,
            4.0,
            TRUE_CFG,
            image_pipeline="QwenImageImg2ImgPipeline",
            blank_negative=" ",
            packed=True,
            label="Qwen-Image",
        ),
        Family("QwenImageEditPipeline", 50, 4.0, TRUE_CFG, references="needed", blank_negative=" ", packed=True),
        Family("QwenImageEditPlusPipeline", 50, 4.0, TRUE_CFG, references="needed", blank_negative=" ", packed=True),
        Family("QwenImage21Pipeline", 40, 1.0, TRUE_CFG, references="list", size_multiple=32, packed=True),
        Family(
            "Krea2Pipeline",
            28,
            4.5,
            packed=True,
            label="Krea 2",
            variants=(Variant("Krea 2 distilled", 8, 0.0, "the docstring of Krea2Pipeline", config="is_distilled"),),
        ),
        Family(
            "StableDiffusionPipeline",
            50,
            7.5,
            size_multiple=8,
            image_pipeline="StableDiffusionImg2ImgPipeline",
            embeds=PAIR,
            single_file=True,
            label="Stable Diffusion",
            variants=(Variant("SD-Turbo", 1, 0.0, _ADD_TURBO, ("turbo",)),),
        ),
        Family(
            "StableDiffusionXLPipeline",
            50,
            5.0,
            size_multiple=8,
            image_pipeline="StableDiffusionXLImg2ImgPipeline",
            embeds=(*PAIR, "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
            single_file=True,
            label="SDXL",
            variants=(Variant("SDXL-Turbo", 1, 0.0, _ADD_TURBO, ("turbo",)),),
        ),
        Family(
            "StableDiffusion3Pipeline",
            28,
            7.0,
            image_pipeline="StableDiffusion3Img2ImgPipeline",
            single_file=True,
            label="Stable Diffusion 3",
            variants=(Variant("Stable Diffusion 3.5 Turbo", 4, 0.0, _ADD_TURBO, ("turbo",)),),
        ),
        Family(
            "FluxPipeline",
            28,
            3.5,
            negative=False,
            image_pipeline="FluxImg2ImgPipeline",
            single_file=True,
            packed=True,
            label="FLUX.1",
            variants=(Variant("FLUX.1-schnell", 4, 0.0, _ADD_TURBO, ("schnell",)),),
        ),
        Family("FluxKontextPipeline", 28, 3.5, negative=False, references="one", single_file=True, packed=True),
        Family("SanaPipeline", 20, 4.5, size_multiple=32, label="Sana"),
        Family("SanaSprintPipeline", 2, 4.5, negative=False, size_multiple=32, label="Sana-Sprint"),
        Family("ChromaPipeline", 35, 5.0, single_file=True, packed=True, label="Chroma"),
        Family("Lumina2Pipeline", 30, 4.0, label="Lumina 2"),
        Family("OvisImagePipeline", 50, 5.0, loras=False, packed=True),
        Family("CogView4Pipeline", 50, 5.0),
        Family("AuraFlowPipeline", 50, 3.5, size_multiple=8),
        Family("ErnieImagePipeline", 50, 4.0),
        Family("PixArtSigmaPipeline", 20, 4.5, size_multiple=8, callback=False, loras=False, label="PixArt-Sigma"),
        Family("PixArtAlphaPipeline", 20, 4.5, size_multiple=8, callback=False, loras=False, label="PixArt-alpha"),
        Family("LongCatImagePipeline", 50, 4.5, callback=False, loras=False, single_file=True, packed=True),
    )
}
"""By the name of the pipeline class, as in the `_class_name` of model_index.json."""


def _is(variant: Variant, name: str, index: Mapping[str, Any]) -> bool:
    return any(part in name.lower() for part in variant.names) or index.get(variant.config) is True


def family_of(index: Mapping[str, Any], name: str) -> Family | None:
    """Return the family of a model, as its variant if it is one; None for an unknown pipeline class.

    `index` is the content of model_index.json, and `name` the name of the model or of its folder.
    """
    family = FAMILIES.get(str(index.get("_class_name")))
    if family is None:
        return None
    for variant in family.variants:
        if _is(variant, name, index):
            return replace(
                family,
                steps=variant.steps,
                guidance=variant.guidance,
                distilled=True,
                label=variant.label,
                licence=variant.licence,
                memory=variant.memory,
            )
    return family
