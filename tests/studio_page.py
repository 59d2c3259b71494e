"""Actions of the tests of the studio on its page: draw an image, find a row or a tile, wait for an image."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from umrgen.image_files import verify

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

# How long a page waits for an image, in milliseconds: as long as Playwright waits for an element.
IMAGE_LOADED = 30_000
AXE = Path(__file__).parents[1] / "js" / "node_modules" / "axe-core" / "axe.min.js"


def draw(page: "Page", prompt: str, *, steps: int = 2) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("input[value=free]").check()
    page.get_by_label("Width").fill("512")
    page.get_by_label("Height").fill("512")
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_role("button", name="Draw").click()


def row(page: "Page", prompt: str) -> "Locator":
    return page.locator(".queued", has_text=prompt)


def tile(page: "Page", prompt: str) -> "Locator":
    return page.locator(".tile", has_text=prompt)


def wait_for_image(image: "Locator") -> None:
    """Wait until an image is shown and loaded. (`decode()` fails when the next preview replaces the one it decodes.)"""
    from playwright.sync_api import expect

    expect(image).to_be_visible(timeout=IMAGE_LOADED)
    expect(image).not_to_have_js_property("naturalWidth", 0, timeout=IMAGE_LOADED)
    expect(image).to_have_js_property("complete", True, timeout=IMAGE_LOADED)


def pixels(data: bytes) -> bytes:
    """Return the pixels of an image file, whose metadata names the job."""
    verify(data)
    return Image.open(BytesIO(data)).tobytes()


def wait_for_announcement(page: "Page", text: str) -> None:
    """Wait until the live region has a text."""
    page.wait_for_function("text => document.querySelector('#live').textContent.includes(text)", arg=text)


DROP = """([target, bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
    const options = {dataTransfer: data, bubbles: true, cancelable: true};
    for (const type of ["dragover", "drop"]) document.querySelector(target).dispatchEvent(new DragEvent(type, options));
}"""


def drop_file(page: "Page", target: str, data: bytes, name: str = "dropped.png") -> None:
    """Drop a file on the element that matches a selector."""
    page.evaluate(DROP, [target, list(data), name])


def show(page: "Page", name: str) -> None:
    """Choose which jobs the gallery shows."""
    page.get_by_role("radio", name=name, exact=True).check()


def check_accessibility(page: "Page", state: str) -> None:
    page.evaluate("window.axe !== undefined || 0") or page.evaluate(AXE.read_text() + "; 1")
    found = page.evaluate("async () => (await axe.run({resultTypes: ['violations']})).violations")
    violations = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    assert violations == [], state
