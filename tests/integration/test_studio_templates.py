"""Templates in the studio, in a real Chromium: saved, used, deleted, exported and imported."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import ConsoleErrors, new_session, open_studio
from studio_page import check_accessibility, draw, tile, wait_for_announcement
from support import UNLIMITED, ServerProcess, server

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytest_plugins = ["browser_fixtures"]
pytestmark = pytest.mark.slow

DESK, TABLET, PHONE = {"width": 1920, "height": 1080}, {"width": 768, "height": 1024}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("templates") / "state", *UNLIMITED) as started:
        yield started


@pytest.fixture
def key(running: ServerProcess) -> str:
    return new_session(running.state)[0]


@pytest.fixture
def studio(new_page: "Callable[..., Page]", running: ServerProcess, key: str) -> "Page":
    page: Page = open_studio(new_page(), running.url, key)
    return page


def opened(page: "Page") -> "Locator":
    page.get_by_role("button", name="Templates…").click()
    dialog = page.get_by_role("dialog", name="Templates")
    dialog.locator("li").first.wait_for()
    return dialog


def save(page: "Page", name: str) -> "Locator":
    """Save the form as a template with the keyboard; return the dialog."""
    dialog = opened(page)
    dialog.get_by_label("Name of the new template").fill(name)
    page.keyboard.press("Enter")
    dialog.locator(".templates-note", has_text=f"“{name}” is saved.").wait_for()
    return dialog


class TestTemplates:
    def test_a_template_is_saved_used_in_another_browser_and_deleted(
        self,
        studio: "Page",
        new_page: "Callable[..., Page]",
        running: ServerProcess,
        key: str,
        console_errors: ConsoleErrors,
    ) -> None:
        studio.get_by_label("Prompt", exact=True).fill("a street at night")
        studio.get_by_label("Negative prompt").fill("people")
        studio.get_by_label("Steps", exact=True).fill("9")
        studio.get_by_label("Seed", exact=True).fill("0")
        save(studio, "film <b>noir")
        other = open_studio(new_page(), running.url, key)
        dialog = opened(other)
        dialog.locator(".use", has_text="film <b>noir").click()
        assert other.get_by_label("Prompt", exact=True).input_value() == "a street at night"
        assert other.get_by_label("Negative prompt").input_value() == "people"
        assert other.get_by_label("Steps", exact=True).input_value() == "9"
        assert other.get_by_label("Seed", exact=True).input_value() == "0"
        assert other.get_by_label("Prompt", exact=True).evaluate("field => field === document.activeElement")
        wait_for_announcement(other, "The template is in the form.")
        dialog = opened(other)
        dialog.get_by_role("button", name="Delete film <b>noir").click()
        dialog.get_by_text("None yet.").wait_for()
        other.keyboard.press("Escape")
        stranger = open_studio(new_page(), running.url, new_session(running.state)[0])
        assert opened(stranger).get_by_text("None yet.").is_visible()
        assert console_errors.found == []

    def test_an_empty_form_and_a_name_that_is_refused(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        dialog = save(studio, "sizes only")
        dialog.get_by_label("Name of the new template").fill("a/b")
        dialog.get_by_role("button", name="Save").click()
        dialog.locator(".templates-error", has_text="must have no /").wait_for()
        assert console_errors.unexpected("400 (Bad Request)") == []

    def test_an_export_is_imported_by_another_key(
        self, studio: "Page", new_page: "Callable[..., Page]", running: ServerProcess, tmp_path: Path
    ) -> None:
        draw(studio, "a boat drawn before", steps=1)
        tile(studio, "a boat drawn before").wait_for()
        studio.get_by_label("Prompt", exact=True).fill("a street at night")
        dialog = save(studio, "noir")
        with studio.expect_download() as download:
            dialog.get_by_role("button", name="Export").click()
        assert download.value.suggested_filename == "umrgen-templates.json"
        download.value.save_as(tmp_path / "export.json")
        exported = json.loads((tmp_path / "export.json").read_bytes())
        assert [each["name"] for each in exported["templates"]] == ["noir"]
        assert exported["prompts"] == ["a boat drawn before"]
        other = open_studio(new_page(), running.url, new_session(running.state)[0])
        dialog = opened(other)
        for name, text in (("text.json", "not JSON"), ("list.json", "[1]"), ("other.json", '{"templates": [7]}')):
            (tmp_path / name).write_text(text)
            other.locator("#template-file").set_input_files(tmp_path / name)
            dialog.locator(".templates-error", has_text=f"{name[1:]} has no templates").wait_for()
        other.locator("#template-file").set_input_files(tmp_path / "export.json")
        dialog.locator(".templates-note", has_text="1 templates were imported.").wait_for()
        dialog.locator(".use", has_text="noir").click()
        assert other.get_by_label("Prompt", exact=True).input_value() == "a street at night"

    @pytest.mark.parametrize("size", [PHONE, TABLET, DESK], ids=["phone", "tablet", "desk"])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_there_are_no_accessibility_violations(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, theme: str, size: dict[str, int]
    ) -> None:
        page = open_studio(new_page(viewport=size, color_scheme=theme), running.url, key)
        page.get_by_label("Prompt", exact=True).fill("a street at night, " * 20)
        save(page, "a name of a template that is rather long for a phone, but may be so")
        check_accessibility(page, "templates")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
