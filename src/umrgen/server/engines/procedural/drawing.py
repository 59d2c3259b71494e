"""The steps of the procedural engine.

Each of the first four steps paints the scene at a larger size: an eighth, a quarter, a half, the whole. Each further
step adds a sample, shifted by a part of a pixel, to the average, which smooths the edges.
"""

import time
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineFailure, Report
from umrgen.server.engines.procedural import nature, things
from umrgen.server.engines.procedural.paint import Array, Canvas, bloom, mix, resize, vector
from umrgen.server.engines.procedural.words import Scene, read_scene

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["draw"]

_SIGN = (
    "                                                   #             #",
    "# # ####  ### ### ### ##     ### ### ### ### ### ### # # ### ##  #",
    "# # # # # #   # # ### # #    # # #   # # #   ### # # # # #    ## #",
    "# # # # # #   ### #   # #    # # #   # # #   #   # # # # #   # # #",
    "### # # # #     # ### # #    ### #   ### ### ### ### ### #   ### #",
    "              ##             #                                    ",
)


# --- composition -----------------------------------------------------------------------------------------


def _compose(c: Canvas, s: Scene) -> None:
    if not s.names:
        nature.abstract(c, s)
        return
    light = nature.sky(c, s)
    side = -float(np.sign(light.x) or 1)
    if s.has("street") or (s.has("city") and s.time in ("night", "dusk")):
        neon = np.array(things.neon_colours(s), np.float32)
        glow = vector(mix(neon[0], neon[3], 0.55))
        c.rgb[:, : c.horizon] += np.exp(c.y[: c.horizon] * 3.2) * glow * 0.16
        haze = light.haze * 0.6 + glow.ravel() * 0.13
        light = nature.Light(light.colour, light.x, light.y, haze, light.ambient)
    if s.has("stars"):
        nature.stars(c, s)
    if s.has("aurora"):
        nature.aurora(c)
    if s.has("moon"):
        nature.moon(c, s, light)
    if s.has("clouds", "wisps") and not s.has("street"):
        nature.clouds(c, s, light)
    if s.has("lightning"):
        nature.lightning(c, light)
    land = s.has("forest", "hills", "field", "desert", "snow")
    if s.has("mountains"):
        nature.mountains(c, s, light)
    elif land and not s.has("water", "city"):
        nature.plain(c, s, light)
    if s.has("city"):
        for depth in (0.0, 0.5) if s.has("street") else (0.0, 0.4, 0.75, 1.0):
            things.skyline(c, s, light, depth)
    if s.has("street"):
        things.street(c, s, light)
    elif s.has("water", "city"):
        nature.water(c, s, light)
    skyline = c.y[-1] * np.ones_like(c.x[0])
    if s.has("cliff", "island"):
        skyline = nature.headland(c, s, light, side)
    if s.has("lighthouse"):
        things.lighthouse(c, s, light, side, skyline)
    if s.has("boat") and s.has("water"):
        things.boat(c, s, light)
    if s.has("forest"):
        things.forest(c, s, light)
    nature.weather(c, s, light)


def _palette(references: tuple[bytes, ...]) -> Array | None:
    """Return the average of the reference images, at 48 × 48 pixels: their colours and their distribution of light."""
    if not references:
        return None
    from PIL import Image

    small = []
    for data in references:
        try:
            with Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
                image.draft("RGB", (128, 128))
                little = image.convert("RGB").resize((48, 48), Image.Resampling.BOX)
                small.append(np.asarray(little, np.float32))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise EngineFailure("a reference image cannot be read; it must be a PNG, JPEG or WebP") from error
    average: Array = np.asarray(np.mean(small, axis=0), np.float32) / 255
    return average.transpose(2, 0, 1)


def _borrow(picture: Array, palette: Array) -> None:
    """Adapt the mean colour, the contrast of colours, and in part the distribution of light to the references."""
    mean, wanted = picture.mean((1, 2), keepdims=True), palette.mean((1, 2), keepdims=True)
    ratio = (palette.std((1, 2), keepdims=True) + 0.04) / (picture.std((1, 2), keepdims=True) + 0.04)
    layout = palette.mean(0, keepdims=True) - palette.mean()
    coarse = resize(resize(layout, 6, 6), *picture.shape[-2:])
    picture -= mean
    picture *= np.clip(mix(1.0, ratio, 0.6), 0.5, 1.6).astype(np.float32)
    picture += mix(mean, wanted, 0.75)
    picture += coarse * 0.35
    np.clip(picture, 0, 1, out=picture)


def _develop(light: Array, s: Scene, palette: Array | None, noise: np.random.Generator, grain: float) -> "Pixels":
    """Convert linear light to pixels: bloom, tone curve, colour grading, and dither against banding."""
    saturation, contrast, exposure, warmth = s.mood
    _, height, width = light.shape
    soft = 0.9 if contrast < -0.1 else 0.5
    spill = bloom(light, 0.95)
    gain = vector((1 + warmth, 1.0, 1 - warmth)) * exposure
    tint = vector(np.mean(s.colours, axis=0) if s.colours else (1, 1, 1)).astype(np.float32)
    tint = tint / max(float(tint.mean()), 1e-3)
    share = 0.16 if s.colours and not s.has("field") else 0.0
    speckle = noise.random((3, 128, width), np.float32) - 0.5
    if grain:
        speckle *= 0.004 + grain
    else:
        speckle /= 255
    coarse = spill.shape[1]
    spill = resize(spill, coarse, width)
    across = (np.linspace(-1, 1, width, dtype=np.float32) ** 2)[None, None, :]
    result = np.empty((3, height, width), np.float32)
    for start in range(0, height, 32):
        rows = slice(start, min(start + 32, height))
        at = np.clip((np.arange(rows.start, rows.stop) + 0.5) * (coarse / height) - 0.5, 0, coarse - 1)
        low = at.astype(np.intp)
        part = (at - low).astype(np.float32)[:, None]
        v = mix(spill[:, low], spill[:, np.minimum(low + 1, coarse - 1)], part)
        v *= soft
        v += light[:, rows]
        v *= gain
        if share:
            luma = v.mean(0, keepdims=True)
            v += (luma * tint - v) * share
        v *= -1.55
        np.exp(v, out=v)
        np.subtract(1, v, out=v)
        np.sqrt(np.maximum(v, 0, out=v), out=v)
        luma = v[0] * 0.3 + v[1] * 0.59 + v[2] * 0.11
        v += (v - luma) * (saturation * 1.12 - 1)
        v += (v * v * (3 - 2 * v) - v) * (0.22 + contrast)
        down = ((np.arange(rows.start, rows.stop, dtype=np.float32) / height * 2 - 1) ** 2)[None, :, None]
        v *= 1 - 0.085 * (across + down) * (0.6 + 0.4 * across)
        result[:, rows] = v
    if palette is not None:
        _borrow(result, palette)
    pixels = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, 128):
        part = result[:, start : start + 128]
        part += speckle[:, : part.shape[1]]
        part *= 255
        part += 0.5
        pixels[start : start + 128] = np.clip(part, 0, 255, out=part).transpose(1, 2, 0)
    return pixels


def _enlarge(pixels: "Pixels", width: int, height: int) -> "Pixels":
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = resize(pixels.transpose(2, 0, 1).astype(np.float32), height, width)
    return (planes + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()


def _signed(pixels: "Pixels") -> "Pixels":
    """Write the engine's name into the bottom right corner, so that the image is not mistaken for that of a model."""
    height, width, _ = pixels.shape
    scale = max(1, min(width, height) // 512)
    mask = np.array([[mark == "#" for mark in line.ljust(len(_SIGN[0]))] for line in _SIGN])
    mask = mask.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    edge = min(5 * scale, height - mask.shape[0], width - mask.shape[1])
    corner = pixels[height - edge - mask.shape[0] : height - edge, width - edge - mask.shape[1] : width - edge]
    ink = 255.0 if corner.mean() < 140 else 0.0
    corner[mask] = corner[mask] * 0.4 + ink * 0.6
    return pixels


def draw(task: DrawTask, report: Report, step_delay: float = 0.0) -> "Pixels":
    """Draw, with `step_delay` seconds between two steps. Raises EngineFailure; and Cancelled through `report`."""
    request = task.request
    scene = read_scene(request.prompt, request.negative)
    palette = _palette(task.references)
    key = f"{request.seed}\0{request.prompt}"
    picture: Callable[[], Pixels] | None = None
    total: Array | None = None
    for step in range(1, request.steps + 1):
        if step_delay and step > 1:
            time.sleep(step_delay)
        light = _sample(request, scene, key, step)
        count = max(step - 3, 1)
        total = light if total is None or step <= 4 else total + (light - total) / count
        picture = _developer(request, scene, palette, key, step, total)
        report(step, request.steps, picture)
    if picture is None:
        raise EngineFailure("at least one step is needed")
    return picture()


def _sample(request: GenerationRequest, scene: Scene, key: str, step: int) -> Array:
    shrink = 2 ** max(4 - step, 0)
    width, height = (max(round(size / shrink), 16) for size in (request.width, request.height))
    # The R2 sequence spreads any number of samples evenly over the pixel.
    extra = max(step - 4, 0)
    shift = ((0.5 + extra * 0.7548777) % 1 - 0.5, (0.5 + extra * 0.5698403) % 1 - 0.5)
    horizon = 0.56 if scene.has("street") else 0.52 if scene.has("mountains") else 0.62
    canvas = Canvas(width, height, key, horizon, min(step // 2, 3), shift)
    _compose(canvas, scene)
    return canvas.rgb


def _developer(
    request: GenerationRequest, scene: Scene, palette: Array | None, key: str, step: int, light: Array
) -> "Callable[[], Pixels]":
    grain = (0.0, 0.12, 0.07, 0.035)[step] if step < 4 else 0.0

    def develop() -> "Pixels":
        noise = np.random.Generator(np.random.PCG64(step))
        pixels = _develop(light, scene, palette, noise, grain)
        return _signed(_enlarge(pixels, request.width, request.height))

    return develop
