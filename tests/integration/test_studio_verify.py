"""Verifying an image file in the studio, in a real Chromium: dropped on the page, or chosen with the keyboard."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_images import MIB, encoded_image
from PIL import Image

from browser import ConsoleErrors, new_session, open_studio
from studio_page import check_accessibility, drop_file, wait_for_announcement
from support import SMALL, UNLIMITED, ServerProcess, finish, server, signing_options, submit

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytest_plugins = ["browser_fixtures"]
pytestmark = pytest.mark.slow

PROMPT = "a lighthouse on a cliff at dusk"
DESK, TABLET, PHONE = {"width": 1920, "height": 1080}, {"width": 768, "height": 1024}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that signs its images, and accepts the root of their signer."""
    folder = tmp_path_factory.mktemp("verify")
    with server(folder / "state", *UNLIMITED, *signing_options(folder)) as started:
        yield started


@pytest.fixture(scope="module")
def made(running: ServerProcess) -> tuple[str, bytes]:
    """A key, and the image of its one job."""
    key, _ = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as http:
        return key, http.get(finish(http, submit(http, PROMPT, **SMALL))["image_url"]).content


@pytest.fixture
def studio(new_page: "Callable[..., Page]", running: ServerProcess, made: tuple[str, bytes]) -> "Page":
    page: Page = open_studio(new_page(), running.url, made[0])
    page.locator(".tile").wait_for()
    return page


def facts(dialog: "Locator") -> dict[str, str]:
    dialog.locator(".verify-result").wait_for()
    names, values = dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def verifier(page: "Page") -> "Locator":
    return page.get_by_role("dialog", name="Verify an image")


def as_jpeg(data: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((400, 400)).save(file, "JPEG", quality=60)
    return file.getvalue()


def answer_with(page: "Page", status: int, code: str, error: str, **headers: str) -> None:
    """Answer each verification with an error, as a server does that is busy or refuses the key."""

    def respond(route: "Route") -> None:
        body = {"success": False, "error": error, "code": code, "next": "Do something else."}
        route.fulfill(status=status, json=body, headers=headers)

    page.route("**/api/v1/verify", respond)


class TestAnswers:
    def test_a_dropped_file_of_this_server(
        self, studio: "Page", made: tuple[str, bytes], console_errors: ConsoleErrors
    ) -> None:
        drop_file(studio, ".tiles", made[1], "boat.png")
        dialog = verifier(studio)
        found = facts(dialog)
        assert dialog.locator(".verify-title").inner_text() == "This server made this file"
        assert (found["Made here"], found["Engine"]) == ("Exactly this file", "procedural")
        assert found["Marks"].startswith(
            "UMRGEN states that a program without a model made this image, and the pixels are"
        )
        assert found["Signature"].startswith("Valid, by UMRGEN")
        assert found["Signature"].endswith("a signer that this server trusts")
        dialog.get_by_role("img", name="boat.png").wait_for()
        wait_for_announcement(studio, "This server made this file")
        assert not studio.evaluate("document.body.classList.contains('over')")
        dialog.get_by_role("button", name="Show it in the gallery").click()
        studio.get_by_role("dialog", name=PROMPT).wait_for()
        assert console_errors.found == []

    def test_a_changed_copy_and_another_image(
        self, studio: "Page", made: tuple[str, bytes], console_errors: ConsoleErrors
    ) -> None:
        dialog = verifier(studio)
        drop_file(studio, ".top", as_jpeg(made[1]))
        found = facts(dialog)
        assert found["Made here"].startswith("A similar image: ")
        assert found["Marks"] == "None found in the file"
        drop_file(studio, ".verifier .drop", encoded_image("PNG", (300, 300)))
        dialog.locator(".verify-title", has_text="This server does not know this image").wait_for()
        assert facts(dialog)["Signature"] == "None"
        assert "proves nothing" in dialog.locator(".verify-note").inner_text()
        assert not dialog.get_by_role("button", name="Show it in the gallery").is_visible()
        assert console_errors.found == []

    def test_the_form_still_reads_the_settings(self, studio: "Page", made: tuple[str, bytes]) -> None:
        drop_file(studio, "um-prompt", made[1])
        wait_for_announcement(studio, "The settings of dropped.png are in the form.")
        assert not verifier(studio).is_visible()

    def test_another_session_is_not_offered_the_job(
        self, new_page: "Callable[..., Page]", running: ServerProcess, made: tuple[str, bytes]
    ) -> None:
        page = open_studio(new_page(), running.url, new_session(running.state)[0])
        drop_file(page, "um-gallery", made[1])
        assert facts(verifier(page))["Made here"] == "Exactly this file"
        assert not verifier(page).get_by_role("button", name="Show it in the gallery").is_visible()


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", "The image is empty"),
            (b"GIF89a", "Choose a complete PNG, JPEG or WebP file of at most 10 MiB."),
            (bytes(10 * MIB + 1), "at most 10,485,760 bytes; got 10,485,761"),
        ],
        ids=["empty", "gif", "too large"],
    )
    def test_files_that_are_no_images(self, studio: "Page", data: bytes, text: str) -> None:
        studio.get_by_role("button", name="Verify", exact=True).click()
        studio.locator("#verify-file").set_input_files({"name": "bad.png", "mimeType": "image/png", "buffer": data})
        verifier(studio).locator(".verify-error", has_text=text).wait_for()
        assert not verifier(studio).locator(".verify-result").is_visible()

    def test_a_file_that_cannot_be_read(self, studio: "Page") -> None:
        studio.evaluate("""() => {
            const file = new File(["x"], "gone.png");
            file.arrayBuffer = () => Promise.reject(new DOMException("text of the browser", "NotFoundError"));
            document.querySelector("um-verifier").verify(file);
        }""")
        error = verifier(studio).locator(
            ".verify-error", has_text="The file cannot be read: it is a folder, or was moved"
        )
        error.wait_for()
        assert "text of the browser" not in error.inner_text()

    def test_a_forbidden_call(self, studio: "Page", made: tuple[str, bytes]) -> None:
        answer_with(studio, 403, "forbidden", "this key may not verify images")
        drop_file(studio, ".tiles", made[1])
        verifier(studio).locator(".verify-error", has_text="This key may not verify images").wait_for(timeout=8000)

    def test_a_call_to_a_busy_server_is_repeated(self, studio: "Page", made: tuple[str, bytes]) -> None:
        answer_with(studio, 429, "rate_limited", "too many requests", **{"Retry-After": "1"})
        with studio.expect_response("**/api/v1/verify"):
            drop_file(studio, ".tiles", made[1])
        studio.unroute("**/api/v1/verify")
        assert facts(verifier(studio))["Made here"] == "Exactly this file"

    def test_a_server_that_stays_busy(self, studio: "Page", made: tuple[str, bytes]) -> None:
        answer_with(studio, 429, "rate_limited", "60 requests per minute are allowed", **{"Retry-After": "60"})
        drop_file(studio, ".tiles", made[1])
        verifier(studio).locator(".verify-error", has_text="60 requests per minute are allowed").wait_for()

    def test_a_refused_key_signs_out(self, studio: "Page", made: tuple[str, bytes]) -> None:
        answer_with(studio, 401, "unauthorized", "the API key is not valid")
        drop_file(studio, ".tiles", made[1])
        studio.get_by_text("The server no longer accepts your key").wait_for()


class TestAccess:
    def test_with_the_keyboard_only(self, studio: "Page", made: tuple[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "boat.png").write_bytes(made[1])
        button = studio.get_by_role("button", name="Verify", exact=True)
        button.focus()
        studio.keyboard.press("Enter")
        assert studio.evaluate("document.activeElement.id") == "verify-file"
        with studio.expect_file_chooser() as chooser:
            studio.keyboard.press("Space")
        chooser.value.set_files(tmp_path / "boat.png")
        assert facts(verifier(studio))["Made here"] == "Exactly this file"
        studio.keyboard.press("Escape")
        assert not verifier(studio).is_visible()
        assert button.evaluate("button => button === document.activeElement")

    @pytest.mark.parametrize("size", [PHONE, TABLET, DESK], ids=["phone", "tablet", "desk"])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_there_are_no_accessibility_violations(
        self,
        new_page: "Callable[..., Page]",
        running: ServerProcess,
        made: tuple[str, bytes],
        theme: str,
        size: dict[str, int],
    ) -> None:
        page = open_studio(new_page(viewport=size, color_scheme=theme), running.url, made[0])
        page.get_by_role("button", name="Verify", exact=True).click()
        check_accessibility(page, "no file")
        for data in (made[1], encoded_image("PNG", (300, 300)), b"GIF89a"):
            drop_file(page, ".verifier .drop", data)
            verifier(page).locator(".verify-result:not([hidden]), .verify-error:not(:empty)").wait_for()
            check_accessibility(page, "a result")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
