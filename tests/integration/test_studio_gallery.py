"""The studio's links, selection, filters and tools for images, in a real Chromium."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser import ConsoleErrors, new_session, open_studio
from studio_page import (
    check_accessibility,
    draw,
    drop_file,
    pixels,
    row,
    show,
    tile,
    wait_for_announcement,
    wait_for_image,
)
from support import SMALL, UNLIMITED, ServerProcess, finish, server, submit

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ["browser_fixtures"]
pytestmark = pytest.mark.slow

PROMPTS = ("a castle in winter", "a castle in winter", "a lighthouse")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("studio") / "state", *UNLIMITED, "--step-delay", "0.1") as started:
        yield started


@pytest.fixture
def session(running: ServerProcess) -> tuple[str, list[str]]:
    """A key with three images, newest last, and their jobs."""
    key, _ = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as http:
        jobs = [submit(http, prompt, **SMALL | {"seed": 40 + n}) for n, prompt in enumerate(PROMPTS)]
        for job in jobs:
            finish(http, job)
    return key, jobs


@pytest.fixture
def gallery(new_page: "Callable[..., Page]", running: ServerProcess, session: tuple[str, list[str]]) -> "Page":
    """The studio with these three images."""
    page = new_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_studio(page, running.url, session[0])
    tile(page, "a lighthouse").wait_for()
    return page


@pytest.fixture
def empty(new_page: "Callable[..., Page]", running: ServerProcess) -> "Page":
    """The studio of a new key."""
    page: Page = open_studio(new_page(), running.url, new_session(running.state)[0])
    return page


def dialog_name(page: "Page") -> Any:
    return page.evaluate("() => document.querySelector('dialog.viewer[open] h2')?.textContent")


def is_open(page: "Page", opened: bool) -> None:
    page.wait_for_function("opened => !!document.querySelector('dialog.viewer[open]') === opened", arg=opened)


class TestLinks:
    def test_an_image_has_a_link_and_back_closes_it(
        self, gallery: "Page", session: tuple[str, list[str]], console_errors: ConsoleErrors
    ) -> None:
        start = gallery.url
        tile(gallery, "a lighthouse").click()
        assert gallery.url.endswith(f"#job={session[1][2]}")
        gallery.keyboard.press("ArrowRight")
        gallery.wait_for_url(f"**#job={session[1][1]}")
        gallery.go_back()
        is_open(gallery, False)
        assert gallery.url == start
        gallery.go_forward()
        is_open(gallery, True)
        gallery.reload()
        is_open(gallery, True)
        assert dialog_name(gallery) == "a castle in winter"
        gallery.keyboard.press("Escape")
        is_open(gallery, False)
        gallery.wait_for_url(start)
        assert console_errors.found == []

    def test_closing_an_image_leaves_no_entry_that_opens_it_again(self, gallery: "Page") -> None:
        tile(gallery, "a lighthouse").click()
        gallery.keyboard.press("Escape")
        gallery.wait_for_function("() => !location.hash")
        show(gallery, "Failed")
        gallery.wait_for_function("() => location.hash === '#show=failed'")
        gallery.go_back()
        gallery.wait_for_function("() => !location.hash")
        tile(gallery, "a lighthouse").wait_for()
        is_open(gallery, False)

    def test_a_filter_has_a_link(self, gallery: "Page", running: ServerProcess) -> None:
        show(gallery, "Failed")
        gallery.get_by_text("No failed jobs").wait_for()
        gallery.reload()
        gallery.get_by_text("No failed jobs").wait_for()
        gallery.locator("summary.button").click()
        gallery.locator("#filter-size").select_option("portrait")
        gallery.wait_for_function("() => location.hash === '#show=failed&size=portrait'")
        gallery.get_by_role("button", name="Clear").click()
        tile(gallery, "a lighthouse").wait_for()
        assert "#" not in gallery.url

    def test_a_link_to_an_unknown_job_is_reported(self, gallery: "Page", running: ServerProcess) -> None:
        gallery.goto(f"{running.url}/#job=ext_00000000000000000000000000000000")
        wait_for_announcement(gallery, "The job in this link does not exist.")

    def test_no_prompt_is_sent_in_an_address(self, gallery: "Page") -> None:
        """The fragment with the search is not sent, so no log has it."""
        paths: list[str] = []
        gallery.on("request", lambda request: paths.append(request.url))
        gallery.evaluate("location.hash = '#q=secret'")
        gallery.reload()
        tile(gallery, "a lighthouse").or_(gallery.locator(".empty-title")).first.wait_for()
        assert [path for path in paths if "secret" in path and "/api/v1/jobs" not in path] == []

    def test_the_start_link_works_in_an_open_tab(
        self, new_page: "Callable[..., Page]", tmp_path: Path, console_errors: ConsoleErrors
    ) -> None:
        with server(tmp_path / "state", *UNLIMITED) as started:
            page = new_page()
            page.goto(f"{started.url}/")
            page.get_by_label("API key").wait_for()
            page.goto(started.studio)  # only the fragment changes
            page.get_by_label("Prompt", exact=True).wait_for()
            assert "#" not in page.url
        assert console_errors.unexpected("ERR_", "401") == []


class TestPrompt:
    def test_a_long_paste_is_reported_and_not_cut(self, empty: "Page") -> None:
        prompt = empty.get_by_label("Prompt", exact=True)
        empty.evaluate("""() => {
            const data = new DataTransfer();
            data.setData("text/plain", "boat ".repeat(500));
            const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
            document.querySelector("#prompt").dispatchEvent(event);
        }""")
        error = empty.locator("#prompt-error")
        assert error.inner_text() == "The pasted text has 2,499 characters. A prompt has at most 2,000: shorten it."
        prompt.fill("boat " * 500)
        assert empty.get_by_text("2,499 of 2,000 characters").is_visible()
        empty.get_by_role("button", name="Draw").click()
        assert error.inner_text() == "The prompt must have at most 2,000 characters: remove 499."
        prompt.fill("a boat")
        assert not empty.locator(".counter").is_visible()

    def test_earlier_prompts(self, gallery: "Page") -> None:
        gallery.get_by_label("Earlier prompts").focus()
        gallery.get_by_label("Earlier prompts").select_option("a castle in winter")
        assert gallery.get_by_label("Prompt", exact=True).input_value() == "a castle in winter"
        assert gallery.locator(".history option").count() == 3, "each prompt once, and the title"

    def test_the_settings_of_a_dropped_file(self, gallery: "Page", running: ServerProcess, tmp_path: Path) -> None:
        tile(gallery, "a lighthouse").click()
        with gallery.expect_download() as download:
            gallery.get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / "boat.png")
        gallery.keyboard.press("Escape")
        gallery.get_by_label("Settings of a file").set_input_files(tmp_path / "boat.png")
        wait_for_announcement(gallery, "The settings of boat.png are in the form.")
        prompt = gallery.get_by_label("Prompt", exact=True)
        assert prompt.input_value() == "a lighthouse"
        assert gallery.get_by_label("Seed", exact=True).input_value() == "42"
        assert gallery.get_by_label("Width").input_value() == "512"
        for body, expected in ((A1111, "a red barn"), (verify_free_png(), None)):
            drop_file(gallery, "um-prompt", body)
            if expected:
                gallery.wait_for_function("text => document.querySelector('#prompt').value === text", arg=expected)
                assert gallery.get_by_label("Seed", exact=True).input_value() == "1234"
                assert gallery.get_by_label("Negative prompt").input_value() == "blurry"
            else:
                gallery.locator("#prompt-error", has_text="dropped.png has no settings").wait_for()
        assert prompt.input_value() == "a red barn"

    def test_the_count_is_on_the_button(self, empty: "Page") -> None:
        empty.get_by_role("button", name="One more").click()
        empty.get_by_role("button", name="Draw 2 images").wait_for()


def png_with(**texts: str) -> bytes:
    """Return a small PNG with text chunks, written by Pillow."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=True)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png", pnginfo=info)
    return file.getvalue()


def verify_free_png() -> bytes:
    return png_with(comment="nothing")


A1111 = png_with(
    parameters="a red barn\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1234, Size: 768x512"
)


class TestWaiting:
    def test_the_title_and_the_icon_show_the_progress(self, empty: "Page", console_errors: ConsoleErrors) -> None:
        draw(empty, "a boat", steps=30)
        empty.wait_for_function("() => /^[1-9]\\d? % · UMRGEN studio/.test(document.title)")
        assert empty.locator("link[rel=icon]").get_attribute("href").startswith("data:image/png")
        row(empty, "a boat").get_by_role("button", name="Cancel").click()
        empty.wait_for_function("() => document.title === 'UMRGEN studio'")
        assert empty.locator("link[rel=icon]").get_attribute("href").endswith("icon.svg")
        assert console_errors.found == []

    def test_all_jobs_can_be_cancelled(self, empty: "Page", console_errors: ConsoleErrors) -> None:
        empty.get_by_label("How many").fill("4")
        draw(empty, "a fleet", steps=50)
        wait_for_announcement(empty, "4 jobs were sent")
        empty.get_by_text("2nd in the queue").wait_for()
        empty.get_by_role("button", name="Cancel all").click()
        empty.get_by_text("No images yet").wait_for()
        assert tile(empty, "a fleet").count() == 0, "a cancelled job must not stay in front"
        show(empty, "Failed")
        empty.wait_for_function("() => document.querySelectorAll('.tile').length === 4")
        assert console_errors.found == []

    def test_a_permission_is_requested_on_a_click_only(
        self, new_page: "Callable[..., Page]", running: ServerProcess
    ) -> None:
        page = new_page()
        page.add_init_script("""
            window.requested = 0;
            window.shown = [];
            window.Notification = class extends EventTarget {
                static permission = "default";
                static async requestPermission() { window.requested++; return (this.permission = "granted"); }
                constructor(title, options) { super(); window.shown.push([title, options.body]); }
                close() {}
            };
        """)
        open_studio(page, running.url, new_session(running.state)[0])
        draw(page, "a boat announced", steps=15)
        row(page, "a boat announced").wait_for()
        assert page.evaluate("requested") == 0
        page.get_by_role("button", name="Notify me").click()
        assert page.evaluate("requested") == 1
        page.get_by_role("button", name="Notify me").wait_for(state="hidden")
        page.evaluate("""() => {
            Object.defineProperty(document, "hidden", {value: true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
        page.wait_for_function("() => window.shown.length === 1")
        assert page.evaluate("shown") == [["The image is finished", "a boat announced"]]
        assert page.title() == "✓ 1 finished · UMRGEN studio"

    def test_a_phone_scrolls_to_the_job(self, new_page: "Callable[..., Page]", running: ServerProcess) -> None:
        page = new_page(viewport={"width": 360, "height": 740})
        open_studio(page, running.url, new_session(running.state)[0])
        draw(page, "a boat", steps=30)
        page.wait_for_function("""() => {
            const {top, bottom} = document.querySelector(".queued")?.getBoundingClientRect() ?? {};
            return top >= 0 && bottom <= innerHeight;
        }""")


class TestImage:
    def test_variations_have_new_seeds(
        self, gallery: "Page", running: ServerProcess, session: tuple[str, list[str]], console_errors: ConsoleErrors
    ) -> None:
        tile(gallery, "a lighthouse").click()
        gallery.get_by_role("button", name="4 variations").click()
        is_open(gallery, False)
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 7")
        captions = gallery.locator(".tile", has_text="a lighthouse").locator(".tile-more").all_inner_texts()
        assert len(set(captions)) == 5, "images of one prompt must differ in their captions"
        with running.http(Authorization=f"Bearer {session[0]}") as http:
            newest = http.get("/api/v1/jobs?limit=4").json()["jobs"]
        assert {job["prompt"] for job in newest} == {"a lighthouse"}
        assert len({job["seed"] for job in newest} | {42}) == 5
        assert console_errors.found == []

    def test_an_image_as_a_reference_and_the_order_of_references(
        self, new_page: "Callable[..., Page]", running: ServerProcess, session: tuple[str, list[str]]
    ) -> None:
        page = open_studio(new_page(), running.url, session[0])
        for index in (0, 1):
            page.locator(".tile-open").nth(index).click()
            page.get_by_role("button", name="Use as reference").click()
            page.wait_for_function("n => document.querySelectorAll('.reference').length === n", arg=index + 1)
            wait_for_image(page.locator(".reference img").nth(index))
        names = lambda: page.locator(".reference").evaluate_all("items => items.map((i) => i.dataset.name)")  # noqa: E731
        before = names()
        page.locator(".reference .move").nth(1).focus()
        page.keyboard.press("ArrowLeft")
        wait_for_announcement(page, "Moved to place 1 of 2.")
        assert names() == before[::-1]
        assert page.locator(".place").all_inner_texts() == ["1", "2"]
        page.locator(".reference .move").first.drag_to(page.locator(".reference .move").nth(1))
        assert names() == before
        draw(page, "like those", steps=1)
        wait_for_image(tile(page, "like those").locator("img"))
        with running.http(Authorization=f"Bearer {session[0]}") as http:
            (job,) = http.get("/api/v1/jobs?limit=1").json()["jobs"]
        assert job["request"]["reference_images"] == before

    def test_copying_an_image_and_its_link(self, gallery: "Page", running: ServerProcess) -> None:
        tile(gallery, "a lighthouse").click()
        gallery.get_by_role("button", name="Copy image").click()
        wait_for_announcement(gallery, "The image was copied.")
        types = gallery.evaluate("async () => (await navigator.clipboard.read()).flatMap((item) => item.types)")
        assert types == ["image/png"]
        gallery.get_by_role("button", name="Copy link").click()
        gallery.locator(".viewer-note", has_text="without a key, as long as the server keeps the image").wait_for()
        link = gallery.evaluate("navigator.clipboard.readText()")
        assert link.startswith(f"{running.url}/outputs/")

    def test_dragging_an_image_out_of_the_page(self, gallery: "Page", running: ServerProcess) -> None:
        given = gallery.locator(".tile", has_text="a lighthouse").evaluate("""(tile) => {
            const dataTransfer = new DataTransfer();
            tile.dispatchEvent(new DragEvent("dragstart", {dataTransfer, bubbles: true}));
            return dataTransfer.getData("DownloadURL");
        }""")
        assert re.fullmatch(rf"image/png:a-lighthouse-42\.png:{re.escape(running.url)}/outputs/.+", given)

    def test_an_image_of_the_gallery_is_dropped_on_the_references(self, gallery: "Page") -> None:
        gallery.evaluate("""() => {
            const dataTransfer = new DataTransfer();
            document.querySelector(".tile").dispatchEvent(new DragEvent("dragstart", {dataTransfer, bubbles: true}));
            const options = {dataTransfer, bubbles: true, cancelable: true};
            document.querySelector(".drop").dispatchEvent(new DragEvent("drop", options));
        }""")
        wait_for_image(gallery.locator(".reference img"))
        assert gallery.locator(".reference").get_attribute("data-title") == "a-lighthouse-42.png"

    def test_zoom_to_full_size(self, gallery: "Page") -> None:
        gallery.set_viewport_size({"width": 360, "height": 740})
        tile(gallery, "a lighthouse").click()
        image = gallery.locator(".viewer-stage img")
        wait_for_image(image)
        width = lambda: image.evaluate("image => image.getBoundingClientRect().width")  # noqa: E731
        assert width() < 512
        gallery.get_by_role("button", name="Show at 100 %").click()
        assert width() == 512
        stage = gallery.locator("um-image-stage")
        left = stage.evaluate("stage => stage.scrollLeft")
        assert left > 0, "the centre must be visible"
        box = stage.bounding_box()
        assert box is not None
        gallery.mouse.move(box["x"] + 200, box["y"] + 200)
        gallery.mouse.down()
        gallery.mouse.move(box["x"] + 150, box["y"] + 200)
        gallery.mouse.up()
        assert stage.evaluate("stage => stage.scrollLeft") == left + 50
        check_accessibility(gallery, "zoomed")
        gallery.keyboard.press("z")
        assert width() < 512

    def test_a_swipe_opens_the_next_image(self, gallery: "Page") -> None:
        tile(gallery, "a lighthouse").click()
        gallery.evaluate("""() => {
            const stage = document.querySelector("um-image-stage");
            const touch = (type, clientX) => stage.dispatchEvent(
                new PointerEvent(type, {pointerType: "touch", clientX, clientY: 300, bubbles: true}));
            touch("pointerdown", 300);
            touch("pointermove", 200);
            touch("pointerup", 150);
        }""")
        gallery.get_by_role("dialog", name="a castle in winter").wait_for()


class TestSelection:
    def test_a_selection_by_click_shift_and_keyboard(self, gallery: "Page", console_errors: ConsoleErrors) -> None:
        gallery.get_by_role("button", name="Select", exact=True).click()
        check_accessibility(gallery, "selecting")
        tiles = gallery.locator(".tile-open")
        tiles.nth(0).click()
        tiles.nth(2).click(modifiers=["Shift"])
        assert gallery.get_by_text("3 selected").is_visible()
        tiles.nth(1).focus()
        gallery.keyboard.press("Enter")
        assert tiles.nth(1).get_attribute("aria-pressed") == "false"
        gallery.get_by_role("button", name="Compare").click()
        compared = gallery.get_by_role("dialog", name="Compare")
        wait_for_image(compared.locator("img").last)
        assert compared.locator("mark").count() >= 2
        check_accessibility(gallery, "compare")
        gallery.keyboard.press("Escape")
        gallery.keyboard.press("Escape")
        assert not gallery.get_by_text("2 selected").is_visible()
        assert console_errors.found == []

    def test_a_click_on_the_mark_of_a_tile_selects_it(self, gallery: "Page") -> None:
        first = gallery.locator(".tile-open").first
        first.hover()
        mark = "tile => getComputedStyle(tile, '::before').content"
        assert first.evaluate(mark) == '""', "the mark must be visible"
        assert gallery.locator(".tile-open").last.evaluate(mark) == "none"
        first.click(position={"x": 20, "y": 20})
        assert gallery.get_by_text("1 selected").is_visible()
        first.click(position={"x": 80, "y": 80})
        assert not gallery.get_by_text("1 selected").is_visible()
        gallery.keyboard.press("Escape")
        gallery.locator(".tile-open").last.click(position={"x": 80, "y": 80})
        is_open(gallery, True)

    def test_tiles_have_few_elements_and_are_below_the_form(self, gallery: "Page") -> None:
        """A gallery has thousands of tiles; above the form, each frame of scrolling would paint a second layer."""
        tile = gallery.locator(".tile").first
        assert tile.evaluate("tile => tile.querySelectorAll('*').length") == 4
        assert tile.evaluate("tile => tile.innerHTML.match(/>\\s+</)") is None
        assert gallery.locator(".tile-group .tile").count() == 3
        index = "element => getComputedStyle(document.querySelector(element)).zIndex"
        assert (gallery.evaluate(index, "um-composer"), gallery.evaluate(index, ".tile")) == ("1", "auto")

    def test_a_long_press_selects(self, gallery: "Page") -> None:
        gallery.clock.install()
        gallery.locator(".tile-open").nth(1).dispatch_event("pointerdown", {"pointerType": "touch", "bubbles": True})
        gallery.clock.run_for(600)
        gallery.locator(".tile-open").nth(1).dispatch_event("click")
        assert gallery.get_by_text("1 selected").is_visible()
        is_open(gallery, False)

    def test_several_images_as_one_zip(
        self, new_page: "Callable[..., Page]", running: ServerProcess, session: tuple[str, list[str]]
    ) -> None:
        page = new_page()
        page.add_init_script("delete window.showSaveFilePicker")  # a dialog of the system
        open_studio(page, running.url, session[0])
        page.get_by_role("button", name="Select", exact=True).click()
        page.get_by_role("button", name="All shown").click()
        count = page.locator(".tile").count()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download ZIP").click()
        with zipfile.ZipFile(str(download.value.path())) as archive:
            assert archive.testzip() is None
            assert len(set(archive.namelist())) == count
            for name in archive.namelist():
                assert pixels(archive.read(name))
        page.locator(".selection-note", has_text=f"Saved: {count} images.").wait_for()

    def test_several_jobs_are_deleted_after_a_confirmation(
        self, gallery: "Page", running: ServerProcess, session: tuple[str, list[str]], console_errors: ConsoleErrors
    ) -> None:
        gallery.get_by_role("button", name="Select", exact=True).click()
        gallery.locator(".tile-open").nth(1).click()
        gallery.locator(".tile-open").nth(2).click()
        gallery.get_by_role("button", name="Delete", exact=True).first.click()
        question = gallery.get_by_role("dialog", name="Delete 2 jobs and their images?")
        check_accessibility(gallery, "confirmation")
        question.get_by_role("button", name="Keep").click()
        assert gallery.locator(".tile").count() == 3
        gallery.get_by_role("button", name="Delete", exact=True).first.click()
        question.get_by_role("button", name="Delete").click()
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 1")
        with running.http(Authorization=f"Bearer {session[0]}") as http:
            assert [job["job_id"] for job in http.get("/api/v1/jobs").json()["jobs"]] == session[1][2:]
        gallery.reload()
        tile(gallery, "a lighthouse").wait_for()
        assert console_errors.found == []

    def test_an_image_is_deleted_in_the_viewer(self, gallery: "Page") -> None:
        tile(gallery, "a lighthouse").click()
        gallery.locator(".viewer .delete").click()
        gallery.get_by_role("dialog", name="Delete this job and its image?").get_by_role(
            "button", name="Delete"
        ).click()
        gallery.get_by_role("dialog", name="a castle in winter").wait_for()  # the next one
        gallery.keyboard.press("Escape")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 2")

    def test_favorites(
        self, gallery: "Page", running: ServerProcess, session: tuple[str, list[str]], console_errors: ConsoleErrors
    ) -> None:
        tile(gallery, "a lighthouse").click()
        favorite = gallery.locator(".viewer .favorite")
        favorite.click()
        gallery.wait_for_function("() => document.querySelector('.favorite').getAttribute('aria-pressed') === 'true'")
        gallery.keyboard.press("Escape")
        tile(gallery, "a lighthouse").get_by_role("img", name="Favorite").wait_for()
        show(gallery, "Favorites")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 1")
        with running.http(Authorization=f"Bearer {session[0]}") as http:
            (job,) = http.get("/api/v1/jobs?favorite=true").json()["jobs"]
        assert job["job_id"] == session[1][2]
        tile(gallery, "a lighthouse").click()
        favorite.click()
        gallery.wait_for_function("() => document.querySelector('.favorite').getAttribute('aria-pressed') === 'false'")
        gallery.keyboard.press("Escape")
        gallery.get_by_text("No favorites yet").wait_for()
        assert console_errors.found == []


class TestSearch:
    def test_a_search_in_prompts_has_a_link(self, gallery: "Page", console_errors: ConsoleErrors) -> None:
        gallery.get_by_label("Search in prompts").fill("winter castle")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 2")
        assert gallery.url.endswith("#q=winter+castle")
        gallery.reload()
        tile(gallery, "a castle").first.wait_for()
        assert gallery.get_by_label("Search in prompts").input_value() == "winter castle"
        assert gallery.locator(".tile").count() == 2
        gallery.get_by_label("Search in prompts").fill("nothing like that")
        gallery.get_by_text("Nothing found").wait_for()
        gallery.get_by_role("button", name="Clear").click()
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 3")
        assert console_errors.found == []

    def test_filters_by_engine_size_and_date(self, gallery: "Page") -> None:
        gallery.locator("summary.button").click()
        gallery.get_by_label("Engine", exact=True).select_option("procedural")
        gallery.wait_for_function("() => location.hash === '#engine=procedural'")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 3")
        gallery.get_by_label("From", exact=True).fill("2001-02-03")
        gallery.get_by_label("To", exact=True).fill("2001-02-04")
        gallery.get_by_text("Nothing found").wait_for()
        gallery.get_by_label("To", exact=True).fill("2100-01-01")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 3")
        gallery.locator("#filter-size").select_option("landscape")
        gallery.get_by_text("Nothing found").wait_for()
        gallery.locator("#filter-size").select_option("square")
        gallery.wait_for_function("() => document.querySelectorAll('.tile').length === 3")


class TestInstallation:
    def test_a_page_without_a_connection(self, empty: "Page", running: ServerProcess) -> None:
        empty.evaluate("async () => { await navigator.serviceWorker.ready; }")
        empty.reload()  # now the service worker controls the page
        empty.get_by_label("Prompt", exact=True).wait_for()
        empty.context.set_offline(True)
        empty.reload()
        assert empty.get_by_role("heading").inner_text() == "The server cannot be reached"
        assert empty.evaluate("getComputedStyle(document.querySelector('main')).display") == "grid", "with its style"
        check_accessibility(empty, "offline")
        empty.context.set_offline(False)
        empty.get_by_role("link", name="Try again").click()
        empty.get_by_label("Prompt", exact=True).wait_for()

    def test_the_browser_finds_no_reason_against_an_installation(self, empty: "Page") -> None:
        client = empty.context.new_cdp_session(empty)
        assert client.send("Page.getAppManifest")["errors"] == []
        reasons = client.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [reason["errorId"] for reason in reasons if reason["errorId"] != "in-incognito"] == []
