"""Tiny random pipelines of the real classes, with tokenizers made on the spot: 0.5 to 2.5 MB each.

python tests/tiny_pipelines.py FOLDER     save all of them, each in a folder of its name
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
torch.set_num_threads(1)  # more of them wait for each other on a loaded machine, for longer than they save


def _bytes() -> list[str]:
    """Return the characters by which byte-level tokenizers write the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(value) for value in shown] + [chr(256 + number) for number in range(256 - len(shown))]


def qwen_tokenizer() -> Any:
    """Return a tokenizer with a token for each byte, and the chat template of Qwen in short."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: number for number, token in enumerate([*_bytes(), *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=special[1:], model_max_length=512)
    tokenizer.chat_template = CHAT
    return tokenizer


def _clip_tokenizer() -> Any:
    alphabet = _bytes()
    tokens = [*alphabet, *(f"{token}</w>" for token in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _qwen_config(layers: int, width: int) -> Any:
    return Qwen3Config(
        vocab_size=259,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        max_position_embeddings=1024,
    )


def _clip_text(width: int, kind: Any = CLIPTextModel) -> Any:
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=512,
        eos_token_id=513,
    )
    return kind(config)


def _vae(channels: int, **changes: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=64,
        mid_block_add_attention=False,
        **changes,
    )


def _unet(cross: int, **changes: Any) -> Any:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=cross,
        attention_head_dim=2,
        norm_num_groups=4,
        **changes,
    )


def z_image() -> Any:
    """Return a ZImagePipeline."""
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Qwen3Model(_qwen_config(2, 16)),
        tokenizer=qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(
            dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 12, 12]
        ),
    )


def klein(distilled: bool = True) -> Any:
    """Return a Flux2KleinPipeline; its text encoder has 28 layers, because the pipeline uses the 9th, 18th and 27th."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=32,
            mid_block_add_attention=False,
        ),
        text_encoder=Qwen3ForCausalLM(_qwen_config(28, 8)),
        tokenizer=qwen_tokenizer(),
        transformer=Flux2Transformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=distilled,
    )


def sd() -> Any:
    """Return a StableDiffusionPipeline."""
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip_text(16),
        tokenizer=_clip_tokenizer(),
        unet=_unet(16),
        scheduler=DPMSolverMultistepScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """Return a StableDiffusionXLPipeline."""
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=_clip_text(16),
        text_encoder_2=_clip_text(16, CLIPTextModelWithProjection),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=_unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 16,
            transformer_layers_per_block=1,
        ),
        scheduler=EulerDiscreteScheduler(),
    )


PIPELINES: Mapping[str, Callable[[], Any]] = {"z_image": z_image, "klein": klein, "sd": sd, "sdxl": sdxl}


def save(name: str, folder: Path) -> Path:
    """Save the pipeline called `name`; equal in each run."""
    torch.manual_seed(7)
    PIPELINES[name]().save_pretrained(folder, safe_serialization=True)
    return folder


def _targets(pipeline: Path) -> dict[str, tuple[int, int]]:
    """Return the shapes (out, in) of the attention's query weights of the denoiser, by the module's name."""
    from safetensors import safe_open

    part = next(part for part in ("transformer", "unet") if (pipeline / part).is_dir())
    (file,) = (pipeline / part).glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if name.endswith("to_q.weight")]  # noqa: SIM118 - no mapping
        return {f"{part}.{name.removesuffix('.weight')}": tuple(tensors.get_slice(name).get_shape()) for name in names}


def save_lora(path: Path, pipeline: Path, seed: int, *, extra: int = 0) -> None:
    """Save a LoRA for the pipeline; with `extra`, its shapes do not fit."""
    torch.manual_seed(seed)
    tensors = {}
    for name, (out, into) in _targets(pipeline).items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, into + extra)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out + extra, 2)
    save_file(tensors, path)


def save_foreign_lora(path: Path) -> None:
    """Save a LoRA whose keys are of another model."""
    save_file({"other.part.lora_A.weight": torch.randn(2, 8), "other.part.lora_B.weight": torch.randn(8, 2)}, path)


def save_z_image_file(path: Path, pipeline: Path) -> None:
    """Save the transformer of a Z-Image pipeline as one file, with the names of its authors."""
    from safetensors.torch import load_file

    (file,) = (pipeline / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    for query in [name for name in tensors if name.endswith("attention.to_q.weight")]:
        parts = [tensors.pop(query.replace("to_q", part)) for part in ("to_q", "to_k", "to_v")]
        tensors[query.replace("to_q", "qkv")] = torch.cat(parts)
    renamed = (
        ("all_final_layer.2-1.", "final_layer."),
        ("all_x_embedder.2-1.", "x_embedder."),
        ("attention.to_out.0.", "attention.out."),
        ("attention.norm_k.", "attention.k_norm."),
        ("attention.norm_q.", "attention.q_norm."),
    )
    original = {}
    for name, tensor in tensors.items():
        for ours, theirs in renamed:
            name = name.replace(ours, theirs)
        original[f"model.diffusion_model.{name}"] = tensor
    save_file(original, path)


def with_entry(folder: Path, key: str, value: Any) -> None:
    """Change one entry of the folder's model_index.json."""
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


if __name__ == "__main__":
    for each in PIPELINES:
        save(each, Path(sys.argv[1]) / each)
