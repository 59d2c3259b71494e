"""`umrgen login`, `logout` and `config`: real processes, a real server, a terminal where it matters."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, Terminal, clean_environment, cli, tied
from umrgen import Client
from umrgen.client.config import Profile, Profiles
from umrgen.errors import JobNotFound
from umrgen.testing import FaultServer, HtmlPage


def login(lines: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        tied(sys.executable, "-m", "umrgen", "login", *arguments),
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(**environment),
    )


def test_after_a_login_no_variable_is_needed(shared_server: ServerProcess, tmp_path: Path) -> None:
    done = login(f"{shared_server.url}/\n{shared_server.key}\n", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "profile": "default",
        "base_url": shared_server.url,
        "file": str(tmp_path / "config" / "umrgen" / "profiles.json"),
    }
    assert json.loads(cli("jobs", "--json", "--limit", "1").stdout)["jobs"] is not None
    assert "job_not_found" in cli("status", "ext_none", "--json").stdout
    with Client() as client, pytest.raises(JobNotFound):
        client.job("ext_none").status()
    shown = cli("config", "show")
    assert "profile default" in shown.stdout
    assert shared_server.key not in shown.stdout + shown.stderr
    assert cli("logout").returncode == 0
    assert Profiles().all() == {}
    assert cli("logout").returncode == 1
    assert "umrgen login" in cli("status", "ext_none").stderr


def test_the_end_of_the_input_at_a_prompt_ends_its_line() -> None:
    terminal = Terminal(sys.executable, "-m", "umrgen", "login")
    terminal.read_until("address")
    terminal.write("\x04")  # Ctrl-D: unlike a signal, it waits until the prompt reads
    assert terminal.read_all().endswith("\numrgen: interrupted.\n")
    assert terminal.close() == 130


def test_the_name_of_the_profile_is_checked_before_the_key_is_read() -> None:
    refused = login("", "--base-url", "http://127.0.0.1:9", "--profile", "a b")
    assert (refused.returncode, "'a b' is not a name for a profile" in refused.stderr) == (1, True)


def test_a_terminal_prompts_and_does_not_show_the_key(shared_server: ServerProcess) -> None:
    terminal = Terminal(sys.executable, "-m", "umrgen", "login", "--profile", "work")
    terminal.read_until("address")
    terminal.write(f"{shared_server.url}\n")
    terminal.read_until("not shown")
    terminal.write(f"{shared_server.key}\n")
    shown = terminal.read_all()
    assert terminal.close() == 0
    assert shared_server.key not in shown
    assert "UMRGEN_PROFILE=work" in shown
    assert Profiles().get("work").key == shared_server.key


def test_a_terminal_gets_the_question_again_after_a_wrong_address(shared_server: ServerProcess) -> None:
    terminal = Terminal(sys.executable, "-m", "umrgen", "login")
    terminal.read_until("address")
    terminal.write(f"{shared_server.url.removeprefix('http://')}\n")
    terminal.read_until(f"Write the scheme: {shared_server.url}")
    terminal.read_until("address (for example")
    terminal.write(f"{shared_server.url}\n")
    terminal.read_until("not shown")
    terminal.write(f"{shared_server.key}\n")
    terminal.read_all()
    assert terminal.close() == 0
    assert Profiles().get("default").base_url == shared_server.url


@pytest.mark.slow
def test_a_second_login_offers_the_address_of_the_first(shared_server: ServerProcess) -> None:
    Profiles().save(Profile("default", shared_server.url, "umr_expired"))
    terminal = Terminal(sys.executable, "-m", "umrgen", "login")
    terminal.read_until(f"[{shared_server.url}]")
    terminal.write("\n")
    terminal.read_until("not shown")
    terminal.write(f"{shared_server.key}\n")
    terminal.read_all()
    assert terminal.close() == 0
    assert Profiles().get("default").key == shared_server.key


@pytest.mark.parametrize("mode", ["modern", "legacy"])
def test_a_wrong_key_is_refused_and_not_stored(mode: str) -> None:
    with FaultServer(mode) as server:
        refused = login(f"{server.url}\nwrong-key-in-here\n")
        assert refused.returncode == 4
        assert "Copy the key again" in refused.stderr
        assert "wrong-key-in-here" not in refused.stderr + refused.stdout
        assert Profiles().all() == {}
        assert login(f"{server.url}\n{server.key}\n").returncode == 0
        assert server.jobs == []
    assert Profiles().get("default").base_url == server.url


def test_missing_lines_and_a_wrong_address_are_named(tmp_path: Path) -> None:
    nothing = login("")
    assert (nothing.returncode, "does not have an address" in nothing.stderr) == (1, True)
    half = login("http://127.0.0.1:1\n")
    assert (half.returncode, "does not have an API key" in half.stderr) == (1, True)
    wrong = login("ftp://x\nkey\n")
    assert (wrong.returncode, "is not a server address" in wrong.stderr) == (1, True)
    assert not (tmp_path / "config").exists()


@pytest.mark.slow
def test_an_unreachable_server_and_a_page_of_a_tunnel_have_their_exit_codes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    refused = login(f"{url}\nkey\n")
    assert refused.returncode == 7
    assert f"Nothing was stored. Check the address {url}" in refused.stderr
    assert "umrgen wait" not in refused.stderr
    with FaultServer() as server:
        server.on("GET /api/v1/status/*", HtmlPage(), times=None)
        page = login(f"{server.url}\nkey\n")
    assert (page.returncode, "HTML" in page.stderr) == (1, True)
    assert Profiles().all() == {}


def test_a_key_is_read_from_a_file(shared_server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{shared_server.key}\nnot the key\n")
    done = cli("status", "ext_none", "--base-url", shared_server.url, "--api-key-file", str(file), "--json")
    assert json.loads(done.stdout)["code"] == "job_not_found"
    file.write_text("\n")
    empty = cli("status", "ext_none", "--base-url", shared_server.url, "--api-key-file", str(file))
    assert (empty.returncode, "is empty" in empty.stderr) == (1, True)
    missing = cli("status", "ext_none", "--api-key-file", str(tmp_path / "none"))
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)


def test_a_server_named_twice_is_a_usage_error() -> None:
    assert cli("status", "ext_none", "--base-url", "http://127.0.0.1:1", "--profile", "work").returncode == 2


def test_the_settings_in_force_name_their_sources_and_mask_secrets(tmp_path: Path) -> None:
    file = tmp_path / "umrgen.toml"
    file.write_text('port = 4000\nledger = "postgresql://u:hunter2@db/x"\n[engine.comfyui]\ntoken = "hunter2"\n')
    environment = {
        "UMRGEN_CONFIG": str(file),
        "UMRGEN_ENGINE": "comfyui",
        "UMRGEN_SERVER_KEY": "umr_hunter2_hunter2_hunter2",
        "UMRGEN_BASE_URL": "https://u:hunter2@example.org",
        "UMRGEN_API_KEY": "umr_hunter2",
        "https_proxy": "http://u:hunter2@proxy:3128",
    }
    shown = cli("config", "show", "--json", **environment)
    assert "hunter2" not in shown.stdout + shown.stderr
    data = json.loads(shown.stdout)
    assert data["server"]["port"] == {"value": "4000", "source": f"port in {file}"}
    assert data["server"]["engine"]["source"] == "UMRGEN_ENGINE"
    assert data["server"]["engine_option"]["source"] == f"[engine.comfyui] in {file}"
    assert data["server"]["host"]["source"] == "default"
    assert data["client"]["key"] == {"value": "umr_… (11 characters)", "source": "UMRGEN_API_KEY"}
    assert data["client"]["proxy"]["source"] == "https_proxy"
    text = cli("config", "show", **environment).stdout
    assert "hunter2" not in text
    assert "retain_days" not in text
    assert "retain_days" in cli("config", "show", "--all").stdout


def test_every_problem_of_a_settings_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "umrgen.toml"
    file.write_text('port = "many"\nhsot = "x"\nlog_format = "xml"\naddress_connections = 3\n')
    done = cli("config", "check", str(file))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4
    for part in ("port in", "Did you mean host?", "text, json", "no longer has an effect"):
        assert part in done.stdout
    file.write_text('signing_key = "key.pem"\n')
    assert "signing_certificate" in cli("config", "check", str(file)).stdout
    file.write_text("port = \n")
    assert "is not TOML" in json.loads(cli("config", "check", str(file), "--json").stdout)["problems"][0]["error"]
    file.write_text("port = 0\n")
    sound = cli("config", "check", str(file), UMRGEN_PORT="wrong")
    assert (sound.returncode, "no problem" in sound.stdout) == (0, True)
    assert os.environ.get("UMRGEN_PORT") is None
