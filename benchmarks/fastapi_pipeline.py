"""The server that people write themselves: a pipeline, a lock, a thread, and base64 PNG.

python benchmarks/fastapi_pipeline.py FOLDER PORT [cuda]

It needs fastapi and uvicorn. On CUDA it computes in bfloat16.
"""

import asyncio
import base64
import sys
from io import BytesIO

import torch
import uvicorn
from diffusers import DiffusionPipeline
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
lock = asyncio.Lock()
device, dtype = ("cuda", torch.bfloat16) if "cuda" in sys.argv[3:] else ("cpu", torch.float32)
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=dtype, use_safetensors=True, local_files_only=True)
pipeline.to(device)
pipeline.set_progress_bar_config(disable=True)


class Body(BaseModel):
    prompt: str
    seed: int
    width: int
    height: int
    steps: int


def draw(body: Body) -> str:
    image = pipeline(
        prompt=body.prompt,
        width=body.width,
        height=body.height,
        num_inference_steps=body.steps,
        generator=torch.Generator("cpu").manual_seed(body.seed),
    ).images[0]
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


@app.post("/generate")
async def generate(body: Body) -> dict[str, str]:
    async with lock:
        return {"image": await asyncio.to_thread(draw, body)}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
