"""The guide that the server serves: its negotiation, its facts, and the shell commands in it, run literally."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from support import ServerProcess, clean_environment, server
from umrgen.image_files import verify
from umrgen.server.http.guide import SKILL_NAME, base_url, prefers_html
from umrgen.server.http.problems import PROBLEMS

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
SKILLS = "/.well-known/agent-skills"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html, application/xhtml+xml, */*", True),
        ("text/html", True),
        ("TEXT/HTML;Q=0.9, text/markdown;q=0.5", True),
        ("text/html;q=0.5;level=1", True),
        ("text/markdown, text/html, */*", False),
        ("text/markdown;q=0.9, text/html;q=0.8", False),
        ("text/html;q=0", False),
        ("text/*", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        (",;,q=", False),
        ("text/html;q=nan, text/markdown", False),
    ],
)
def test_html_is_preferred_only_if_it_is_named_with_the_higher_weight(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:3088", "https://127.0.0.1:3088/x"),
        ("images.example.org", "https://images.example.org/x"),
        ("[::1]:80", "https://[::1]:80/x"),
        ("", "https://[::]:7/x"),
        ('a"; rm -rf "', "https://[::]:7/x"),
        ("$(id)", "https://[::]:7/x"),
        ("user@host", "https://[::]:7/x"),
        ("a\n", "https://[::]:7/x"),
    ],
)
def test_the_base_url_is_the_host_that_the_client_addressed_unless_it_has_other_characters(
    host: str, expected: str
) -> None:
    assert base_url("https", host, "::", 7, "/x") == expected


def test_markdown_or_the_page(shared_server: ServerProcess) -> None:
    with httpx2.Client(base_url=shared_server.url) as http:
        guide = http.get("/guide.md")
        for accept in ("*/*", "text/markdown, text/html, */*"):
            answer = http.get("/", headers={"Accept": accept})
            assert answer.text == guide.text
            assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
            assert "Accept" in answer.headers["vary"]
        page = http.get("/", headers={"Accept": BROWSER})
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "Accept" in page.headers["vary"]
        assert '<link rel="alternate" type="text/markdown" href="guide.md" />' in page.text
        head = http.head("/guide.md")
        assert (head.status_code, int(head.headers["content-length"])) == (200, len(guide.content))


def test_the_guide_has_the_facts_of_this_server_and_no_key(shared_server: ServerProcess) -> None:
    text = httpx2.get(f"{shared_server.url}/guide.md").text
    assert f"Base URL: `{shared_server.url}`" in text
    assert "`procedural`" in text
    assert "512 to 2048" in text
    assert "`reference_images`" in text
    assert "`loras`" not in text, "the procedural engine has none"
    assert "umr_" not in text
    assert "@{" not in text
    assert all(f"`{code}`" not in text or code in PROBLEMS for code in re.findall(r"\| \d{3} \| `(\w+)`", text))


def test_behind_a_proxy_the_guide_has_the_public_url(state: Path) -> None:
    options = ("--prefix", "/pictures", "--allowed-hosts", "images.example.org", "--studio", "off")
    with server(state, *options) as running:
        headers = {"Host": "images.example.org", "X-Forwarded-Proto": "https", "Accept": BROWSER}
        text = httpx2.get(f"{running.url}/pictures/", headers=headers).text
    assert "Base URL: `https://images.example.org/pictures`" in text
    assert "studio" not in text


def test_the_shell_commands_of_the_guide_draw_an_image(shared_server: ServerProcess, tmp_path: Path) -> None:
    text = httpx2.get(shared_server.url).text
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(script.splitlines()) < 10
    environment = clean_environment(UMRGEN_API_KEY=shared_server.key)
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert verify((tmp_path / "image.png").read_bytes()).width == 1024


def test_the_shell_commands_end_when_the_key_is_wrong(shared_server: ServerProcess, tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", httpx2.get(shared_server.url).text, re.DOTALL)
    environment = clean_environment(UMRGEN_API_KEY="umr_" + "x" * 43)
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "unauthorized" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_index_of_skills_has_the_digest_of_the_skill(shared_server: ServerProcess) -> None:
    with httpx2.Client(base_url=shared_server.url) as http:
        index = http.get(f"{SKILLS}/index.json").json()
        (entry,) = index["skills"]
        skill = http.get(f"{SKILLS}/{entry['url']}")
    assert index["$schema"].endswith("/0.2.0/schema.json")
    assert entry["digest"] == f"sha256:{hashlib.sha256(skill.content).hexdigest()}"
    front, body = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", skill.text, re.DOTALL).groups()  # type: ignore[union-attr]
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert fields["name"] == entry["name"] == SKILL_NAME
    assert json.loads(fields["description"]) == entry["description"]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", SKILL_NAME)
    assert len(SKILL_NAME) <= 64
    assert len(entry["description"]) <= 1024
    assert len(body) / 3 < 5000, "tokens have three characters or more"


def test_llms_txt_refers_to_the_guide(shared_server: ServerProcess) -> None:
    answer = httpx2.get(f"{shared_server.url}/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert f"({shared_server.url}/guide.md)" in answer.text
