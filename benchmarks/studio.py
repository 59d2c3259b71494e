"""Benchmark of the studio: a gallery of 500 pictures in a real Chromium, from the first paint to the last row.

    python benchmarks/studio.py

Prints rows for docs/benchmarks.md. It needs Chromium and playwright (`requirements/dev.txt`). There is no GPU behind
it: what a frame costs here, it costs on two cores together with the server and everything else.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import MEASURE_FRAMES, browser, fill_gallery, open_studio
from support import SMALL, cli, finish, server, submit

PICTURES = 500
ROUNDS = 2
FRAME = 1000 / 60
PIXELS = 20
"""Scrolled with each frame: 3,600 pixels a second, the pace of somebody in a hurry."""

SHOWN = """
async () => {
  const seen = () => [...document.querySelectorAll(".tile img")].filter((image) => {
    const {top, bottom} = image.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  while (!seen().length || seen().some((image) => !image.complete)) await new Promise(requestAnimationFrame);
  await Promise.all(seen().map((image) => image.decode()));
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [paint.startTime, performance.now(), document.querySelectorAll(".tile").length];
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "state", "--rate", "0") as running:
        made = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
        with running.http(Authorization=f"Bearer {made['key']}") as http:
            picture = http.get(finish(http, submit(http, "a lighthouse at dusk", **SMALL))["image_url"]).content
        with ThreadPoolExecutor() as threads:
            threads.submit(asyncio.run, fill_gallery(running.state, made["session_id"], picture, PICTURES)).result()
        with browser() as chrome:
            rounds = [one_round(chrome, running.url, made["key"]) for _ in range(ROUNDS)]
            version = chrome.version
    print(
        f"Chromium {version}, {PICTURES} pictures of {len(picture) / 1e3:.0f} kB, 1920 × 1080, median of {ROUNDS} rounds\n"
    )
    paint, shown = (statistics.median(each[name] for each in rounds) for name in ("paint", "shown"))
    print(f"| first paint, with a key and {PICTURES} pictures | {paint:.0f} ms | |")
    print(f"| every picture in sight is there, decoded | {shown:.0f} ms | |")
    gaps = [gap for each in rounds for gap in each["gaps"]]
    dropped = sum(max(0, round(gap / FRAME) - 1) for gap in gaps)
    print(
        f"| scrolling through all {PICTURES}, {PIXELS} pixels a frame | median frame {statistics.median(gaps):.1f} ms, "
        f"p99 {sorted(gaps)[int(len(gaps) * 0.99)]:.0f} ms, longest {max(gaps):.0f} ms; "
        f"{dropped} of {len(gaps) + dropped} frames dropped ({100 * dropped / (len(gaps) + dropped):.1f} %) | |"
    )


def one_round(chrome: Any, url: str, key: str) -> dict[str, Any]:
    context = chrome.new_context(viewport={"width": 1920, "height": 1080})
    page = open_studio(context.new_page(), url, key)
    page.reload()  # as somebody comes back who has the page, and the key
    paint, shown, tiles = page.evaluate(SHOWN)
    assert tiles < PICTURES
    gaps = page.evaluate(MEASURE_FRAMES, PIXELS)
    assert page.locator(".tile").count() == PICTURES + 1
    context.close()
    return {"paint": paint, "shown": shown, "gaps": gaps}


if __name__ == "__main__":
    main()
