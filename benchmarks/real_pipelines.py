"""Random pipelines of the sizes of Z-Image-Turbo and FLUX.2-klein-4B, with the initialization of their classes.

python benchmarks/real_pipelines.py z-image-turbo|flux2-klein FOLDER [DEVICE] [tiny]

The weights are made on the device, in bfloat16 on CUDA, and saved as `save_pretrained` does: 20 and 16 GB. Images of
random weights are noise, and take as long as others. With `tiny`, the pipeline is that of tests/tiny_pipelines.py.
"""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny_pipelines
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model


def _qwen3_4b() -> Any:
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_theta=1_000_000,
        tie_word_embeddings=True,
    )


def z_image_turbo() -> Any:
    """Return a ZImagePipeline whose transformer has the defaults of its class, 6.2e9 parameters."""
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            sample_size=1024,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ),
        text_encoder=Qwen3Model(_qwen3_4b()),
        tokenizer=tiny_pipelines.qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(),
    )


def flux2_klein() -> Any:
    """Return a Flux2KleinPipeline with 5 and 20 layers of width 3072, 3.9e9 parameters in the transformer."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(),
        text_encoder=Qwen3ForCausalLM(_qwen3_4b()),
        tokenizer=tiny_pipelines.qwen_tokenizer(),
        transformer=Flux2Transformer2DModel(
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            joint_attention_dim=7680,
            guidance_embeds=False,
        ),
        is_distilled=True,
    )


MADE = {"z-image-turbo": z_image_turbo, "flux2-klein": flux2_klein}
TINY = {"z-image-turbo": tiny_pipelines.z_image, "flux2-klein": tiny_pipelines.klein}


def save(name: str, folder: Path, device: str = "cpu", made: Any = MADE) -> dict[str, float]:
    """Save the pipeline, and return the parameters of its parts in thousands of millions."""
    torch.manual_seed(7)
    torch.set_default_device(device)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    pipeline = made[name]()
    pipeline.save_pretrained(folder, safe_serialization=True)
    parts = {part: getattr(pipeline, part) for part in ("transformer", "text_encoder", "vae")}
    return {part: round(sum(p.numel() for p in model.parameters()) / 1e9, 3) for part, model in parts.items()}


if __name__ == "__main__":
    print(save(sys.argv[1], Path(sys.argv[2]), (*sys.argv[3:], "cpu")[0], TINY if "tiny" in sys.argv else MADE))
