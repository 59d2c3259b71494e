"""The installer of agent skills (npm package `skills`) installs this server's skill from its URL."""

import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from support import ServerProcess, clean_environment
from umrgen.server.http.guide import SKILL_NAME, SKILLS

INSTALLER = Path(__file__).with_name("js") / "node_modules" / ".bin" / "skills"


def test_the_skill_is_installed_from_the_base_url(shared_server: ServerProcess, tmp_path: Path) -> None:
    if shutil.which("node") is None or not INSTALLER.exists():
        pytest.skip("Node or skills is not installed: npm ci --prefix tests/acceptance/js")
    environment = clean_environment(HOME=str(tmp_path), DO_NOT_TRACK="1", DISABLE_TELEMETRY="1")
    command = [str(INSTALLER), "add", shared_server.url, "--yes"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = tmp_path / ".agents" / "skills" / SKILL_NAME / "SKILL.md"
    assert installed.read_text() == httpx2.get(f"{shared_server.url}{SKILLS}/{SKILL_NAME}/SKILL.md").text
