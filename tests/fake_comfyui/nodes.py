"""The classes of nodes of the fake, their description in `/object_info`, and the validation of a graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Graph = Mapping[str, Any]


@dataclass(frozen=True)
class NodeClass:
    """A class of nodes; of each input the type, or the name of a list in `CHOICES`, and the configuration."""

    inputs: Mapping[str, tuple[str, Mapping[str, Any]]]
    optional: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    output: bool = False
    paid: bool = False


CHOICES = {
    "checkpoints": ["sd_xl_base_1.0.safetensors", "SDXL/dreamshaper.safetensors"],
    "unets": ["z_image_turbo_bf16.safetensors", "flux-2-klein-4b.safetensors"],
    "clips": ["qwen_3_4b.safetensors"],
    "vaes": ["ae.safetensors", "flux2-vae.safetensors"],
    "loras": ["ink.safetensors", "style/pixel.safetensors"],
    "samplers": ["euler", "dpmpp_2m", "res_multistep"],
    "schedulers": ["normal", "simple", "karras"],
}


def whole(low: int, high: int, step: int = 1) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": low, "min": low, "max": high, "step": step}


def real(low: float, high: float) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": low, "min": low, "max": high, "step": 0.1}


def linked(kind: str) -> tuple[str, dict[str, Any]]:
    return kind, {}


TEXT = ("STRING", {"multiline": True})
SEED = whole(0, 2**64 - 1)
SIZE = {"width": whole(16, 16384, 8), "height": whole(16, 16384, 8), "batch_size": whole(1, 4096)}
CONDITIONS = {name: linked("CONDITIONING") for name in ("positive", "negative")}
NODES = {
    "CheckpointLoaderSimple": NodeClass({"ckpt_name": ("checkpoints", {})}),
    "UNETLoader": NodeClass({"unet_name": ("unets", {}), "weight_dtype": ("STRING", {})}),
    "CLIPLoader": NodeClass({"clip_name": ("clips", {}), "type": ("STRING", {})}, {"device": ("STRING", {})}),
    "VAELoader": NodeClass({"vae_name": ("vaes", {})}),
    "LoraLoader": NodeClass(
        {
            "model": linked("MODEL"),
            "clip": linked("CLIP"),
            "lora_name": ("loras", {}),
            "strength_model": real(-100, 100),
            "strength_clip": real(-100, 100),
        }
    ),
    "LoraLoaderModelOnly": NodeClass(
        {"model": linked("MODEL"), "lora_name": ("loras", {}), "strength_model": real(-100, 100)}
    ),
    "ModelSamplingAuraFlow": NodeClass({"model": linked("MODEL"), "shift": real(0, 100)}),
    "CLIPTextEncode": NodeClass({"text": TEXT, "clip": linked("CLIP")}),
    "ConditioningZeroOut": NodeClass({"conditioning": linked("CONDITIONING")}),
    "FluxGuidance": NodeClass({"conditioning": linked("CONDITIONING"), "guidance": real(0, 100)}),
    "EmptyLatentImage": NodeClass(SIZE),
    "EmptySD3LatentImage": NodeClass(SIZE | {"width": whole(16, 16384, 16), "height": whole(16, 16384, 16)}),
    "EmptyFlux2LatentImage": NodeClass(SIZE | {"width": whole(16, 16384, 16), "height": whole(16, 16384, 16)}),
    "PrimitiveStringMultiline": NodeClass({"value": TEXT}),
    "KSampler": NodeClass(
        {
            "model": linked("MODEL"),
            "seed": SEED,
            "steps": whole(1, 10000),
            "cfg": real(0, 100),
            "sampler_name": ("samplers", {}),
            "scheduler": ("schedulers", {}),
            "latent_image": linked("LATENT"),
            "denoise": real(0, 1),
            **CONDITIONS,
        }
    ),
    "KSamplerAdvanced": NodeClass(
        {
            "model": linked("MODEL"),
            "noise_seed": SEED,
            "steps": whole(1, 10000),
            "cfg": real(0, 100),
            "latent_image": linked("LATENT"),
            **CONDITIONS,
        }
    ),
    "RandomNoise": NodeClass({"noise_seed": SEED}),
    "KSamplerSelect": NodeClass({"sampler_name": ("samplers", {})}),
    "Flux2Scheduler": NodeClass({"steps": whole(1, 4096), "width": whole(16, 16384), "height": whole(16, 16384)}),
    "CFGGuider": NodeClass({"model": linked("MODEL"), "cfg": real(0, 100), **CONDITIONS}),
    "SamplerCustomAdvanced": NodeClass(
        {
            "noise": linked("NOISE"),
            "guider": linked("GUIDER"),
            "sampler": linked("SAMPLER"),
            "sigmas": linked("SIGMAS"),
            "latent_image": linked("LATENT"),
        }
    ),
    "LoadImage": NodeClass({"image": ("images", {"image_upload": True})}),
    "EmptyImage": NodeClass({"width": whole(1, 16384), "height": whole(1, 16384), "color": whole(0, 0xFFFFFF)}),
    "VAEEncode": NodeClass({"pixels": linked("IMAGE"), "vae": linked("VAE")}),
    "ReferenceLatent": NodeClass({"conditioning": linked("CONDITIONING")}, {"latent": linked("LATENT")}),
    "VAEDecode": NodeClass({"samples": linked("LATENT"), "vae": linked("VAE")}),
    "ImageScaleBy": NodeClass({"image": linked("IMAGE"), "scale_by": real(0.01, 8)}),
    "SaveImage": NodeClass({"images": linked("IMAGE"), "filename_prefix": ("STRING", {})}, output=True),
    "PreviewImage": NodeClass({"images": linked("IMAGE")}, output=True),
    "PreviewAny": NodeClass({"source": linked("*")}, output=True),
    "SaveAsFile": NodeClass({"images": linked("IMAGE"), "format": ("STRING", {})}, output=True),
    "PaidImageNode": NodeClass({"prompt": TEXT}, paid=True),
}


def describe(name: str, generation: str, images: list[str]) -> dict[str, Any]:
    """Return the description of a class. The form of a list differs between the generations."""
    node = NODES[name]
    groups = {"required": node.inputs, "optional": node.optional}
    described = {
        group: {key: _described(kind, config, generation, images) for key, (kind, config) in inputs.items()}
        for group, inputs in groups.items()
        if inputs
    }
    return {"input": described, "output_node": node.output, "name": name} | ({"api_node": True} if node.paid else {})


def _described(kind: str, config: Mapping[str, Any], generation: str, images: list[str]) -> list[Any]:
    choices = images if kind == "images" else CHOICES.get(kind)
    if choices is None:
        return [kind, config]
    return ["COMBO", {**config, "options": choices}] if generation == "0.38" else [choices, config]


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def ancestors(graph: Graph, node: str) -> list[str]:
    """Return a node and those that it depends on, in the order of execution."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for value in graph[name]["inputs"].values():
            if is_link(value) and value[0] in graph:
                visit(value[0])
        order.append(name)

    visit(node)
    return order


def outputs_of(graph: Graph) -> list[str]:
    return [name for name, node in graph.items() if NODES[node["class_type"]].output]


def errors_of(graph: Graph, name: str, images: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the errors of one node."""
    node = graph[name]
    for key, (kind, config) in NODES[node["class_type"]].inputs.items():
        if key not in node["inputs"]:
            yield _error("required_input_missing", "Required input is missing", key, None)
            continue
        value = node["inputs"][key]
        choices = images if kind == "images" else CHOICES.get(kind)
        if is_link(value):
            continue
        if kind == "images" and value not in images:
            yield _error("custom_validation_failed", "Custom validation failed for node", key, value)
        elif choices is not None and value not in choices:
            yield _error("value_not_in_list", "Value not in list", key, value)
        elif kind in ("INT", "FLOAT") and value > config["max"]:
            yield _error("value_bigger_than_max", f"Value {value} bigger than max of {config['max']}", key, value)


def _error(kind: str, message: str, name: str, value: Any) -> dict[str, Any]:
    extra = {"input_name": name, "input_config": None, "received_value": value}
    return {"type": kind, "message": message, "details": f"{name}, in /root/ComfyUI/execution.py", "extra_info": extra}
