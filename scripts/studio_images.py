"""Renew the images of the studio in docs/images: a real server and a real Chromium (`requirements/dev.txt`).

python scripts/studio_images.py
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import browser, new_session, open_studio
from support import UNLIMITED, ServerProcess, finish, server, submit

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PROMPTS = (
    "a garden with a tree in spring",
    "waves at night, full moon",
    "northern lights over a snowy village",
    "a desert under the moon",
    "a castle on a hill in winter",
    "a forest in autumn with a lake",
    "a ship on the sea in fog",
    "a small boat on a calm sea at sunset",
    "a neon city at night in the rain",
    "mountains at sunrise, mist in the valley",
    "a lighthouse on a cliff at dusk, storm over the sea",
    "a waterfall in a forest",
)
QUEUED = (PROMPTS[10], PROMPTS[9], PROMPTS[8])
FAVORITES = (1, 8)
SCREENSHOTS = {
    "studio": ({"width": 1920, "height": 1080}, "light", 0.75),
    "studio-phone": ({"width": 360, "height": 740}, "dark", 4 / 3),
}
COLORS = 256
"""A palette makes a file a third as large."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "state", *UNLIMITED) as running:
        key, _ = new_session(running.state)
        with running.http(Authorization=f"Bearer {key}") as http:
            jobs = [submit(http, prompt, width=640, height=640, steps=8, seed=n) for n, prompt in enumerate(PROMPTS)]
            for number, job in enumerate(jobs):
                finish(http, job)
                http.patch(f"/api/v1/jobs/{job}", json={"favorite": number in FAVORITES})
        running.stop()
        with server(running.state, *UNLIMITED, "--step-delay", "0.4") as slow, browser() as chrome:
            for name in SCREENSHOTS:
                take(chrome, slow, key, name)


def take(chrome: Any, running: ServerProcess, key: str, name: str) -> None:
    """Draw the jobs of the queue, and take a screenshot of the page while the first of them runs."""
    size, theme, scale = SCREENSHOTS[name]
    context = chrome.new_context(viewport=size, color_scheme=theme, device_scale_factor=scale, reduced_motion="reduce")
    page = open_studio(context.new_page(), running.url, key)
    with running.http(Authorization=f"Bearer {key}") as http:
        jobs = [submit(http, prompt, width=640, height=640, steps=50, seed=n) for n, prompt in enumerate(QUEUED, 30)]
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.get_by_label("Prompt", exact=True).fill(PROMPTS[7])
        page.get_by_text("Step 12 of 50").wait_for(timeout=60_000)
        if name == "studio-phone":
            page.evaluate("document.querySelector('um-queue').scrollIntoView()")
        for image in page.locator(".tile img").all()[:12]:
            image.evaluate("image => image.decode()")
        file = IMAGES / f"{name}.png"
        page.screenshot(path=file)
        for job in jobs:
            http.post(f"/api/v1/cancel/{job}")
    context.close()
    screenshot = Image.open(file).convert("RGB")
    screenshot.quantize(palette=screenshot.quantize(COLORS), dither=Image.Dither.FLOYDSTEINBERG).save(
        file, optimize=True
    )


if __name__ == "__main__":
    main()
