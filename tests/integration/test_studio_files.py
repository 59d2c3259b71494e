"""The files of the studio, their headers, and the one-time link."""

import gzip
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

import umrgen
from browser import ConsoleErrors, browser, new_session, open_studio
from support import ServerProcess, Terminal, clean_environment, cli, problem, server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "js" / "studio"
HTML = {"Accept": "text/html"}
STUDIO = {"X-Umrgen-Studio": "cookie"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    state = tmp_path_factory.mktemp("studio") / "state"
    with server(state, "--allowed-hosts", "pictures.example", "--access-log", "all") as started:
        yield started


def reached(module: Path, found: set[Path]) -> set[Path]:
    """Return the module and all that it imports, directly or indirectly."""
    if module not in found:
        found.add(module)
        for name in re.findall(r'^(?:import|export) .*?"(\.[^"]+)"|^} from "(\.[^"]+)"', module.read_text(), re.M):
            reached((module.parent / (name[0] or name[1])).resolve(), found)
    return found


class TestFiles:
    def test_the_page(self, running: ServerProcess) -> None:
        page = httpx2.get(f"{running.url}/", headers=HTML)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;")
        assert "unsafe" not in policy
        for directive in ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "connect-src 'self'"):
            assert directive in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert page.headers["x-content-type-options"] == "nosniff"

    def test_every_file_exists_and_has_its_media_type(self, running: ServerProcess) -> None:
        page = httpx2.get(f"{running.url}/", headers=HTML).text
        parts = re.findall(r'(?:href|src)="(studio/[^"]+)"', page)
        assert len(parts) > 30
        types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
        types |= {".png": "image/png", ".webmanifest": "application/manifest+json"}
        with httpx2.Client(base_url=running.url) as http:
            for part in parts:
                response = http.get(f"/{part}")
                assert response.status_code == 200, part
                assert response.headers["content-type"] == types[Path(part).suffix]
                assert response.headers["content-security-policy"]

    def test_all_modules_are_preloaded(self) -> None:
        """Without preloads, a browser would load the imports level by level; outside of a template, before the page."""
        page = (PAGE / "index.html").read_text()
        template = page[page.index('<template id="modules">') : page.index("</template>")]
        preloaded = set(re.findall(r'rel="modulepreload" href="studio/([^"]+)"', template))
        needed = reached(PAGE / "main.js", set())
        assert "modulepreload" not in page.replace(template, "")
        assert preloaded == {f"{'src' if module.parent.name == 'src' else 'page'}/{module.name}" for module in needed}

    def test_there_is_no_inline_code_and_no_external_address(self) -> None:
        page = (PAGE / "index.html").read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|javascript:", page)
        for path in (file for file in PAGE.iterdir() if file.suffix != ".png"):
            addresses = set(re.findall(r"\w+://[\w.]+", path.read_text()))
            assert addresses <= {"http://www.w3.org"}, path.name

    def test_the_page_opens_in_a_browser(self, running: ServerProcess) -> None:
        """The only quick test with a browser; the others are slow tests."""
        key, _ = new_session(running.state)
        errors = ConsoleErrors()
        with browser() as chrome:
            page = chrome.new_page()
            errors.listen(page)
            open_studio(page, running.url, key)
            page.get_by_text("No images yet").wait_for()
        assert errors.found == []

    def test_files_are_cached_and_revalidated(self, running: ServerProcess) -> None:
        with httpx2.Client(base_url=running.url) as http:
            for encoding in ("identity", "gzip"):
                first = http.get("/studio/page/main.js", headers={"Accept-Encoding": encoding})
                assert first.content == (PAGE / "main.js").read_bytes()
                assert first.headers.get("content-encoding", "identity") == encoding
                again = {"If-None-Match": first.headers["etag"], "Accept-Encoding": encoding}
                unchanged = http.get("/studio/page/main.js", headers=again)
                assert (unchanged.status_code, unchanged.content) == (304, b"")
                assert unchanged.headers["etag"] == first.headers["etag"]
            head = http.head("/", headers=HTML | {"Accept-Encoding": "identity"})
            assert (head.status_code, head.content) == (200, b"")
            page = http.get("/", headers=HTML | {"Accept-Encoding": "identity"})
            assert int(head.headers["content-length"]) == len(page.content)
            assert head.headers["cache-control"] == "no-cache"

    def test_a_browser_keeps_the_files_of_a_version(self, running: ServerProcess) -> None:
        with httpx2.Client(base_url=running.url) as http:
            page = http.get("/", headers=HTML).text
            parts = set(re.findall(r'(?:href|src)="(studio/[^"]+)"', page))
            (version,) = {part.split("/")[1] for part in parts}
            assert re.fullmatch("[0-9a-f]{16}", version)
            kept = http.get(f"/studio/{version}/page/main.js")
            assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert kept.content == (PAGE / "main.js").read_bytes()
            assert http.get("/studio/page/main.js").headers["cache-control"] == "no-cache"
            problem(http.get(f"/studio/{'0' * 16}/page/main.js"), 404, "not_found")

    @pytest.mark.parametrize(
        "path",
        [
            *("/studio", "/studio/", "/studio/page", "/studio/page/", "/studio/page/nothing.js", "/index.html"),
            *("/studio/page/../src/index.js", "/studio/page/%2e%2e/package.json", "/studio/..%2f..%2fpyproject.toml"),
            *("/studio/page/tsconfig.json", "/studio//etc/passwd", "/studio/page/main.js%00.css"),
        ],
    )
    def test_other_paths_are_not_found(self, running: ServerProcess, path: str) -> None:
        address = urlsplit(running.url)
        raw = HTTPConnection(address.hostname or "", address.port)  # it does not normalise the path
        raw.request("GET", path)
        assert (raw.getresponse().status, raw.close()) == (404, None)

    def test_the_page_cannot_be_posted_to(self, running: ServerProcess) -> None:
        problem(httpx2.post(f"{running.url}/"), 405, "method_not_allowed")

    def test_the_page_discloses_nothing_about_the_server(self, running: ServerProcess) -> None:
        page = httpx2.get(f"{running.url}/", headers=HTML).text
        assert umrgen.__version__ not in page
        assert str(running.state) not in page
        assert "sid_" not in page

    def test_the_studio_can_be_turned_off(self, state: Path) -> None:
        with server(state, "--studio", "off") as started:
            assert started.studio == ""
            problem(httpx2.get(f"{started.url}/studio/page/main.js"), 404, "not_found")
            problem(httpx2.post(f"{started.url}/studio/session", json={"ticket": "x"}), 404, "not_found")

    def test_with_a_path_prefix(self, state: Path) -> None:
        with server(state, "--prefix", "/pictures") as started:
            redirect = httpx2.get(f"{started.url}/pictures", headers=HTML)
            assert (redirect.status_code, redirect.headers["location"]) == (308, "/pictures/")
            page = httpx2.get(f"{started.url}/pictures/", headers=HTML).text
            assert httpx2.get(f"{started.url}/", headers=HTML).text == page, "a proxy may strip it"
            assert not re.search(r'(?:href|src)="/', page), "the links must be relative"
            assert httpx2.get(f"{started.url}/pictures/studio/page/main.js").status_code == 200

    @pytest.mark.slow
    def test_a_wheel_has_page_and_client(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
        subprocess.run(
            [*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True, timeout=100
        )
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert not [name for name in archive.namelist() if "node_modules" in name]
            archive.extractall(tmp_path / "there")
        code = "from umrgen.server.http import studio; print(studio.__file__); print(*studio.page_files())"
        environment = clean_environment(PYTHONPATH=str(tmp_path / "there"))
        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout
        module, files = output.splitlines()
        assert module.startswith(str(tmp_path))
        expected = {f"page/{path.name}" for path in PAGE.iterdir() if path.suffix != ".json"}
        expected |= {f"src/{path.name}" for path in (ROOT / "js" / "src").iterdir()}
        assert set(files.split()) == expected


class TestLink:
    def exchange(self, running: ServerProcess, ticket: object, **headers: str) -> httpx2.Response:
        headers = {"Origin": running.url} | headers
        return httpx2.post(f"{running.url}/studio/session", json={"ticket": ticket}, headers=headers)

    @pytest.mark.slow
    def test_the_link_works_once(self, state: Path) -> None:
        with server(state, "--access-log", "all") as started:
            address, ticket = started.studio.split("/#start=")
            assert address == started.url
            exchanged = self.exchange(started, ticket)
            assert exchanged.status_code == 200
            assert exchanged.headers["cache-control"] == "no-store"
            key, expires = exchanged.json()["key"], exchanged.json()["expires_at"]
            assert abs(expires / 1000 - time.time() - 12 * 3600) < 60
            with started.http() as http:
                job_id = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()["job_id"]
            seen = httpx2.get(f"{started.url}/api/v1/status/{job_id}", headers={"Authorization": f"Bearer {key}"})
            assert seen.status_code == 200, "the new key must have the session of the first key"
            problem(self.exchange(started, ticket), 410, "link_over")
            log = started.log()
            assert "/studio/session" in log
            assert ticket not in log
            assert key not in log
        listed = json.loads(cli("keys", "list", "--state", str(state), "--json").stdout)["keys"]
        assert [(made["name"], made["expires_at"]) for made in listed if made["name"] == "studio"] == [
            ("studio", expires)
        ]

    @pytest.mark.parametrize("ticket", ["", "x" * 43, None, 7, ["x"]])
    def test_an_invalid_ticket_is_refused(self, running: ServerProcess, ticket: object) -> None:
        problem(self.exchange(running, ticket), 410, "link_over")

    def test_only_the_page_on_this_machine_may_exchange_a_ticket(self, running: ServerProcess) -> None:
        ticket = running.studio.partition("#start=")[2]
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Host": "pictures.example", "Origin": "http://pictures.example"},
            {"Host": "192.168.1.5", "Origin": "http://192.168.1.5"},
        ):
            problem(self.exchange(running, ticket, **headers), 403, "forbidden_origin")
        without = httpx2.post(f"{running.url}/studio/session", json={"ticket": ticket})
        problem(without, 403, "forbidden_origin")
        foreign = self.exchange(running, ticket, Host="evil.example", Origin="http://evil.example")
        problem(foreign, 421, "forbidden_host")
        name = running.url.replace("127.0.0.1", "localhost")
        assert self.exchange(running, ticket, Host=name.removeprefix("http://"), Origin=name).status_code == 200

    @pytest.mark.slow
    def test_there_is_no_link_on_a_public_address(self, state: Path) -> None:
        cli("keys", "create", "--state", str(state))
        with server(state, "--host", "0.0.0.0") as started:
            assert started.studio == ""
            url = started.url.replace("0.0.0.0", "127.0.0.1")
            assert httpx2.get(f"{url}/").status_code == 200
            response = httpx2.post(f"{url}/studio/session", json={"ticket": "x"}, headers={"Origin": url})
            problem(response, 405, "method_not_allowed")

    def test_the_link_is_printed(self, state: Path) -> None:
        terminal = Terminal(sys.executable, "-m", "umrgen", "serve", "--state", str(state), "--port", "0")
        terminal.read_until("umrgen generate")
        assert re.search(r"http://127\.0\.0\.1:\d+/#start=[\w-]{43}$", terminal.shown, re.MULTILINE)
        assert terminal.close() == 0

    def test_a_new_link_without_a_restart(self, running: ServerProcess) -> None:
        made = cli("studio", "--state", str(running.state))
        address, ticket = made.stdout.strip().split("/#start=")
        assert address == running.url
        assert self.exchange(running, ticket).status_code == 200
        problem(self.exchange(running, ticket), 410, "link_over")

    def test_a_link_needs_a_running_server(self, tmp_path: Path) -> None:
        made = cli("studio", "--state", str(tmp_path / "none"))
        assert (made.returncode, made.stdout) == (1, "")
        assert f"no server runs on the state folder {tmp_path / 'none'}" in made.stderr

    def test_a_server_without_links_is_reported(self, state: Path) -> None:
        with server(state, "--studio", "off"):
            made = cli("studio", "--state", str(state), "--json")
        assert (made.returncode, json.loads(made.stdout)["code"]) == (1, "no_studio")


class TestDevices:
    """Staying signed in: the cookie counts for the studio's page only."""

    @pytest.fixture
    def browser(self, running: ServerProcess) -> Iterator[httpx2.Client]:
        """A client with the cookie of a new key's browser."""
        key, _ = new_session(running.state)
        with httpx2.Client(base_url=running.url, headers={"Origin": running.url}) as http:
            made = http.post("/studio/devices", json={"device": "Chrome"}, headers={"Authorization": f"Bearer {key}"})
            assert made.json() == {"success": True}
            attributes = made.headers["set-cookie"].split("; ")
            assert attributes[0].startswith("umrgen-studio=")
            assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=2592000"} <= set(attributes)
            assert "Secure" not in attributes
            yield http

    def test_the_studio_may_use_the_cookie(self, browser: httpx2.Client) -> None:
        assert browser.get("/api/v1/jobs", headers=STUDIO).status_code == 200
        assert browser.post("/api/v1/generate", json={"prompt": "a boat"}, headers=STUDIO).status_code == 202

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ({}, "unauthorized"),
            ({"X-Umrgen-Studio": "yes"}, "unauthorized"),
            ({"X-Umrgen-Studio": "cookie", "Sec-Fetch-Site": "cross-site"}, "unauthorized"),
            ({"X-Umrgen-Studio": "cookie", "Sec-Fetch-Site": "same-site"}, "unauthorized"),
            ({"X-Umrgen-Studio": "cookie", "Origin": "https://evil.example"}, "forbidden_origin"),
            ({"X-Umrgen-Studio": "cookie", "Authorization": "Bearer umr_wrong"}, "unauthorized"),
        ],
    )
    def test_no_other_page_may_use_the_cookie(self, browser: httpx2.Client, headers: dict[str, str], code: str) -> None:
        status = 403 if code == "forbidden_origin" else 401
        problem(browser.post("/api/v1/generate", json={"prompt": "a boat"}, headers=headers), status, code)
        problem(browser.get("/api/v1/jobs", headers=headers), 401, "unauthorized")

    def test_an_allowed_origin_may_not_use_the_cookie(self, tmp_path: Path) -> None:
        other = "https://studio.example.org"
        allowed = server(tmp_path / "state", "--allowed-origins", other)
        with allowed as started, httpx2.Client(base_url=started.url) as http:
            key = {"Authorization": f"Bearer {started.key}"}
            http.post("/studio/devices", json={}, headers=key | {"Origin": started.url})
            asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-umrgen-studio"}
            assert http.options("/api/v1/generate", headers=asked | {"Origin": other}).status_code == 400
            refused = http.post("/api/v1/generate", json={"prompt": "x"}, headers=STUDIO | {"Origin": other})
            problem(refused, 401, "unauthorized")
            problem(http.post("/studio/devices", json={}, headers=key | {"Origin": other}), 403, "forbidden_origin")

    def test_devices_are_listed_and_signed_out(self, browser: httpx2.Client, running: ServerProcess) -> None:
        (device,) = browser.get("/studio/devices", headers=STUDIO).json()["devices"]
        assert (device["device"], device["expires_at"] > time.time() * 1000) == ("Chrome", True)
        listed = json.loads(cli("keys", "list", "--state", str(running.state), "--json").stdout)["keys"]
        assert [key["name"].endswith(": Chrome") for key in listed if key["id"] == device["id"]] == [True]
        problem(browser.delete("/studio/devices/key_000000000000", headers=STUDIO), 404, "not_found")
        assert browser.delete(f"/studio/devices/{device['id']}", headers=STUDIO).status_code == 200
        problem(browser.get("/api/v1/jobs", headers=STUDIO), 401, "unauthorized")

    def test_signing_out_removes_the_cookie(self, browser: httpx2.Client) -> None:
        cookie = browser.cookies["umrgen-studio"]
        assert "umrgen-studio=" in browser.post("/studio/sign-out", headers=STUDIO).headers["set-cookie"]
        assert not browser.cookies
        kept = {"Cookie": f"umrgen-studio={cookie}"}
        problem(browser.get("/api/v1/jobs", headers=STUDIO | kept), 401, "unauthorized")

    def test_the_cookie_is_secure_by_https(self, running: ServerProcess) -> None:
        key, _ = new_session(running.state)
        https = {"Origin": running.url.replace("http:", "https:"), "Authorization": f"Bearer {key}"}
        made = httpx2.post(f"{running.url}/studio/devices", json={}, headers=https)
        assert "Secure" in made.headers["set-cookie"].split("; ")


def test_a_list_has_the_request_of_each_job(running: ServerProcess) -> None:
    request = {"negative": "clouds", "width": 640, "height": 512, "steps": 2}
    with running.http() as http:
        http.post("/api/v1/generate", json={"prompt": "a boat", "seed": 5, **request}).raise_for_status()
        (job,) = http.get("/api/v1/jobs?limit=1").json()["jobs"]
    rest = {"prompt": "a boat", "seed": 5, "priority": 0, "loras": [], "reference_images": []}
    assert job["request"] == request | rest | {"cfg": None, "model": None, "webhook_url": None}
    assert (job["prompt"], job["seed"]) == ("a boat", 5)


def test_a_compressed_file_has_the_same_content() -> None:
    from umrgen.server.http.studio import page_files

    for file in page_files().values():
        assert gzip.decompress(file.gzipped) == file.body
