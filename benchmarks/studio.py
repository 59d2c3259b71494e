"""Benchmark of the studio: a gallery of 500 images in a real Chromium, from the first paint to the last row.

    python benchmarks/studio.py

Prints rows for docs/benchmarks.md. It needs Chromium and playwright (`requirements/dev.txt`). There is no GPU behind
it: what a frame costs here, it costs on two cores together with the server and everything else.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import MEASURE_FRAMES, browser, fill_gallery, in_thread, new_session, open_studio
from support import SMALL, finish, server, submit

PICTURES = 500
ROUNDS = 3
FRAME = 1000 / 60
PACES = (20, 60)
"""Pixels per frame: 1,200 a second, a pace for viewing, and 3,600, a pace for reaching the end."""

SHOWN = """
async () => {
  const seen = () => [...document.querySelectorAll(".tile img")].filter((image) => {
    const {top, bottom} = image.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  const there = (image) => image.complete && image.naturalWidth;
  while (!seen().length || !seen().every(there)) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [paint.startTime, performance.now(), document.querySelectorAll(".tile").length];
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "state", "--rate", "0") as running:
        key, session_id = new_session(running.state)
        with running.http(Authorization=f"Bearer {key}") as http:
            picture = http.get(finish(http, submit(http, "a lighthouse at dusk", **SMALL))["image_url"]).content
        in_thread(fill_gallery(running.state, session_id, picture, PICTURES))
        with browser() as chrome:
            rounds = [one_round(chrome, running.url, key, pace) for pace in PACES for _ in range(ROUNDS)]
            version = chrome.version
    size = f"{PICTURES} pictures of {len(picture) / 1e3:.0f} kB"
    print(f"Chromium {version}, {size}, 1920 × 1080, {ROUNDS} rounds for each pace\n")
    for name, words in (("paint", "first paint, with a key"), ("shown", "every visible image is loaded")):
        print(f"| {words} | {statistics.median(each[name] for each in rounds):.0f} ms | |")
    for pace in PACES:
        print(scrolled(pace, [gap for each in rounds for gap in each["gaps"] if each["pace"] == pace]))


def scrolled(pace: int, gaps: list[float]) -> str:
    """The row of one pace."""
    dropped = sum(max(0, round(gap / FRAME) - 1) for gap in gaps)
    share = 100 * dropped / (len(gaps) + dropped)
    return (
        f"| scrolling through all {PICTURES}, {pace} pixels a frame | p50 {statistics.median(gaps):.1f} ms a frame, "
        f"p99 {sorted(gaps)[int(len(gaps) * 0.99)]:.0f} ms, longest {max(gaps):.0f} ms; {share:.1f} % dropped | |"
    )


def one_round(chrome: Any, url: str, key: str, pace: int) -> dict[str, Any]:
    context = chrome.new_context(viewport={"width": 1920, "height": 1080})
    page = open_studio(context.new_page(), url, key)
    page.reload()  # as for a returning user, with the page and the key
    paint, shown, tiles = page.evaluate(SHOWN)
    assert tiles < PICTURES
    gaps = page.evaluate(MEASURE_FRAMES, pace)
    assert page.locator(".tile").count() == PICTURES + 1
    context.close()
    return {"paint": paint, "shown": shown, "gaps": gaps, "pace": pace}


if __name__ == "__main__":
    main()
