"""The commands on jobs in a terminal, against a real server and the double of the first servers."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, Terminal, clean_environment, cli, submit, tied
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
    assert re.findall(r"ext_\w+", "\n".join(shown[1:3])) == newest[:2]
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


@pytest.mark.slow  # it takes four seconds
@pytest.mark.parametrize("count", ["1", "2"])
def test_the_elapsed_time_advances_while_nothing_else_changes(count: str, tmp_path: Path) -> None:
    with FaultServer(job_seconds=600) as server:
        environment = {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key}
        command = ["generate", "a boat", "-n", count, "-o", f"{tmp_path}/"]
        terminal = Terminal(sys.executable, "-m", "umrgen", *command, **environment)
        for seconds in range(2, 5):  # the first status may arrive after a second
            terminal.read_until(f"({seconds} s)")
        terminal.process.send_signal(signal.SIGINT)
        assert "Resume with: umrgen resume" in terminal.read_all()
        assert terminal.close() == 130


def test_lines_of_progress_fit_a_narrow_terminal_although_stdout_is_a_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["generate", "a boat", "-n", "3", "-o", f"{tmp_path}/", *SMALL]
    terminal = Terminal(sys.executable, "-m", "umrgen", *command, size=(24, 30), **environment)
    shown = terminal.read_all()
    assert terminal.close() == 0
    lines = [line for line in re.sub(r"\x1b\[\d*[AKJ]", "", shown).replace("\r", "\n").splitlines() if "seed" in line]
    progress = [line for line in lines if line.startswith("   ")]
    assert progress
    assert max(map(len, progress)) <= 29


def test_a_limit_per_day_ends_the_submits_and_the_jobs_before_it_continue(
    shared_server: ServerProcess, environment: dict[str, str], tmp_path: Path
) -> None:
    made = cli("keys", "create", "--daily", "1", "--state", str(shared_server.state), "--json")
    environment |= {"UMRGEN_API_KEY": json.loads(made.stdout)["key"]}
    done = cli("generate", "a boat", "-n", "3", "-o", str(tmp_path / "x.png"), *SMALL, **environment)
    assert done.returncode == 1
    assert "jobs that continue: 1; save their images with: umrgen resume" in done.stderr
    assert re.search(r"this key may submit 1 job.*Submit it again in \d+ (h|min|s)\.", done.stderr)
    assert cli("resume", **environment).returncode == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["x-1.png"]


def test_the_list_of_this_machine_has_no_filters(environment: dict[str, str]) -> None:
    for filters in (["--state", "failed"], ["--search", "boat"], ["--favorite"], ["--after", "2026-01-01"]):
        done = cli("jobs", "--local", *filters, **environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"without {filters[0]}" in done.stderr


def test_the_list_can_be_of_one_engine(environment: dict[str, str]) -> None:
    job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
    assert cli("wait", job_id, **environment).returncode == 0
    assert job_id in cli("jobs", "--engine", "procedural", **environment).stdout
    assert cli("jobs", "--engine", "comfyui", **environment).stdout == "There are no jobs.\n"


def test_texts_that_are_not_utf8_and_a_folder_that_is_gone(environment: dict[str, str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    left = f'cd {gone}; rmdir {gone}; exec "$@"'
    command = [sys.executable, "-m", "umrgen", "generate", "x"]
    done = subprocess.run(
        tied("sh", "-c", left, "sh", *command), env=clean_environment(**environment), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the current folder no longer exists" in done.stderr
    for arguments in (["jobs", "--search", "\udcff"], ["submit", "x", "--webhook", "\udcff"]):
        refused = cli(*arguments, **environment)
        assert (refused.returncode, "not valid UTF-8" in refused.stderr) == (2, True)


def test_a_file_is_checked_although_the_server_cannot_be_asked(environment: dict[str, str], tmp_path: Path) -> None:
    image = tmp_path / "boat.png"
    assert cli("generate", "a boat", "-o", str(image), *SMALL, **environment).returncode == 0
    wrong = environment | {"UMRGEN_API_KEY": "wrong"}
    done = cli("verify", str(image), **wrong)
    assert (done.returncode, done.stdout.startswith(f"{image}: marked. ")) == (4, True)
    assert "not accepted" in done.stderr
    answered = cli("verify", str(image), "--json", **wrong)
    assert (answered.returncode, json.loads(answered.stdout)["files"][0]["server"]) == (4, None)
    measured = cli("bench", "--images", "2", **wrong)
    assert measured.returncode == 4
    assert "2 failed: unauthorized: " in measured.stdout


def test_a_file_that_is_no_image_is_not_said_to_be_without_a_mark(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    checked = cli("verify", str(text))
    assert (checked.returncode, checked.stdout) == (9, f"{text}: The file is not a PNG, JPEG or WebP image.\n")
    shown = cli("show", str(text))
    wanted = f"umrgen: {text} does not say how it was made. The file is not a PNG, JPEG or WebP image.\n"
    assert (shown.returncode, shown.stderr) == (1, wanted)


@pytest.mark.slow
def test_the_advice_after_a_time_limit_saves_the_image_at_its_target(tmp_path: Path) -> None:
    target, home = tmp_path / "boat.png", {"XDG_DATA_HOME": str(tmp_path / "home")}
    with FaultServer("modern", job_seconds=8) as server:
        done = cli("generate", "a boat", "-o", str(target), "--timeout", "4", *SMALL, **of(server), **home)
        assert (done.returncode, "Save its image later with: umrgen resume ext_" in done.stderr) == (3, True)
        advice = done.stderr.split("umrgen resume ")[1].split()[0]
        assert cli("resume", advice, **of(server), **home).returncode == 0
    assert SavedImage.read(target).bytes > 0


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
    assert "\nmade by    a program without a model\n" in cli("show", str(target)).stdout


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
