"""The completion of command lines, in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import Terminal, clean_environment, cli, tied
from umrgen.client.config import Profile, Profiles
from umrgen.client.journal import Journal

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""In front: the folder of `umrgen`."""


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


def run(name: str, script: str) -> str:
    done = subprocess.run(
        tied(shell(name), "-c", script), capture_output=True, text=True, timeout=60, env=clean_environment(PATH=PATH)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_bash(line: str) -> list[str]:
    words = [f"'{word}'" for word in line.split(" ")]
    script = (
        f'eval "$(umrgen completion bash)"; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; '
        '_umrgen_completion umrgen; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return run("bash", script).split()


def test_bash_completes_commands() -> None:
    assert in_bash("umrgen log") == ["login", "logout"]


@pytest.mark.slow
def test_bash_completes_options_jobs_and_profiles() -> None:
    Profiles().save(Profile("work", "http://127.0.0.1:1", "k"))
    journal = Journal()
    for job_id in ("ext_1", "ext_2"):
        journal.submitted(journal.begin("http://127.0.0.1:1", {"prompt": "a boat"}, "k"), job_id)
    assert in_bash("umrgen generate --over") == ["--overwrite"]
    assert in_bash("umrgen fetch ext_") == ["ext_2", "ext_1"]
    assert in_bash("umrgen jobs --profile w") == ["work"]
    assert in_bash("umrgen config ") == ["check", "show"]


@pytest.mark.slow
def test_fish_completes_commands_with_their_summaries() -> None:
    shown = run("fish", 'umrgen completion fish | source; complete -C "umrgen log"')
    assert [line.split("\t")[0] for line in shown.splitlines()] == ["login", "logout"]
    assert "Store a server's address" in shown


@pytest.mark.slow
def test_zsh_completes_commands() -> None:
    terminal = Terminal(shell("zsh"), "-f", "-i", output=True, PATH=PATH, TERM="xterm", PS1="$ ")
    terminal.write('autoload -U compinit && compinit -D && eval "$(umrgen completion zsh)"; echo rea""dy\n')
    terminal.read_until("ready\n")
    terminal.write("umrgen docto\t")
    terminal.read_until("umrgen doctor")
    terminal.write("\x15exit\n")
    terminal.close()


def test_an_unknown_shell_is_a_usage_error() -> None:
    assert cli("completion", "tcsh").returncode == 2
