"""The studio in a real Chromium: signing in, drawing, the gallery, failures and accessibility."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browser import MEASURE_FRAMES, ConsoleErrors, fill_gallery, in_thread, new_session, open_studio
from studio_page import AXE, check_accessibility, draw, pixels, row, show, tile, wait_for_announcement, wait_for_image
from support import SMALL, UNLIMITED, ServerProcess, clean_environment, cli, finish, server, submit, until
from umrgen.image_files import verify
from umrgen.server.png import encode_png

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
PHONE, TABLET, DESK = {"width": 360, "height": 740}, {"width": 768, "height": 1024}, {"width": 1920, "height": 1080}

pytest_plugins = ["browser_fixtures"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Start a server with steps of 0.2 s, whose content policy refuses "dragon"."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "policy").write_text("dragon\n")
    policy = ("--policy", str(folder / "policy"))
    with server(folder / "state", *UNLIMITED, "--step-delay", "0.2", "--cancel-grace", "1", *policy) as started:
        yield started


@pytest.fixture
def key(running: ServerProcess) -> str:
    """Return a key with a new session."""
    return new_session(running.state)[0]


@pytest.fixture
def studio(new_page: "Callable[..., Page]", running: ServerProcess, key: str) -> "Page":
    page: Page = open_studio(new_page(), running.url, key)
    return page


class TestKey:
    def test_a_wrong_key_is_refused_and_a_valid_one_is_stored(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, console_errors: ConsoleErrors
    ) -> None:
        page = new_page()
        page.goto(f"{running.url}/")
        button = page.get_by_role("button", name="Open the studio")
        button.click()
        assert page.get_by_text("Enter an API key.").is_visible()
        page.get_by_label("API key").fill("umr_" + "x" * 43)
        button.click()
        page.get_by_text("The server does not accept this key.").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        page.get_by_label("API key").fill(key)
        button.click()
        page.get_by_label("Prompt", exact=True).wait_for()
        page.reload()
        page.get_by_label("Prompt", exact=True).wait_for()
        assert page.evaluate("localStorage.length + document.cookie.length") == 0, (
            "the key must be stored in this tab only"
        )
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        assert console_errors.unexpected("401 (Unauthorized)") == []

    def test_after_a_revocation_the_key_form_is_shown(
        self, new_page: "Callable[..., Page]", running: ServerProcess, console_errors: ConsoleErrors
    ) -> None:
        made = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
        page = open_studio(new_page(), running.url, made["key"])
        cli("keys", "revoke", made["id"], "--state", str(running.state))
        draw(page, "a boat that never sails")
        page.get_by_text("The server no longer accepts your key").wait_for()
        assert console_errors.unexpected("401 (Unauthorized)") == []

    def test_a_device_stays_signed_in_without_the_key_in_its_storage(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, console_errors: ConsoleErrors
    ) -> None:
        page = new_page()
        page.goto(f"{running.url}/")
        page.get_by_label("API key").fill(key)
        page.get_by_label("Remember on this device").check()
        page.get_by_role("button", name="Open the studio").click()
        page.get_by_label("Prompt", exact=True).wait_for()
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert key not in page.evaluate(stored)
        assert "umrgen-studio" not in page.evaluate(stored), "scripts must not see the cookie"
        other = page.context.new_page()  # another tab
        other.goto(f"{running.url}/")
        other.get_by_label("Prompt", exact=True).wait_for()
        draw(other, "a boat remembered", steps=1)
        wait_for_image(tile(other, "a boat remembered").locator("img"))
        other.get_by_role("button", name="Devices").click()
        other.get_by_text("Chrome on Linux").wait_for()
        check_accessibility(other, "devices")
        other.get_by_role("button", name="Sign out: Chrome on Linux").click()
        other.get_by_text("None.").wait_for()
        page.reload()
        page.get_by_text("This device is no longer signed in.").wait_for()
        assert console_errors.unexpected("401 (Unauthorized)") == []

    def test_the_printed_link_works_once(
        self, new_page: "Callable[..., Page]", running: ServerProcess, console_errors: ConsoleErrors
    ) -> None:
        with running.http() as http:
            submit(http, "a boat of the operator's")
        page = new_page()
        page.goto(running.studio)
        tile(page, "a boat of the operator's").wait_for()
        assert page.url == f"{running.url}/", "the ticket must be removed from the address"
        other = new_page()
        other.goto(running.studio)
        other.get_by_text("The link has expired or was used").wait_for()
        page.goto(f"{running.url}/")
        page.reload()
        page.get_by_label("Prompt", exact=True).wait_for()
        assert console_errors.unexpected("410 (Gone)") == []


class TestDrawing:
    def test_drawing_an_image(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        draw(studio, "a lighthouse at dusk", steps=8)
        wait_for_announcement(studio, "The job was sent.")
        wait_for_image(row(studio, "a lighthouse").locator("img"))  # a preview
        studio.get_by_text(re.compile(r"Step \d of 8")).wait_for()
        wait_for_image(tile(studio, "a lighthouse").locator("img"))
        wait_for_announcement(studio, "Finished: a lighthouse at dusk")
        assert not studio.locator("um-queue").is_visible()
        assert console_errors.found == []

    def test_a_cancelled_job_can_be_drawn_again(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        draw(studio, "a boat to be stopped", steps=50)
        row(studio, "a boat").get_by_role("button", name="Cancel").click()
        show(studio, "Failed")  # a cancelled job is not among the others
        stopped = tile(studio, "a boat to be stopped")
        stopped.get_by_text("Cancelled").wait_for()
        studio.get_by_label("Steps", exact=True).fill("3")
        stopped.click()
        dialog = studio.get_by_role("dialog")
        assert dialog.get_by_text("You can draw it again").is_visible()
        dialog.get_by_role("button", name="Try again").click()
        again = row(studio, "a boat to be stopped")
        again.get_by_text(re.compile(r"Step \d+ of 50")).wait_for()
        again.get_by_role("button", name="Cancel").click()
        studio.wait_for_function("() => document.querySelectorAll('.tile').length === 2")
        assert console_errors.found == []

    def test_several_jobs_with_queue_positions_over_few_connections(
        self, studio: "Page", console_errors: ConsoleErrors
    ) -> None:
        open_requests: set[Any] = set()
        most = 0

        def opened(request: Any) -> None:
            nonlocal most
            if "/events/" in request.url or (request.method, request.url[-14:]) == ("POST", "/api/v1/status"):
                open_requests.add(request)
                most = max(most, len(open_requests))

        studio.on("request", opened)
        for event in ("requestfinished", "requestfailed"):
            studio.on(event, lambda request: open_requests.discard(request))  # type: ignore[call-overload]
        studio.get_by_label("Seed", exact=True).fill("40")
        for _ in range(6):
            studio.get_by_role("button", name="One more").click()
        draw(studio, "a fleet of boats", steps=6)
        wait_for_announcement(studio, "7 jobs were sent")
        studio.get_by_text(re.compile("^Next")).wait_for()
        studio.get_by_text(re.compile("^2nd in the queue")).wait_for()
        studio.get_by_text(re.compile(r"^Next · about .* left$")).wait_for()  # now the duration of a job is known
        studio.wait_for_function("() => document.querySelectorAll('.tile').length === 7")
        assert 1 <= most <= 4, "two, and two that are being closed; a browser opens six connections to one server"
        assert console_errors.found == []
        tile(studio, "a fleet").first.click()
        assert studio.locator(".facts").get_by_text("46", exact=True).is_visible(), "each job must have another seed"

    def test_errors_are_shown_at_their_fields(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        draw(studio, " ")
        assert studio.get_by_text("Enter a prompt.").is_visible()
        prompt = studio.get_by_label("Prompt", exact=True)
        assert prompt.evaluate("field => field === document.activeElement")
        assert prompt.get_attribute("aria-invalid") == "true"
        studio.get_by_label("Width").fill("5")
        studio.get_by_label("Seed", exact=True).fill("x")
        draw_button = studio.get_by_role("button", name="Draw")
        draw_button.click()
        assert studio.get_by_text("The width must be 512 to 2048 pixels.").is_visible()
        assert studio.get_by_text("The seed must be a whole number or empty.").is_visible()
        studio.get_by_label("Seed", exact=True).fill("")
        draw(studio, "a dragon")
        studio.locator("#prompt-error", has_text=re.compile(".")).wait_for()  # an error of the server
        assert prompt.get_attribute("aria-invalid") == "true"
        assert console_errors.unexpected("400 (Bad Request)") == []

    def test_a_reference_by_file_drop_and_paste(
        self, studio: "Page", running: ServerProcess, key: str, tmp_path: Path, console_errors: ConsoleErrors
    ) -> None:
        draw(studio, "a small boat", steps=1)
        wait_for_image(tile(studio, "a small boat").locator("img"))
        image = tmp_path / "boat.png"
        tile(studio, "a small boat").click()
        with studio.expect_download() as download:
            studio.get_by_role("button", name="Download").click()
        assert re.fullmatch(r"a-small-boat-\d+\.png", download.value.suggested_filename)
        download.value.save_as(image)
        assert verify(image.read_bytes()).width == 512
        studio.keyboard.press("Escape")
        text = tmp_path / "text.png"
        text.write_text("not an image")
        chooser = studio.locator("#reference-file")
        chooser.set_input_files(text)
        studio.locator("#references-error", has_text="text.png").wait_for()
        chooser.set_input_files(image)
        references = studio.locator(".reference img")
        wait_for_image(references)
        assert not studio.locator("#references-error").is_visible()
        insert = """([type, target, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], `${type}.png`, {type: "image/png"}));
            const field = type === "drop" ? "dataTransfer" : "clipboardData";
            const options = {bubbles: true, cancelable: true, [field]: data};
            const Kind = type === "drop" ? DragEvent : ClipboardEvent;
            document.querySelector(target).dispatchEvent(new Kind(type, options));
        }"""
        for number, (kind, target) in enumerate((("drop", ".drop"), ("paste", "#prompt")), 2):
            studio.evaluate(insert, [kind, target, list(encode_png(np.full((32, 32, 3), number * 60, np.uint8)))])
            studio.wait_for_function("n => document.querySelectorAll('.reference').length === n", arg=number)
        chooser.set_input_files(image)
        studio.get_by_text("boat.png is a reference already.").wait_for(state="attached")
        assert studio.locator(".reference").count() == 3
        studio.get_by_role("button", name="Remove drop.png").click()
        draw(studio, "a boat like that one", steps=1)
        wait_for_image(tile(studio, "like that one").locator("img"))
        with running.http(Authorization=f"Bearer {key}") as http:
            (job,) = http.get("/api/v1/jobs?limit=1").json()["jobs"]
        assert len(job["request"]["reference_images"]) == 2
        assert console_errors.unexpected("415 (Unsupported Media Type)") == []


class TestFailures:
    def test_the_model_its_guidance_and_loras(
        self,
        new_page: "Callable[..., Page]",
        tmp_path: Path,
        console_errors: ConsoleErrors,
    ) -> None:
        option = ("--engine", "fake_engines:RecordingEngine", "--engine-option", f"folder={tmp_path}")
        tests = str(Path(__file__).parents[1])
        with server(tmp_path / "state", *UNLIMITED, *option, PYTHONPATH=tests) as models:
            key, _ = new_session(models.state)
            with models.http() as http:
                until(lambda: http.get("/api/v1/capabilities").json()["engine"]["kind"])
            page = open_studio(new_page(), models.url, key)
            page.get_by_label("Model", exact=True).select_option("large")
            assert page.get_by_label("Steps", exact=True).input_value() == "9"
            assert page.get_by_label("Guidance").get_attribute("placeholder") == "4"
            page.get_by_label("Guidance").fill("31")
            page.get_by_label("Add a LoRA").select_option("film grain")
            page.get_by_label("Add a LoRA").select_option("ink")
            page.get_by_label("Strength of ink").fill("0.5")
            page.get_by_label("Remove film grain").click()
            check_accessibility(page, "model settings")
            draw(page, "a boat", steps=1)
            assert page.locator("#cfg-error").inner_text() == "The guidance must be 0 to 30, or empty."
            page.get_by_label("Guidance").fill("3.5")
            page.get_by_role("button", name="Draw").click()
            tile(page, "a boat").wait_for()
            request = json.loads((tmp_path / "request.json").read_bytes())
            assert (request["model"], request["cfg"]) == ("large", 3.5)
            assert request["loras"] == [{"name": "ink", "strength": 0.5}]
            page.get_by_label("Model", exact=True).select_option("base")
            page.get_by_label("Remove ink").click()
            tile(page, "a boat").click()
            viewer = page.locator("um-viewer")
            assert viewer.get_by_text("ink (0.5)").is_visible()
            viewer.get_by_role("button", name="Reuse settings").click()
            assert page.get_by_label("Model", exact=True).input_value() == "large"
            assert page.get_by_label("Guidance").input_value() == "3.5"
            assert page.get_by_label("Strength of ink").input_value() == "0.5"
        assert console_errors.unexpected() == []

    def test_a_reload_keeps_jobs_and_the_draft(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        draw(studio, "a slow boat", steps=12)
        row(studio, "a slow boat").get_by_text(re.compile("Step")).wait_for()
        studio.get_by_label("Prompt", exact=True).fill("half a thought")
        studio.reload()
        wait_for_image(row(studio, "a slow boat").locator("img"))
        wait_for_image(tile(studio, "a slow boat").locator("img"))
        assert studio.get_by_label("Prompt", exact=True).input_value() == "half a thought"
        assert console_errors.found == []

    def test_a_hidden_tab_keeps_no_connection(
        self, studio: "Page", running: ServerProcess, console_errors: ConsoleErrors
    ) -> None:
        studio.clock.install()
        draw(studio, "a boat unseen", steps=50)
        row(studio, "a boat").get_by_text(re.compile("Step")).wait_for()
        hide = """(hidden) => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        with studio.expect_event("requestfailed"):  # the long poll is closed
            studio.evaluate(hide, True)
        requests: list[Any] = []
        studio.on("request", lambda request: requests.append((request.method, request.url, request.headers)))
        with studio.expect_response("**/api/v1/status/*"):
            studio.clock.run_for(6_000)
        ((method, _, headers),) = requests
        assert (method, headers.get("prefer")) == ("GET", None), "one request, without a long poll"
        studio.evaluate(hide, False)
        row(studio, "a boat").get_by_role("button", name="Cancel").click()
        studio.wait_for_function("() => document.querySelector('um-queue').hidden")
        before = len(requests)
        studio.evaluate(hide, True)
        studio.clock.run_for(60_000)
        assert [url for _, url, _ in requests[before:] if "/status/" in url] == [], "without jobs, it must send none"
        assert console_errors.found == []

    def test_the_page_recovers_after_a_restart_of_the_server(
        self, new_page: "Callable[..., Page]", state: Path, console_errors: ConsoleErrors
    ) -> None:
        first = ServerProcess(state, *UNLIMITED, "--step-delay", "0.3").start()
        page = open_studio(new_page(), first.url, first.key)
        draw(page, "a boat through the storm", steps=6)
        row(page, "a boat").get_by_text(re.compile("Step")).wait_for()
        first.kill_group()
        page.locator("um-connection.lost").wait_for()
        port = first.url.rpartition(":")[2]
        with server(state, *UNLIMITED, "--step-delay", "0.3", "--port", port):
            page.wait_for_function("() => !document.querySelector('um-connection').textContent")
            wait_for_image(tile(page, "a boat through the storm").locator("img"))
            assert not row(page, "a boat").is_visible()
        assert console_errors.unexpected("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "503") == []

    def test_the_page_recovers_after_a_network_failure(self, studio: "Page", console_errors: ConsoleErrors) -> None:
        draw(studio, "a boat beyond the horizon", steps=10)
        row(studio, "a boat").get_by_text(re.compile("Step")).wait_for()
        studio.context.set_offline(True)
        studio.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as if the tab was shown again
        studio.locator("um-connection.lost").wait_for()
        studio.context.set_offline(False)
        wait_for_image(tile(studio, "a boat beyond").locator("img"))
        assert console_errors.unexpected("ERR_INTERNET_DISCONNECTED") == []

    def test_jobs_of_other_clients_are_shown(
        self, studio: "Page", running: ServerProcess, key: str, console_errors: ConsoleErrors
    ) -> None:
        with running.http(Authorization=f"Bearer {key}") as http:
            finish(http, submit(http, "a boat from the command line"))
        studio.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        wait_for_image(tile(studio, "a boat from the command line").locator("img"))
        assert console_errors.found == []


class TestViewer:
    @pytest.fixture
    def three(self, studio: "Page") -> "Page":
        for prompt in ('it\'s a "boat" ü', "a castle in winter", "a lighthouse"):
            draw(studio, prompt, steps=1)
            wait_for_image(tile(studio, prompt).locator("img"))
        return studio

    def test_the_viewer_and_its_navigation(self, three: "Page", console_errors: ConsoleErrors) -> None:
        tile(three, "a lighthouse").click()
        dialog = three.get_by_role("dialog", name="a lighthouse")
        wait_for_image(dialog.locator(".viewer-stage img"))
        for fact in ("512 × 512", "procedural"):
            assert dialog.get_by_text(fact).is_visible()
        three.keyboard.press("ArrowRight")
        three.get_by_role("dialog", name="a castle in winter").wait_for()
        three.get_by_role("button", name="Older").click()
        three.get_by_role("dialog", name="boat").wait_for()
        three.keyboard.press("ArrowRight")
        wait_for_announcement(three, "This is the oldest.")
        three.keyboard.press("ArrowLeft")
        three.get_by_role("dialog", name="a castle in winter").wait_for()
        three.keyboard.press("Escape")
        three.wait_for_function("() => document.activeElement.textContent.includes('a castle')")  # the last viewed tile
        tile(three, "a castle").click()
        seed = three.locator(".facts dd").nth(2).text_content()
        three.get_by_role("button", name="Use seed", exact=True).click()
        assert three.get_by_label("Seed", exact=True).input_value() == seed
        three.get_by_label("Prompt", exact=True).fill("")
        three.get_by_role("radio", name="Square").check()
        tile(three, "a castle").click()
        three.get_by_role("button", name="Reuse settings").click()
        prompt = three.get_by_label("Prompt", exact=True)
        assert prompt.input_value() == "a castle in winter"
        assert prompt.evaluate("field => field === document.activeElement")
        assert three.get_by_label("Width").input_value() == "512"
        assert console_errors.found == []

    def test_the_code_samples_draw_the_same_image(
        self, three: "Page", running: ServerProcess, key: str, tmp_path: Path, console_errors: ConsoleErrors
    ) -> None:
        three.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tile(three, "boat").click()
        with three.expect_download() as download:
            three.get_by_role("button", name="Download").click()
        drawn = pixels(Path(download.value.path()).read_bytes())
        environment = clean_environment(UMRGEN_API_KEY=key, PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
        samples = {}
        for kind in ("CLI", "curl", "Python"):
            three.get_by_role("radio", name=kind).check()
            three.get_by_role("button", name="Copy", exact=True).click()
            three.get_by_role("button", name="Copied").wait_for()
            samples[kind] = three.evaluate("navigator.clipboard.readText()")
            assert key not in samples[kind]
        commands = {"CLI": ["bash", "-euc"], "curl": ["bash", "-euc"], "Python": [sys.executable, "-c"]}
        if not shutil.which("curl"):
            del commands["curl"]
        for kind, command in commands.items():
            folder = tmp_path / kind
            folder.mkdir()
            done = subprocess.run(
                [*command, samples[kind]], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            (made,) = folder.glob("*.png")
            assert pixels(made.read_bytes()) == drawn, kind
        assert console_errors.found == []


class TestAccess:
    def test_the_page_works_with_the_keyboard(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, console_errors: ConsoleErrors
    ) -> None:
        page = new_page()
        page.goto(f"{running.url}/")
        page.get_by_label("API key").wait_for()
        press, type_ = page.keyboard.press, page.keyboard.insert_text
        type_(key)  # the field has the focus
        press("Enter")
        page.get_by_label("Prompt", exact=True).wait_for()
        type_("a boat by keyboard")
        self.tab_to(page, "size")
        press("ArrowRight")
        self.tab_to(page, "steps")
        press("ControlOrMeta+a")
        type_("1")
        press("Control+Enter")
        wait_for_announcement(page, "Finished: a boat by keyboard")
        self.tab_to(page, "tile-open")
        press("Enter")
        page.get_by_role("dialog").wait_for()
        self.tab_to(page, "reuse")
        press("Enter")
        assert page.get_by_label("Prompt", exact=True).evaluate("field => field === document.activeElement")
        assert page.locator("input[name=size]:checked").get_attribute("value") == "1152x896"
        assert console_errors.found == []

    def tab_to(self, page: "Page", name: str) -> None:
        """Press Tab until an element with this name, id or class has the focus."""
        for _ in range(60):
            page.keyboard.press("Tab")
            has = "name => ((e) => [e.id, e.name, ...e.classList].includes(name))(document.activeElement)"
            if page.evaluate(has, name):
                return
        raise AssertionError(f"{name} cannot be reached with Tab")

    @pytest.mark.parametrize("width", [PHONE, TABLET, DESK], ids=["phone", "tablet", "desk"])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_there_are_no_accessibility_violations(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, theme: str, width: dict[str, int]
    ) -> None:
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: npm ci --prefix js")
        page = new_page(viewport=width, color_scheme=theme)
        page.goto(f"{running.url}/")
        page.get_by_text("Where do I get one?").click()
        check_accessibility(page, "key form")
        open_studio(page, running.url, key)
        page.get_by_text("No images yet").wait_for()
        page.get_by_text("Engine: procedural").click()
        check_accessibility(page, "empty")
        draw(page, " ")
        check_accessibility(page, "errors")
        draw(page, "a boat in the mist", steps=40)
        wait_for_image(row(page, "a boat in the mist").locator("img"))
        check_accessibility(page, "running")
        row(page, "a boat in the mist").get_by_role("button", name="Cancel").click()
        draw(page, "a boat that arrives", steps=1)
        wait_for_image(tile(page, "a boat that arrives").locator("img"))
        page.locator("summary.button").click()
        check_accessibility(page, "gallery with filters")
        page.keyboard.press("Escape")
        for prompt, state in (("a boat that arrives", "Images"), ("a boat in the mist", "Failed")):
            show(page, state)
            tile(page, prompt).click()
            check_accessibility(page, prompt)
            page.keyboard.press("Escape")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width["width"], "the page must not scroll horizontally"

    def test_the_theme_is_switched_and_stored(self, studio: "Page") -> None:
        def background() -> Any:
            return studio.evaluate("getComputedStyle(document.body).backgroundColor")

        light = background()
        studio.get_by_role("button", name="Theme: system").click()
        studio.get_by_role("button", name="Theme: light").click()
        studio.get_by_role("button", name="Theme: dark").wait_for()
        dark = background()
        assert dark != light
        studio.reload()
        assert background() == dark

    def test_with_a_path_prefix(
        self, new_page: "Callable[..., Page]", state: Path, console_errors: ConsoleErrors
    ) -> None:
        with server(state, *UNLIMITED, "--prefix", "/pictures") as started:
            page = open_studio(new_page(), f"{started.url}/pictures", started.key)
            draw(page, "a boat", steps=1)
            wait_for_image(tile(page, "a boat").locator("img"))
            assert page.locator(".tile img").get_attribute("src").startswith(f"{started.url}/pictures/outputs/")
        assert console_errors.unexpected("ERR_") == []


LATE_OBSERVATIONS = """
const Observer = window.IntersectionObserver;
const before = (entry) => ({ target: entry.target, isIntersecting: !entry.isIntersecting });
window.IntersectionObserver = class extends Observer {
  constructor(callback, options) {
    super((entries, observer) => callback(entries.flatMap((entry) => [before(entry), entry]), observer), options);
  }
};
"""
"""The browser reports two observations together, as after fast scrolling: the first one is outdated."""


def test_older_images_are_loaded_after_fast_scrolling(
    new_page: "Callable[..., Page]", running: ServerProcess, console_errors: ConsoleErrors
) -> None:
    key, session_id = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as http:
        image = http.get(finish(http, submit(http, **SMALL))["image_url"]).content
    in_thread(fill_gallery(running.state, session_id, image, 150))
    page = new_page()
    page.add_init_script(LATE_OBSERVATIONS)
    open_studio(page, running.url, key)
    wait_for_image(page.locator(".tile img").first)
    first = page.locator(".tile").count()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("first => document.querySelectorAll('.tile').length > first", arg=first)
    assert console_errors.found == []


GROUPS = "() => [...document.querySelectorAll('.tile-group')].map((group) => group.childElementCount)"


def test_five_hundred_images(
    new_page: "Callable[..., Page]", running: ServerProcess, console_errors: ConsoleErrors
) -> None:
    """The gallery loads by pages; benchmarks/studio.py measures how fast."""
    key, session_id = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as http:
        image = http.get(finish(http, submit(http, "a lighthouse on a cliff at dusk"))["image_url"]).content
    in_thread(fill_gallery(running.state, session_id, image, 500))
    page = open_studio(new_page(), running.url, key)
    wait_for_image(page.locator(".tile img").first)
    assert page.locator(".tile").count() < 100, "older pages must load on demand"
    page.evaluate(MEASURE_FRAMES, 120)  # scrolls through the gallery
    assert page.locator(".tile").count() == 501
    assert page.evaluate(GROUPS) == [60] * 8 + [21], "the browser lays out the groups near the window"
    with running.http(Authorization=f"Bearer {key}") as http:
        finish(http, submit(http, "a boat that comes later", **SMALL))
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        tile(page, "a boat that comes later").wait_for(state="attached")
        assert page.evaluate(GROUPS) == [60] * 8 + [22]
        assert "comes later" in str(page.locator(".tile").first.text_content())
    page.evaluate("scrollTo(0, 0)")
    page.locator(".tile-open").first.click(modifiers=["Control"])
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_function("() => document.querySelectorAll('.tile').length === 501")
    assert page.evaluate(GROUPS) == [60] * 8 + [21], "the later groups move up"
    wait_for_image(page.locator(".tile img").last)
    page.locator(".tile-open").last.click()
    page.locator(".next:disabled").wait_for(state="attached")
    assert console_errors.found == []
