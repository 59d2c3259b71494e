"""What the studio shows when something fails: calls, images, storage, dialogs. In a real Chromium."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from browser import ConsoleErrors, new_session, open_studio
from studio_page import draw, row, tile, wait_for_announcement, wait_for_image
from support import SMALL, UNLIMITED, ServerProcess, finish, server, submit

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytest_plugins = ["browser_fixtures"]
pytestmark = pytest.mark.slow

WITHOUT_STORAGE = """
for (const area of ["sessionStorage", "localStorage"]) {
  Object.defineProperty(window, area, { get() { throw new DOMException("denied", "SecurityError"); } });
}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("studio") / "state", *UNLIMITED, "--step-delay", "0.1") as started:
        yield started


@pytest.fixture
def key(running: ServerProcess) -> str:
    """A key with one image."""
    created, _ = new_session(running.state)
    with running.http(Authorization=f"Bearer {created}") as http:
        finish(http, submit(http, "a lighthouse", **SMALL))
    return created


@pytest.fixture
def studio(new_page: "Callable[..., Page]", running: ServerProcess, key: str) -> "Page":
    page = open_studio(new_page(), running.url, key)
    tile(page, "a lighthouse").wait_for()
    return page


def refuse(route: "Route", status: int = 400, code: str = "invalid_request") -> None:
    body = {"success": False, "code": code, "error": "the request was refused", "next": "Change it."}
    route.fulfill(status=status, content_type="application/problem+json", body=json.dumps(body))


def test_a_refused_page_of_the_gallery_is_shown_and_requested_on_a_click_only(studio: "Page") -> None:
    calls: list[str] = []

    def refuse_search(route: "Route") -> None:
        calls.append(route.request.url)
        refuse(route)

    studio.route("**/api/v1/jobs?*q=castle*", refuse_search)
    studio.get_by_label("Search in prompts").fill("castle")
    studio.get_by_text("The gallery cannot be loaded").wait_for()
    assert studio.get_by_text("The request was refused.").is_visible()
    studio.get_by_role("button", name="Try again").click()
    studio.wait_for_function("() => document.querySelector('um-gallery').getAttribute('aria-busy') === 'false'")
    assert len(calls) == 2
    studio.unroute("**/api/v1/jobs?*q=castle*")
    studio.get_by_role("button", name="Try again").click()
    studio.get_by_text("Nothing found").wait_for()
    assert studio.get_by_role("button", name="Try again").is_hidden()


def test_a_message_after_a_dialog_with_a_message_was_closed(studio: "Page", console_errors: ConsoleErrors) -> None:
    studio.get_by_label("Prompt", exact=True).fill("a boat")
    studio.get_by_role("button", name="Templates").click()
    studio.locator("#template-name").fill("boats")
    studio.locator("#template-name").press("Enter")
    wait_for_announcement(studio, "is saved")
    studio.keyboard.press("Escape")
    studio.locator("dialog[open]").wait_for(state="detached")
    studio.locator(".random-seed").click()
    wait_for_announcement(studio, "Seed ")
    assert console_errors.found == []


def test_the_page_works_without_storage(
    new_page: "Callable[..., Page]", running: ServerProcess, key: str, console_errors: ConsoleErrors
) -> None:
    page = new_page()
    page.add_init_script(WITHOUT_STORAGE)
    open_studio(page, running.url, key)
    draw(page, "without storage")
    wait_for_image(tile(page, "without storage").locator("img"))
    assert console_errors.found == []


@pytest.mark.parametrize(("status", "body"), [(502, "<html>Bad gateway</html>"), (200, "[]"), (200, "{}")])
def test_a_gateways_response_to_a_start_link(
    new_page: "Callable[..., Page]", running: ServerProcess, status: int, body: str
) -> None:
    page = new_page()
    page.route("**/studio/session", lambda route: route.fulfill(status=status, content_type="text/html", body=body))
    page.goto(f"{running.url}/#start=ticket")
    page.get_by_text("The response is not from an UMRGEN server.").wait_for()


def test_an_image_whose_address_has_expired_is_loaded_again(studio: "Page") -> None:
    expired: list[str] = []

    def expire_first(route: "Route") -> None:
        if expired:
            return route.continue_()
        expired.append(route.request.url)
        return refuse(route, 410, "output_expired")

    studio.route("**/outputs/**/*.png*", expire_first)
    tile(studio, "a lighthouse").locator("button").click()
    wait_for_image(studio.locator("um-image-stage img"))
    assert expired


def test_an_image_that_cannot_be_loaded_is_reported(studio: "Page") -> None:
    studio.route("**/outputs/**/*.png*", lambda route: refuse(route, 500, "internal"))
    tile(studio, "a lighthouse").locator("button").click()
    studio.get_by_text("The image cannot be loaded.").wait_for()


def test_jobs_that_cannot_be_cancelled_are_not_counted(studio: "Page") -> None:
    studio.get_by_label("How many").fill("3")
    draw(studio, "many steps", steps=50)
    row(studio, "many steps").nth(2).wait_for()
    refused: list[str] = []

    def refuse_first(route: "Route") -> None:
        if refused:
            return route.continue_()
        refused.append(route.request.url)
        return refuse(route, 403, "forbidden")

    studio.route("**/api/v1/cancel/*", refuse_first)
    studio.get_by_role("button", name="Cancel all").click()
    wait_for_announcement(studio, "2 jobs were cancelled. 1 could not be cancelled.")
    studio.unroute("**/api/v1/cancel/*")
    row(studio, "many steps").get_by_role("button", name="Cancel").click()
    row(studio, "many steps").wait_for(state="detached")
