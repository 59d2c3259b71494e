"""A pipeline called directly: the largest rate that a server can have.

python benchmarks/bare_pipeline.py FOLDER [cuda] [compile]

Each line of stdin is a JSON object with images, batch, width, height and steps; the answer is images per second. With
`cuda` it computes in bfloat16, and with `compile` the repeated blocks are compiled, as in the diffusers engine.
"""

import json
import sys
import time

import torch
from diffusers import DiffusionPipeline

device, dtype = ("cuda", torch.bfloat16) if "cuda" in sys.argv[2:] else ("cpu", torch.float32)
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=dtype, use_safetensors=True, local_files_only=True)
pipeline.to(device)
pipeline.set_progress_bar_config(disable=True)
if "compile" in sys.argv[2:]:
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
guidance = {"guidance_scale": 0.0} if type(pipeline).__name__ == "ZImagePipeline" else {}
first = 0


def draw(images: int, batch: int, width: int, height: int, steps: int) -> float:
    """Draw images, each with another prompt and seed, and return images per second."""
    global first
    started = time.perf_counter()
    for _ in range(0, images, batch):
        seeds = range(first, first + batch)
        first += batch
        pipeline(
            prompt=[f"a ship number {1000 + seed}" for seed in seeds],
            width=width,
            height=height,
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            **guidance,
        )
    return images / (time.perf_counter() - started)


draw(1, 1, 512, 512, 1)
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(draw(**json.loads(line))), flush=True)
