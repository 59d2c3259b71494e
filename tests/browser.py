"""A real Chromium for the tests of the studio: that of the system, driven by Playwright."""

import asyncio
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from umrgen.clock import SystemClock
from umrgen.image_files import verify
from umrgen.server.domain.job import Change, Output, thumbnail_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.services.api_keys import ApiKeys, NewKey
from umrgen.server.thumbnails import thumbnail_of_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

R = TypeVar("R")

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    """Return the path of Chromium, or skip the test when it or Playwright is not installed."""
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
class ConsoleErrors:
    """The errors in the console of a page, including violations of its Content-Security-Policy."""

    found: list[str] = field(default_factory=list)

    def listen(self, page: "Page") -> None:
        page.on("console", lambda message: message.type in ("error", "warning") and self.found.append(message.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`))"
        )

    def unexpected(self, *expected: str) -> list[str]:
        """Return the errors that contain none of the expected parts."""
        return [text for text in self.found if not any(part in text for part in expected)]


def open_studio(page: "Page", url: str, key: str) -> Any:
    """Sign in with a key."""
    page.goto(f"{url}/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open the studio").click()
    page.get_by_label("Prompt", exact=True).wait_for()
    return page


def in_thread(work: Coroutine[Any, Any, R]) -> R:
    """Run `work` on an event loop in another thread, because this one has Playwright's."""
    with ThreadPoolExecutor() as threads:
        return threads.submit(asyncio.run, work).result()


def new_session(state: Path) -> tuple[str, str]:
    """Create a key of a running server, without a process as `umrgen keys create` needs; return it and its session."""

    async def make() -> tuple[str, str]:
        ledger = SqliteLedger(state / "ledger.sqlite3")
        await ledger.open()
        secret, key = await ApiKeys(ledger.keys, SystemClock()).create(NewKey())
        await ledger.close()
        return secret, key.session_id

    return in_thread(make())


async def fill_gallery(state: Path, session_id: str, image: bytes, count: int) -> None:
    """Write `count` completed jobs with the same image and thumbnail to a server's ledger and storage."""
    ledger = SqliteLedger(state / "ledger.sqlite3")
    await ledger.open()
    folder = state / "outputs" / session_id
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "first.png"
    first.write_bytes(image)
    small = folder / "first.webp"
    small.write_bytes(thumbnail_of_file(image))
    facts = verify(image)
    now = SystemClock().now() - 3_600_000  # not yet expired
    prefix = sha256(session_id.encode()).hexdigest()[:24]
    jobs = [f"ext_{prefix}{number:08x}" for number in range(count)]
    spec = GenerationRequest("a lighthouse on a cliff at dusk", 7, width=facts.width, height=facts.height)
    await asyncio.gather(
        *(ledger.jobs.submit(job, session_id, spec, "procedural", now=n) for n, job in enumerate(jobs, now))
    )
    claimed = await ledger.jobs.claim("gallery", now=now + count, lease_until=2**50, limit=count)
    done = []
    for job in claimed:
        name = f"umrgen_7_{job.id}.png"
        (folder / name).hardlink_to(first)
        (folder / thumbnail_name(name)).hardlink_to(small)
        output = Output(name, session_id, len(image), facts.sha256, facts.width, facts.height)
        done.append(
            ledger.jobs.change(job.id, Change.COMPLETE, now=now + count, token=job.token, outputs=(output,), step=4)
        )
    await asyncio.gather(*done)
    first.unlink()
    small.unlink()
    await ledger.close()


MEASURE_FRAMES = """
async (pixels) => {
  const frame = () => new Promise(requestAnimationFrame);
  const gaps = [];
  let before = await frame();
  let still = 0;
  // Scroll to the end; scrolling loads more pages, so stop only after 30 frames without a change.
  while (still < 30) {
    const top = scrollY;
    scrollBy(0, pixels);
    const now = await frame();
    gaps.push(now - before);
    before = now;
    still = scrollY === top ? still + 1 : 0;
  }
  return gaps;
}
"""
"""Scrolls to the end of the page, `pixels` in each frame; returns the milliseconds between frames."""
