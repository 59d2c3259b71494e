"""Scripts that use a real client, in Node or in a virtual environment of the client's own, as processes of a test."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import clean_environment, tied

__all__ = ["ClientScript", "ScriptProcess"]

ROOT = Path(__file__).parents[1]
ACCEPTANCE = Path(__file__).with_name("acceptance")
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Variables without which a client calls servers of its makers."""


@dataclass(frozen=True)
class ClientScript:
    """A script in `acceptance/js`, or in `acceptance/clients` with the name of the Python client's environment."""

    file: str
    environment: str = ""

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def missing(self) -> str | None:
        """The reason to skip a test, with the command that installs the client; None if it is installed."""
        if self.environment:
            command = f"make {self.environment}/clients.stamp"
            return None if self._python.exists() else f"{self.environment} is not installed: {command}"
        if shutil.which("node") and (ACCEPTANCE / "js" / "node_modules" / "@modelcontextprotocol").is_dir():
            return None
        return "Node or the clients are not installed: npm ci --prefix tests/acceptance/js"

    def require(self) -> None:
        """Skip the test if the client is not installed."""
        if self.missing:
            pytest.skip(self.missing)

    @property
    def command(self) -> list[str]:
        if self.environment:
            return [str(self._python), str(ACCEPTANCE / "clients" / self.file)]
        return ["node", str(ACCEPTANCE / "js" / self.file)]

    @property
    def _python(self) -> Path:
        return ROOT / self.environment / "bin" / "python"


class ScriptProcess:
    """A running script. It has its settings as JSON in its first argument, and prints lines of JSON."""

    def __init__(self, script: ClientScript, folder: Path, settings: Mapping[str, Any]) -> None:
        self._log = folder / "stderr"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                tied(*script.command, json.dumps(settings)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean_environment(**QUIET),
            )

    def line(self) -> Mapping[str, Any]:
        """Return the next line; fail with what the script wrote to stderr when it ends before."""
        assert self._process.stdout is not None
        printed = self._process.stdout.readline()
        assert printed, self._log.read_text()
        value: Mapping[str, Any] = json.loads(printed)
        return value

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
