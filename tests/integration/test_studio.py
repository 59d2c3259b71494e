"""The studio as a person uses it, in a real Chromium: from the key to the picture, and what may come between."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from browser import MEASURE_FRAMES, Complaints, browser, fill_gallery, in_thread, new_session, open_studio
from support import PATIENT, SMALL, ServerProcess, clean_environment, cli, finish, server, submit, until
from umrgen.image_files import verify

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).parents[2]
AXE = ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js"
LONG = SMALL | {"steps": 50}
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1440, "height": 900}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chrome() -> "Iterator[Browser]":
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes a fifth of a second for a step, and refuses dragons."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "words").write_text("dragon\n")
    policy = ("--policy", str(folder / "words"))
    with server(folder / "state", *PATIENT, "--step-delay", "0.2", "--cancel-grace", "1", *policy) as started:
        yield started


@pytest.fixture
def key(running: ServerProcess) -> str:
    """A session of the test's own."""
    return new_session(running.state)[0]


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def new_page(chrome: "Browser", complaints: Complaints) -> "Iterator[Callable[..., Page]]":
    """Makes pages, each in a profile of its own; none may complain of anything."""
    contexts = []

    def make(**how: Any) -> "Page":
        context = chrome.new_context(**{"viewport": DESK, "reduced_motion": "reduce"} | how)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        complaints.listen(page)
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def studio(new_page: "Callable[..., Page]", running: ServerProcess, key: str) -> "Page":
    page: Page = open_studio(new_page(), running.url, key)
    return page


def draw(page: "Page", prompt: str, *, steps: int = 2) -> None:
    page.get_by_label("What should be drawn?").fill(prompt)
    page.locator("input[value=free]").check()
    page.get_by_label("Width").fill("512")
    page.get_by_label("Height").fill("512")
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_role("button", name="Draw").click()


def row(page: "Page", prompt: str) -> "Locator":
    return page.locator(".queued", has_text=prompt)


def tile(page: "Page", prompt: str) -> "Locator":
    return page.locator(".tile", has_text=prompt)


def has_picture(image: "Locator") -> None:
    """Wait until the browser has the whole of an image, and has decoded it."""
    image.wait_for()
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") > 0


def pixels(data: bytes) -> bytes:
    """What is to be seen: a file tells of its job, too."""
    verify(data)
    return Image.open(BytesIO(data)).tobytes()


def heard(page: "Page", words: str) -> None:
    """Wait until the live region has said it."""
    page.wait_for_function("words => document.querySelector('#live').textContent.includes(words)", arg=words)


class TestKey:
    def test_a_wrong_one_is_told_so_and_a_right_one_is_kept(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, complaints: Complaints
    ) -> None:
        page = new_page()
        page.goto(f"{running.url}/")
        button = page.get_by_role("button", name="Open the studio")
        button.click()
        assert page.get_by_text("A key is needed here.").is_visible()
        page.get_by_label("API key").fill("umr_" + "x" * 43)
        button.click()
        page.get_by_text("The server does not accept this key.").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        page.get_by_label("API key").fill(key)
        button.click()
        page.get_by_label("What should be drawn?").wait_for()
        page.reload()
        page.get_by_label("What should be drawn?").wait_for()
        assert page.evaluate("localStorage.length + document.cookie.length") == 0, "this tab, and no other"
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        assert complaints.beside("401 (Unauthorized)") == []

    def test_one_that_is_revoked_leads_back_to_the_door(
        self, new_page: "Callable[..., Page]", running: ServerProcess, complaints: Complaints
    ) -> None:
        made = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
        page = open_studio(new_page(), running.url, made["key"])
        cli("keys", "revoke", made["id"], "--state", str(running.state))
        draw(page, "a boat that never sails")
        page.get_by_text("Your key is not accepted any more").wait_for()
        assert complaints.beside("401 (Unauthorized)") == []

    def test_the_printed_link_opens_it_once(
        self, new_page: "Callable[..., Page]", running: ServerProcess, complaints: Complaints
    ) -> None:
        with running.http() as http:
            submit(http, "a boat of the operator's")
        page = new_page()
        page.goto(running.studio)
        tile(page, "a boat of the operator's").wait_for()
        assert page.url == f"{running.url}/", "the ticket is out of the address"
        other = new_page()
        other.goto(running.studio)
        other.get_by_text("This link is over").wait_for()
        page.goto(f"{running.url}/")
        page.reload()
        page.get_by_label("What should be drawn?").wait_for()
        assert complaints.beside("410 (Gone)") == []


class TestDrawing:
    def test_from_the_words_to_the_picture(self, studio: "Page", complaints: Complaints) -> None:
        draw(studio, "a lighthouse at dusk", steps=8)
        heard(studio, "Sent.")
        has_picture(row(studio, "a lighthouse").locator("img"))  # a preview, on the way
        studio.get_by_text(re.compile(r"Step \d of 8")).wait_for()
        has_picture(tile(studio, "a lighthouse").locator("img"))
        heard(studio, "Finished: a lighthouse at dusk")
        assert not studio.locator("um-queue").is_visible()
        assert complaints.found == []

    def test_one_that_is_cancelled_says_so_and_can_be_tried_again(self, studio: "Page", complaints: Complaints) -> None:
        draw(studio, "a boat to be stopped", steps=50)
        row(studio, "a boat").get_by_role("button", name="Cancel").click()
        stopped = tile(studio, "a boat to be stopped")
        stopped.get_by_text("Cancelled").wait_for()
        studio.get_by_label("Steps", exact=True).fill("3")
        stopped.click()
        dialog = studio.get_by_role("dialog")
        assert dialog.get_by_text("It can be drawn again").is_visible()
        dialog.get_by_role("button", name="Try again").click()
        again = row(studio, "a boat to be stopped")
        again.get_by_text(re.compile(r"Step \d+ of 50")).wait_for()
        again.get_by_role("button", name="Cancel").click()
        studio.wait_for_function("() => document.querySelectorAll('.tile').length === 2")
        assert complaints.found == []

    def test_several_in_line_with_their_places_over_few_connections(
        self, studio: "Page", complaints: Complaints
    ) -> None:
        held: set[Any] = set()
        most = 0

        def opened(request: Any) -> None:
            nonlocal most
            if "/events/" in request.url or (request.method, request.url[-14:]) == ("POST", "/api/v1/status"):
                held.add(request)
                most = max(most, len(held))

        studio.on("request", opened)
        for event in ("requestfinished", "requestfailed"):
            studio.on(event, lambda request: held.discard(request))  # type: ignore[call-overload]
        studio.get_by_label("Seed", exact=True).fill("40")
        for _ in range(6):
            studio.get_by_role("button", name="One more").click()
        draw(studio, "a fleet of boats", steps=3)
        heard(studio, "7 sent")
        studio.get_by_text(re.compile("^Next")).wait_for()
        studio.get_by_text(re.compile("^2nd in line")).wait_for()
        studio.get_by_text(re.compile(r"^Next · about .* left$")).wait_for()  # how long one takes is known by now
        studio.wait_for_function("() => document.querySelectorAll('.tile').length === 7")
        assert 1 <= most <= 4, "two, and as many that are just being given up: a browser opens six to one server"
        assert complaints.found == []
        tile(studio, "a fleet").first.click()
        assert studio.locator(".facts").get_by_text("46", exact=True).is_visible(), (
            "each has a seed of its own, the newest the last"
        )

    def test_what_is_wrong_is_said_beside_its_field(self, studio: "Page", complaints: Complaints) -> None:
        draw(studio, " ")
        assert studio.get_by_text("Say what should be drawn.").is_visible()
        prompt = studio.get_by_label("What should be drawn?")
        assert prompt.evaluate("field => field === document.activeElement")
        assert prompt.get_attribute("aria-invalid") == "true"
        studio.get_by_label("Width").fill("5")
        studio.get_by_label("Seed", exact=True).fill("x")
        draw_button = studio.get_by_role("button", name="Draw")
        draw_button.click()
        assert studio.get_by_text("The width is 512 to 2048 pixels.").is_visible()
        assert studio.get_by_text("A whole number, or nothing.").is_visible()
        studio.get_by_label("Seed", exact=True).fill("")
        draw(studio, "a dragon")
        studio.locator("#prompt-error", has_text=re.compile(".")).wait_for()  # what only the server knows
        assert prompt.get_attribute("aria-invalid") == "true"
        assert complaints.beside("400 (Bad Request)") == []

    def test_a_reference_by_file_drop_and_paste(
        self, studio: "Page", running: ServerProcess, key: str, tmp_path: Path, complaints: Complaints
    ) -> None:
        draw(studio, "a boat to look at", steps=1)
        has_picture(tile(studio, "a boat to look at").locator("img"))
        picture = tmp_path / "boat.png"
        tile(studio, "a boat to look at").click()
        with studio.expect_download() as download:
            studio.get_by_role("button", name="Download").click()
        assert re.fullmatch(r"a-boat-to-look-at-\d+\.png", download.value.suggested_filename)
        download.value.save_as(picture)
        assert verify(picture.read_bytes()).width == 512
        studio.keyboard.press("Escape")
        words = tmp_path / "words.png"
        words.write_text("no picture")
        chooser = studio.get_by_label("choose a file")
        chooser.set_input_files(words)
        studio.locator("#references-error", has_text="words.png").wait_for()
        chooser.set_input_files(picture)
        references = studio.locator(".reference img")
        has_picture(references)
        assert not studio.locator("#references-error").is_visible()
        given = """([type, target, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], `${type}.png`, {type: "image/png"}));
            const how = {bubbles: true, cancelable: true, [type === "drop" ? "dataTransfer" : "clipboardData"]: data};
            const Kind = type === "drop" ? DragEvent : ClipboardEvent;
            document.querySelector(target).dispatchEvent(new Kind(type, how));
        }"""
        for number, (kind, target) in enumerate((("drop", ".drop"), ("paste", "#prompt")), 2):
            studio.evaluate(given, [kind, target, list(picture.read_bytes())])
            studio.wait_for_function("n => document.querySelectorAll('.reference').length === n", arg=number)
        studio.get_by_role("button", name="Leave out drop.png").click()
        draw(studio, "a boat like that one", steps=1)
        has_picture(tile(studio, "like that one").locator("img"))
        with running.http(Authorization=f"Bearer {key}") as http:
            (job,) = http.get("/api/v1/jobs?limit=1").json()["jobs"]
        assert len(job["request"]["reference_images"]) == 2
        assert complaints.beside("415 (Unsupported Media Type)") == []


class TestTrouble:
    def test_a_reload_in_the_middle_loses_nothing(self, studio: "Page", complaints: Complaints) -> None:
        draw(studio, "a slow boat", steps=12)
        row(studio, "a slow boat").get_by_text(re.compile("Step")).wait_for()
        studio.get_by_label("What should be drawn?").fill("half a thought")
        studio.reload()
        has_picture(row(studio, "a slow boat").locator("img"))
        has_picture(tile(studio, "a slow boat").locator("img"))
        assert studio.get_by_label("What should be drawn?").input_value() == "half a thought"
        assert complaints.found == []

    def test_a_tab_that_nobody_looks_at_asks_for_nothing(
        self, studio: "Page", running: ServerProcess, key: str, complaints: Complaints
    ) -> None:
        draw(studio, "a boat unseen", steps=50)
        row(studio, "a boat").get_by_text(re.compile("Step")).wait_for()
        hide = """(hidden) => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        with studio.expect_event("requestfailed"):  # what was held is given up
            studio.evaluate(hide, True)
        before = row(studio, "a boat").locator(".queued-state").text_content()
        asked: list[Any] = []
        studio.on("request", lambda request: asked.append(request.url))
        with running.http(Authorization=f"Bearer {key}") as http:
            job_id = http.get("/api/v1/jobs").json()["jobs"][0]["job_id"]
            step = lambda: http.get(f"/api/v1/status/{job_id}").json()["progress"]["step"]  # noqa: E731
            now = step()
            until(lambda: step() >= now + 3)
        assert asked == []
        studio.evaluate(hide, False)
        row(studio, "a boat").get_by_text(re.compile(f"^(?!{before})Step")).wait_for()
        row(studio, "a boat").get_by_role("button", name="Cancel").click()
        tile(studio, "a boat unseen").wait_for()
        assert complaints.found == []

    def test_a_server_that_is_killed_and_comes_back(
        self, new_page: "Callable[..., Page]", state: Path, complaints: Complaints
    ) -> None:
        first = ServerProcess(state, *PATIENT, "--step-delay", "0.3").start()
        page = open_studio(new_page(), first.url, first.key)
        draw(page, "a boat through the storm", steps=6)
        row(page, "a boat").get_by_text(re.compile("Step")).wait_for()
        first.kill_group()
        page.locator("um-connection.lost").wait_for()
        port = first.url.rpartition(":")[2]
        with server(state, *PATIENT, "--step-delay", "0.3", "--port", port):
            page.wait_for_function("() => !document.querySelector('um-connection').textContent")
            has_picture(tile(page, "a boat through the storm").locator("img"))
            assert not row(page, "a boat").is_visible()
        assert complaints.beside("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "503") == []

    def test_a_network_that_is_lost(self, studio: "Page", complaints: Complaints) -> None:
        draw(studio, "a boat beyond the horizon", steps=10)
        row(studio, "a boat").get_by_text(re.compile("Step")).wait_for()
        studio.context.set_offline(True)
        studio.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as one who comes back to the tab
        studio.locator("um-connection.lost").wait_for()
        studio.context.set_offline(False)
        has_picture(tile(studio, "a boat beyond").locator("img"))
        assert complaints.beside("ERR_INTERNET_DISCONNECTED") == []

    def test_what_was_made_elsewhere_is_seen(
        self, studio: "Page", running: ServerProcess, key: str, complaints: Complaints
    ) -> None:
        with running.http(Authorization=f"Bearer {key}") as http:
            finish(http, submit(http, "a boat from the command line"))
        studio.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        has_picture(tile(studio, "a boat from the command line").locator("img"))
        assert complaints.found == []


class TestViewer:
    @pytest.fixture
    def three(self, studio: "Page") -> "Page":
        for prompt in ('it\'s a "boat" ü', "a castle in winter", "a lighthouse"):
            draw(studio, prompt, steps=1)
            has_picture(tile(studio, prompt).locator("img"))
        return studio

    def test_one_large_and_on_to_the_next(self, three: "Page", complaints: Complaints) -> None:
        tile(three, "a lighthouse").click()
        dialog = three.get_by_role("dialog", name="a lighthouse")
        has_picture(dialog.locator(".viewer-stage img"))
        for fact in ("512 × 512", "procedural"):
            assert dialog.get_by_text(fact).is_visible()
        three.keyboard.press("ArrowRight")
        three.get_by_role("dialog", name="a castle in winter").wait_for()
        three.get_by_role("button", name="Older").click()
        three.get_by_role("dialog", name="boat").wait_for()
        three.keyboard.press("ArrowRight")
        heard(three, "This is the oldest.")
        three.keyboard.press("ArrowLeft")
        three.get_by_role("dialog", name="a castle in winter").wait_for()
        three.keyboard.press("Escape")
        three.wait_for_function("() => document.activeElement.textContent.includes('a castle')")  # where one was
        tile(three, "a castle").click()
        seed = three.locator(".facts dd").nth(2).text_content()
        three.get_by_role("button", name="Use seed").click()
        assert three.get_by_label("Seed", exact=True).input_value() == seed
        three.get_by_label("What should be drawn?").fill("")
        three.get_by_role("radio", name="Square").check()
        tile(three, "a castle").click()
        three.get_by_role("button", name="Reuse settings").click()
        prompt = three.get_by_label("What should be drawn?")
        assert prompt.input_value() == "a castle in winter"
        assert prompt.evaluate("field => field === document.activeElement")
        assert three.get_by_label("Width").input_value() == "512"
        assert complaints.found == []

    def test_its_commands_make_the_same_picture(
        self, three: "Page", running: ServerProcess, key: str, tmp_path: Path, complaints: Complaints
    ) -> None:
        three.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tile(three, "boat").click()
        with three.expect_download() as download:
            three.get_by_role("button", name="Download").click()
        drawn = pixels(Path(download.value.path()).read_bytes())
        place = clean_environment(UMRGEN_API_KEY=key, PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
        told = {}
        for kind in ("CLI", "curl", "Python"):
            three.get_by_role("radio", name=kind).check()
            three.get_by_role("button", name="Copy").click()
            three.get_by_role("button", name="Copied").wait_for()
            told[kind] = three.evaluate("navigator.clipboard.readText()")
            assert key not in told[kind]
        for kind, command in (("CLI", ["bash", "-euc"]), ("Python", [sys.executable, "-c"])):
            folder = tmp_path / kind
            folder.mkdir()
            done = subprocess.run([*command, told[kind]], cwd=folder, env=place, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (made,) = folder.glob("*.png")
            assert pixels(made.read_bytes()) == drawn, kind
        if shutil.which("curl"):
            done = subprocess.run(["bash", "-euc", told["curl"]], env=place, capture_output=True, text=True)
            job_id = json.loads(done.stdout)["job_id"]
            with running.http(Authorization=f"Bearer {key}") as http:
                assert pixels(http.get(finish(http, job_id)["image_url"]).content) == drawn
        assert complaints.found == []


class TestManners:
    def test_the_keyboard_alone(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, complaints: Complaints
    ) -> None:
        page = new_page()
        page.goto(f"{running.url}/")
        page.get_by_label("API key").wait_for()
        press, type_ = page.keyboard.press, page.keyboard.insert_text
        type_(key)  # the focus is there already
        press("Enter")
        page.get_by_label("What should be drawn?").wait_for()
        type_("a boat by keyboard")
        self.tab_to(page, "size")
        press("ArrowRight")
        self.tab_to(page, "steps")
        press("ControlOrMeta+a")
        type_("1")
        press("Control+Enter")
        heard(page, "Finished: a boat by keyboard")
        self.tab_to(page, "tile-open")
        press("Enter")
        page.get_by_role("dialog").wait_for()
        self.tab_to(page, "reuse")
        press("Enter")
        assert page.get_by_label("What should be drawn?").evaluate("field => field === document.activeElement")
        assert page.locator("input[name=size]:checked").get_attribute("value") == "1216x832"
        assert complaints.found == []

    def tab_to(self, page: "Page", name: str) -> None:
        """Press Tab until something of this name, id or class has the focus."""
        for _ in range(60):
            page.keyboard.press("Tab")
            has = "name => ((e) => [e.id, e.name, ...e.classList].includes(name))(document.activeElement)"
            if page.evaluate(has, name):
                return
        raise AssertionError(f"there is no way to {name}")

    @pytest.mark.parametrize("width", [PHONE, DESK], ids=["phone", "desk"])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_nothing_keeps_anybody_out(
        self, new_page: "Callable[..., Page]", running: ServerProcess, key: str, theme: str, width: dict[str, int]
    ) -> None:
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: npm ci --prefix js")
        page = new_page(viewport=width, color_scheme=theme)
        page.goto(f"{running.url}/")
        page.get_by_text("Where do I get one?").click()
        self.check(page, "the door")
        open_studio(page, running.url, key)
        page.get_by_text("Nothing here yet").wait_for()
        page.get_by_text("Engine: procedural").click()
        self.check(page, "empty")
        draw(page, " ")
        self.check(page, "errors")
        draw(page, "a boat on the way", steps=40)
        has_picture(row(page, "a boat on the way").locator("img"))
        self.check(page, "at work")
        row(page, "a boat on the way").get_by_role("button", name="Cancel").click()
        tile(page, "a boat on the way").get_by_text("Cancelled").wait_for()
        draw(page, "a boat that arrives", steps=1)
        has_picture(tile(page, "a boat that arrives").locator("img"))
        self.check(page, "gallery")
        for prompt in ("a boat that arrives", "a boat on the way"):
            tile(page, prompt).click()
            self.check(page, prompt)
            page.keyboard.press("Escape")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width["width"], "nothing sticks out"

    def check(self, page: "Page", what: str) -> None:
        page.evaluate("window.axe !== undefined || 0") or page.evaluate(AXE.read_text() + "; 1")
        found = page.evaluate("async () => (await axe.run({resultTypes: ['violations']})).violations")
        told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert told == [], what

    def test_the_theme_is_switched_and_remembered(self, studio: "Page") -> None:
        def paper() -> Any:
            return studio.evaluate("getComputedStyle(document.body).backgroundColor")

        light = paper()
        studio.get_by_role("button", name="Theme: system").click()
        studio.get_by_role("button", name="Theme: light").click()
        studio.get_by_role("button", name="Theme: dark").wait_for()
        dark = paper()
        assert dark != light
        studio.reload()
        assert paper() == dark

    def test_under_a_prefix(self, new_page: "Callable[..., Page]", state: Path, complaints: Complaints) -> None:
        with server(state, *PATIENT, "--prefix", "/pictures") as started:
            page = open_studio(new_page(), f"{started.url}/pictures", started.key)
            draw(page, "a boat", steps=1)
            has_picture(tile(page, "a boat").locator("img"))
            assert page.locator(".tile img").get_attribute("src").startswith(f"{started.url}/pictures/outputs/")
        assert complaints.beside("ERR_") == []


def test_five_hundred_pictures(new_page: "Callable[..., Page]", running: ServerProcess, complaints: Complaints) -> None:
    """They are there at once, and go by smoothly. How it is exactly: benchmarks/studio.py."""
    key, session_id = new_session(running.state)
    with running.http(Authorization=f"Bearer {key}") as http:
        picture = http.get(finish(http, submit(http, "a lighthouse on a cliff at dusk"))["image_url"]).content
    in_thread(fill_gallery(running.state, session_id, picture, 500))
    page = open_studio(new_page(), running.url, key)
    has_picture(page.locator(".tile img").first)
    assert page.locator(".tile").count() < 100, "the rest comes when it is asked for"
    page.evaluate(MEASURE_FRAMES, 120)  # scrolls; how smoothly, benchmarks/studio.py measures
    assert page.locator(".tile").count() == 501
    has_picture(page.locator(".tile img").last)
    page.locator(".tile-open").last.click()
    page.locator(".next:disabled").wait_for(state="attached")
    assert complaints.found == []
