"""Workflows for tests, in the API format."""

from typing import Any

__all__ = ["LATENT", "sdxl", "with_reference", "with_text", "with_upscaler"]

LATENT = "5"
"""The id of the node with the size and the number of images."""


def sdxl() -> dict[str, Any]:
    """Return the workflow that ComfyUI opens with."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
                "seed": 0,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "out/umrgen"}},
    }


def with_upscaler() -> dict[str, Any]:
    """Return a workflow whose images are twice as large as requested."""
    graph = sdxl()
    graph["10"] = {"class_type": "ImageScaleBy", "inputs": {"image": ["8", 0], "scale_by": 2.0}}
    graph["9"]["inputs"]["images"] = ["10", 0]
    return graph


def with_text() -> dict[str, Any]:
    """Return a workflow with an output that is a text."""
    graph = sdxl()
    graph["11"] = {"class_type": "PreviewAny", "inputs": {"source": ["8", 0]}}
    return graph


def with_reference() -> dict[str, Any]:
    """Return a workflow that starts from an image."""
    graph = sdxl()
    graph["12"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    graph["13"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["12", 0], "vae": ["4", 2]}}
    graph["3"]["inputs"]["latent_image"] = ["13", 0]
    return graph
