"""A real Chromium for the tests of the studio: Debian's, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    """Where Chromium is, or a skip that says what is missing."""
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@contextmanager
def browser() -> "Iterator[Browser]":
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield running
        running.close()


@dataclass
class Complaints:
    """What a page's console and its policy have complained of."""

    found: list[str] = field(default_factory=list)

    def listen(self, page: "Page") -> None:
        page.on("console", lambda said: said.type in ("error", "warning") and self.found.append(said.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`))"
        )

    def beside(self, *expected: str) -> list[str]:
        """Those in which none of the words that were to be expected stands."""
        return [words for words in self.found if not any(part in words for part in expected)]


def open_studio(page: "Page", url: str, key: str) -> Any:
    """Come in with a key, as one who has it in his clipboard."""
    page.goto(f"{url}/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open the studio").click()
    page.get_by_label("What should be drawn?").wait_for()
    return page
