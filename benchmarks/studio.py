"""Benchmark of the studio: a gallery of 5,000 images in a real Chromium, from the first paint to the last row.

    python benchmarks/studio.py [ROUNDS]

Prints rows for docs/benchmarks.md. It needs Chromium and playwright (`requirements/dev.txt`). There is no GPU behind
it: what a frame costs here, it costs on two cores together with the server and everything else. A page with nothing but
the same thumbnails, scrolled in turn with the studio, is what Chromium itself can reach at that time.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import MEASURE_FRAMES, browser, fill_gallery, in_thread, new_session, open_studio
from support import SMALL, ServerProcess, finish, server, submit

PICTURES = 5000
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
PAGE = 48
"""Images of a page of the gallery."""
FRAME = 1000 / 60
PACE = 60
"""Pixels per frame: 3,600 a second, a pace for reaching the end."""

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

PLAIN = """<!doctype html><meta charset="utf-8"><title>Thumbnails</title><style>
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1.25rem }
ul { margin: 0 0 0 27rem; padding: 0 } li { list-style: none } img { display: block; width: 100%; aspect-ratio: 1 }
</style><ul>"""

LOADED = """
() => {
  const images = (entry) => entry.name.includes("/outputs/");
  const further = (entry) => entry.name.includes("cursor=");
  const bytes = (entries) => entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
  const all = performance.getEntriesByType("resource");
  const rest = all.filter((entry) => !images(entry));
  return {
    images: bytes(all.filter(images)),
    page: bytes(rest.filter((entry) => !further(entry))),
    further: bytes(rest.filter(further)),
  };
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "state", "--rate", "0") as running:
        key, session_id = new_session(running.state)
        with running.http(Authorization=f"Bearer {key}") as http:
            picture = http.get(finish(http, submit(http, "a lighthouse at dusk", **SMALL))["image_url"]).content
        in_thread(fill_gallery(running.state, session_id, picture, PICTURES))
        with browser() as chrome:
            first = first_visit(chrome, running.url, key)
            plain, rounds = [], []
            for _ in range(ROUNDS):
                plain += scroll_plain(chrome, running, key)
                rounds.append(one_round(chrome, running.url, key))
            version = chrome.version
    size = f"{PICTURES} pictures of {len(picture) / 1e3:.0f} kB"
    load = f"load average {os.getloadavg()[1]:.1f}, {os.cpu_count()} cores"
    print(f"Chromium {version}, {size}, 1920 × 1080, {ROUNDS} rounds, {load}\n")
    for name, words in (
        ("page", "the page itself"),
        ("images", "the images of the first page of the gallery"),
        ("further", "the lists of further pages, loaded in advance"),
    ):
        print(f"| {words}, first visit | {first[name] / 1e3:.0f} kB | |")
    for name, words in (("paint", "first paint, with a key"), ("shown", "every visible image is loaded")):
        print(f"| {words} | {statistics.median(each[name] for each in rounds):.0f} ms | |")
    print(scrolled("scrolling", [gap for each in rounds for gap in each["gaps"]]))
    print(scrolled("scrolling a page of nothing but the thumbnails", plain))


def scrolled(what: str, gaps: list[float]) -> str:
    """A row of scrolling."""
    dropped = sum(max(0, round(gap / FRAME) - 1) for gap in gaps)
    share = 100 * dropped / (len(gaps) + dropped)
    return (
        f"| {what} through all {PICTURES}, {PACE} pixels a frame | p50 {statistics.median(gaps):.1f} ms a frame, "
        f"p99 {sorted(gaps)[int(len(gaps) * 0.99)]:.0f} ms, longest {max(gaps):.0f} ms; {share:.1f} % dropped | |"
    )


def first_visit(chrome: Any, url: str, key: str) -> dict[str, int]:
    """The bytes that an empty browser loads: of the page, and of the images of the gallery's first page."""
    context = chrome.new_context(viewport={"width": 1920, "height": 1080})
    page = open_studio(context.new_page(), url, key)
    page.locator(".tile").nth(PAGE - 1).wait_for()
    for tile in page.locator(".tile").all()[:PAGE]:
        tile.scroll_into_view_if_needed()
    page.evaluate(SHOWN)
    loaded: dict[str, int] = page.evaluate(LOADED)
    context.close()
    return loaded


def scroll_plain(chrome: Any, running: ServerProcess, key: str) -> list[float]:
    """The milliseconds between frames of a page with the thumbnails only."""
    context = chrome.new_context(viewport={"width": 1920, "height": 1080})
    page = context.new_page()
    items = "".join(
        f'<li><img loading="lazy" decoding="async" src="{url}" alt=""></li>' for url in thumbnails(running, key)
    )
    page.route("**/plain", lambda route: route.fulfill(body=f"{PLAIN}{items}</ul>", content_type="text/html"))
    page.goto(f"{running.url}/plain")
    page.evaluate("Promise.all([...document.images].slice(0, 20).map((image) => image.decode()))")
    gaps: list[float] = page.evaluate(MEASURE_FRAMES, PACE)
    context.close()
    return gaps


def thumbnails(running: ServerProcess, key: str) -> Iterator[str]:
    """The addresses of all thumbnails."""
    cursor: str | None = ""
    with running.http(Authorization=f"Bearer {key}") as http:
        while cursor is not None:
            query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
            listed = http.get("/api/v1/jobs", params=query).json()
            yield from (image["thumbnail_url"] for job in listed["jobs"] for image in job["results"]["images"])
            cursor = listed["next_cursor"]


def one_round(chrome: Any, url: str, key: str) -> dict[str, Any]:
    context = chrome.new_context(viewport={"width": 1920, "height": 1080})
    page = open_studio(context.new_page(), url, key)
    page.evaluate(SHOWN)  # so that the first visit takes no time from the next one
    page.reload()  # as for a returning user, with the page and the key
    paint, shown, tiles = page.evaluate(SHOWN)
    assert tiles < PICTURES
    gaps = page.evaluate(MEASURE_FRAMES, PACE)
    assert page.locator(".tile").count() == PICTURES + 1
    context.close()
    return {"paint": paint, "shown": shown, "gaps": gaps}


if __name__ == "__main__":
    main()
