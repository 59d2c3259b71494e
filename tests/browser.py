"""A real Chromium for the tests of the studio: Debian's, driven by Playwright."""

import asyncio
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from umrgen.clock import SystemClock
from umrgen.image_files import verify
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.services.api_keys import ApiKeys, NewKey

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

R = TypeVar("R")

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
    page.get_by_label("Prompt", exact=True).wait_for()
    return page


def in_thread(work: Coroutine[Any, Any, R]) -> R:
    """Run it to its end on an event loop of its own; this thread has one already: Playwright's."""
    with ThreadPoolExecutor() as threads:
        return threads.submit(asyncio.run, work).result()


def new_session(state: Path) -> tuple[str, str]:
    """A key of a running server, and its session: as `umrgen keys create` makes them, without a process for each."""

    async def make() -> tuple[str, str]:
        ledger = SqliteLedger(state / "ledger.sqlite3")
        await ledger.open()
        secret, key = await ApiKeys(ledger.keys, SystemClock()).create(NewKey())
        await ledger.close()
        return secret, key.session_id

    return in_thread(make())


async def fill_gallery(state: Path, session_id: str, picture: bytes, count: int) -> None:
    """Write `count` completed jobs of one picture into a server's ledger and storage."""
    ledger = SqliteLedger(state / "ledger.sqlite3")
    await ledger.open()
    folder = state / "outputs" / session_id
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "first.png"
    first.write_bytes(picture)
    facts = verify(picture)
    now = SystemClock().now() - 3_600_000  # young enough to be kept
    jobs = [f"ext_{number:032x}" for number in range(count)]
    spec = GenerationRequest("a lighthouse on a cliff at dusk", 7, width=facts.width, height=facts.height)
    await asyncio.gather(
        *(ledger.jobs.submit(job, session_id, spec, "procedural", now=n) for n, job in enumerate(jobs, now))
    )
    claimed = await ledger.jobs.claim("gallery", now=now + count, lease_until=2**50, limit=count)
    done = []
    for job in claimed:
        name = f"umrgen_7_{job.id}.png"
        (folder / name).hardlink_to(first)
        image = Output(name, session_id, len(picture), facts.sha256, facts.width, facts.height)
        done.append(
            ledger.jobs.change(job.id, Change.COMPLETE, now=now + count, token=job.token, outputs=(image,), step=4)
        )
    await asyncio.gather(*done)
    first.unlink()
    await ledger.close()


MEASURE_FRAMES = """
async (pixels) => {
  const frame = () => new Promise(requestAnimationFrame);
  const gaps = [];
  let before = await frame();
  let still = 0;
  // To the end, however often there turns out to be more; a frame in which nothing could be scrolled waits for it.
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
"""Scrolls to the end of the page, so many pixels a frame; gives the milliseconds between frames."""
