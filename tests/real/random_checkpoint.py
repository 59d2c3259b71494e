"""Write a checkpoint of Stable Diffusion 1.5 with random weights: its images are noise.

Run it with the Python of a ComfyUI, whose classes name the weights:
`PYTHON tests/real/random_checkpoint.py COMFYUI_FOLDER FILE`. With `--small` the denoiser has two levels instead of
four (0.5 GB, not 2.1 GB): ComfyUI accepts it, sd-server does not.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FULL = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
SMALL = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
SCALE = 0.5
"""Of the random weights, before the division by the root of their number for one output: the result stays finite."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(options.comfyui))
    sys.argv[1:] = ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    write(options.comfyui, options.file, SMALL if options.small else FULL)


def write(comfyui: Path, file: Path, unet: dict[str, Any]) -> None:
    import torch
    from comfy import ops
    from comfy.clip_model import CLIPTextModel
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    torch.manual_seed(1)
    half = {"dtype": torch.float16, "operations": ops.disable_weight_init}
    denoiser = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_heads=8,
        num_head_channels=-1,
        use_spatial_transformer=True,
        transformer_depth_middle=1,
        context_dim=768,
        use_linear_in_transformer=False,
        legacy=False,
        **unet,
        **half,
    )
    weights = random_weights("model.diffusion_model.", denoiser)
    weights |= random_weights("first_stage_model.", AutoencoderKL(ddconfig=VAE, embed_dim=4))
    text = json.loads((comfyui / "comfy" / "sd1_clip_config.json").read_text())
    encoder = CLIPTextModel(text, torch.float16, "cpu", ops.disable_weight_init)
    weights |= random_weights("cond_stage_model.transformer.", encoder)
    weights.pop("cond_stage_model.transformer.text_projection.weight", None)
    noise = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weights["alphas_cumprod"] = torch.cumprod(1 - noise, 0).float()
    save_file(weights, file)


def random_weights(prefix: str, model: Any) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, SCALE / weight[0].numel() ** 0.5)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return {prefix + name: weight.half().contiguous() for name, weight in model.state_dict().items()}


if __name__ == "__main__":
    main()
