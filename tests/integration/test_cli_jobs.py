"""The commands on jobs in a terminal, against a real server and the double of the first servers."""

import json
import sys
from pathlib import Path

import pytest

from support import ServerProcess, Terminal, cli, submit
from umrgen import SavedImage
from umrgen.client.config import Profile, Profiles
from umrgen.testing import FaultServer

SMALL = ["--width", "512", "--height", "512", "--steps", "1"]


@pytest.fixture
def environment(shared_server: ServerProcess, tmp_path: Path) -> dict[str, str]:
    return {
        "UMRGEN_BASE_URL": shared_server.url,
        "UMRGEN_API_KEY": shared_server.key,
        "XDG_DATA_HOME": str(tmp_path / "home"),
    }


def of(server: FaultServer) -> dict[str, str]:
    return {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key}


def in_terminal(*arguments: str, size: tuple[int, int] = (24, 80), **environment: str) -> str:
    terminal = Terminal(sys.executable, "-m", "umrgen", *arguments, output=True, size=size, **environment)
    shown = terminal.read_all()
    terminal.close()
    return shown


def test_the_list_fits_the_terminal_and_has_all_pages(
    environment: dict[str, str], shared_server: ServerProcess
) -> None:
    with shared_server.http() as http:
        newest = [submit(http, "船" * 60, width=512, height=512) for _ in range(3)][::-1]
    shown = in_terminal("jobs", "--limit", "2", size=(24, 100), **environment).splitlines()
    assert shown[0].split()[:3] == ["AGE", "STATE", "JOB"]
    assert [line.split("  ")[2].strip() for line in shown[1:3]] == newest[:2]
    assert shown[1].endswith("船…")
    assert "--all" in shown[3]
    limited = cli("jobs", "--limit", "2", "--json", **environment)
    assert [job["job_id"] for job in json.loads(limited.stdout)["jobs"]] == newest[:2]
    every = json.loads(cli("jobs", "--limit", "1", "--all", "--json", **environment).stdout)["jobs"]
    assert {job["job_id"] for job in every} >= set(newest)


def test_several_images_have_a_line_each(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    shown = in_terminal(
        "generate", "a boat", "-n", "3", "--seed", "5", "-o", str(target), *SMALL, size=(24, 200), **environment
    )
    for number in (1, 2, 3):
        assert f"{number:4}  seed {number + 4}  " in shown
        assert f"boat-{number}.png  512 × 512 PNG" in shown
    assert "of 3 images" in shown
    piped = cli("generate", "a boat", "-n", "2", "--seed", "5", "-o", str(tmp_path / "p.png"), *SMALL, **environment)
    assert sorted(piped.stdout.splitlines()) == [str(tmp_path / "p-1.png"), str(tmp_path / "p-2.png")]
    assert "2 of 2: 512 × 512 PNG" in piped.stderr
    assert "seed 6" in piped.stderr
    events = cli("generate", "a boat", "-n", "2", "-o", str(tmp_path / "e.png"), "--events", *SMALL, **environment)
    kinds = [json.loads(line)["event"] for line in events.stdout.splitlines()]
    assert (kinds.count("submitted"), kinds[-1], kinds.count("done")) == (2, "done", 1)


@pytest.mark.slow
def test_the_end_of_a_wait_is_printed_once(environment: dict[str, str]) -> None:
    job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
    shown = in_terminal("wait", job_id, TERM="dumb", **environment)
    assert shown.count("completed") == 1
    waited = cli("wait", job_id, **environment)
    assert (waited.stdout + waited.stderr).count("completed") == 1
    several = cli("wait", job_id, "ext_none", **environment)
    assert (several.returncode, several.stdout.count("ext_none  "), several.stdout.count(f"{job_id}  ")) == (1, 1, 1)
    assert several.stderr == "umrgen: 1 of 2 jobs are not completed.\n"


@pytest.mark.slow
def test_cancel_reports_a_job_that_was_over(environment: dict[str, str]) -> None:
    job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
    cli("wait", job_id, **environment)
    cancelled = cli("cancel", job_id, **environment)
    assert (cancelled.returncode, cancelled.stdout) == (0, "was over already: completed\n")
    assert json.loads(cli("cancel", job_id, "--json", **environment).stdout)["state"] == "completed"


@pytest.mark.slow
def test_reference_images_are_listed_and_deleted(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    cli("generate", "a boat", "-o", str(target), *SMALL, **environment)
    name = cli("upload", str(target), **environment).stdout.strip()
    (row,) = [line for line in cli("upload", "--list", **environment).stdout.splitlines() if line.startswith(name)]
    assert "512×512" in row
    assert cli("upload", "--delete", name, **environment).stdout == f"{name} is deleted\n"
    listed = json.loads(cli("upload", "--list", "--json", **environment).stdout)["references"]
    assert name not in [each["filename"] for each in listed]
    again = cli("upload", "--delete", name, **environment)
    assert (again.returncode, "umrgen upload --list" in again.stderr) == (1, True)
    assert cli("upload", str(target), "--list", **environment).returncode == 2


def test_a_file_states_how_it_was_made(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    made = cli("generate", "a boat", "-o", str(target), "--seed", "7", "--json", *SMALL, **environment)
    image = SavedImage.read(target)
    result = json.loads(made.stdout)
    assert image.as_dict().items() <= result.items()
    assert image.provenance is not None
    assert (image.provenance.prompt, image.provenance.seed, image.provenance.job_id) == ("a boat", 7, image.job_id)


def kitty(**changes: str) -> dict[str, str]:
    """Return the environment of a terminal that shows images."""
    return {"TERM": "xterm-kitty", "TMUX": "", "STY": "", "UMRGEN_DISPLAY": ""} | changes


def test_a_terminal_shows_the_image(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    arguments = ["generate", "a boat", "-o", str(target), *SMALL]
    assert "\x1b_Ga=T,f=100" in in_terminal(*arguments, **kitty(), **environment)
    shown = in_terminal("show", str(target), **kitty())
    assert shown.index("seed") < shown.index("\x1b_Ga=T,f=100")
    assert "\x1b_G" not in in_terminal("show", str(target), "--no-display", **kitty())
    assert "\x1b" not in cli("show", str(target), "--display", **kitty()).stdout


def test_a_terminal_gets_one_query_and_shows_sixel(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    cli("generate", "a boat", "-o", str(target), *SMALL, **environment)
    terminal = Terminal(sys.executable, "-m", "umrgen", "show", str(target), output=True, **kitty(TERM="xterm"))
    terminal.read_until("\x1b[c")
    terminal.write("\x1b[?62;4;22c")
    shown = terminal.read_all()
    assert terminal.close() == 0
    assert shown.count("\x1b[c") == 1
    assert '\x1bP0;1q"1;1;' in shown


@pytest.mark.slow
def test_resume_names_the_profile_of_another_server(environment: dict[str, str], tmp_path: Path) -> None:
    with FaultServer("modern", job_seconds=0) as server:
        cli("submit", "a boat", **of(server), XDG_DATA_HOME=environment["XDG_DATA_HOME"])
        shown = cli("resume", **environment).stdout
        assert "set UMRGEN_BASE_URL" in shown
        Profiles().save(Profile("lab", server.url, server.key))
        assert "umrgen resume --profile lab" in cli("resume", **environment).stdout
        done = cli("resume", "--profile", "lab", "-o", str(tmp_path / "x.png"), **environment)
        assert (done.returncode, (tmp_path / "x.png").is_file()) == (0, True)


@pytest.mark.slow
def test_an_older_server_gets_advice_and_the_job_continues() -> None:
    with FaultServer("legacy") as server:
        listed = cli("jobs", **of(server))
        assert listed.returncode == 1
        assert "continue" in listed.stderr
        assert "umrgen jobs --local" in listed.stderr
        job_id = cli("submit", "a boat", **of(server)).stdout.strip()
        cancelled = cli("cancel", job_id, **of(server))
        assert "the job continues" in cancelled.stderr or "was over already" in cancelled.stdout
        uploads = cli("upload", "--list", **of(server))
        assert (uploads.returncode, "does not list" in uploads.stderr) == (1, True)
