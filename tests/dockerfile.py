"""The steps of a Dockerfile, made in a folder, for machines without Docker: its files, commands and variables.

Absolute paths of `PATHS` are below the folder of the stage. Users are not changed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["Build", "context_files", "instructions"]

PATHS = re.compile(r"(?<![\w.])/(?=opt/|var/lib/|src\b)")
STUBS = {
    "useradd": "exit 0",
    "install": """exec /usr/bin/install $(printf '%s ' "$@" | sed 's/-[og] [a-z]*//g')""",
}
"""Commands that only root can run."""


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction with its arguments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, arguments = line.strip().partition(" ")
        yield name, arguments.strip()


def context_files(root: Path) -> list[Path]:
    """Return the files that .dockerignore lets a builder see, relative to `root`."""
    lines = (root / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True
    )
    files = [Path(line) for line in tracked.stdout.splitlines()]
    return [file for file in files if (root / file).is_file() and not _ignored(file, patterns)]


def _ignored(file: Path, patterns: list[str]) -> bool:
    ignored = False
    names = [str(part) for part in (file, *file.parents)]
    for pattern in patterns:
        plain = pattern.removeprefix("!").rstrip("/")
        depth = plain.removeprefix("**/")
        found = any(fnmatch(name, plain) or (depth != plain and fnmatch(name, f"*{depth}")) for name in names)
        if found:
            ignored = not pattern.startswith("!")
    return ignored


class Build:
    """A build in `folder`: after it, `environment`, `command` and `health` are those of the image."""

    def __init__(self, context: Path, dockerfile: Path, folder: Path) -> None:
        self._context = context
        self._root = folder / "root"
        self._stages = folder / "stages"
        self._stubs = folder / "stubs"
        self._arguments: dict[str, str] = {}
        self._stage = ""
        self._workdir = self._root
        self.bases: list[str] = []
        self.user = ""
        self.environment: dict[str, str] = {}
        self.command: list[str] = []
        self.health: list[str] = []
        self._write_stubs()
        for name, arguments in instructions(dockerfile.read_text()):
            getattr(self, f"_{name.lower()}" + "_" * (name == "WORKDIR"))(arguments)

    def _write_stubs(self) -> None:
        self._stubs.mkdir(parents=True)
        for name, script in STUBS.items():
            (self._stubs / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._stubs / name).chmod(0o755)

    def path(self, text: str) -> str:
        """Return the text with each absolute path as the one in the folder."""
        return PATHS.sub(f"{self._root}/", text)

    def _filled(self, text: str) -> str:
        for name, value in self._arguments.items():
            text = text.replace(f"${{{name}}}", value)
        return text

    def _arg(self, arguments: str) -> None:
        name, _, value = arguments.partition("=")
        self._arguments[name] = value

    def _from(self, arguments: str) -> None:
        """Begin a stage in an empty folder at the same path: the scripts of an environment contain their path."""
        if self._stage:
            self._stages.mkdir(exist_ok=True)
            self._root.rename(self._stages / self._stage)
        image, _, self._stage = self._filled(arguments).partition(" AS ")
        self.bases.append(image)
        self._root.mkdir()
        self._workdir = self._root
        self.environment = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))}

    def _workdir_(self, arguments: str) -> None:
        self._workdir = Path(self.path(arguments))
        self._workdir.mkdir(parents=True, exist_ok=True)

    def _copy(self, arguments: str) -> None:
        *sources, target = shlex.split(arguments)
        if sources[0].startswith("--from="):
            origin = self._stages / sources.pop(0).removeprefix("--from=")
            for source in sources:
                shutil.copytree(origin / source.lstrip("/"), self.path(target), symlinks=True)
            return
        for source in sources:
            self._copy_context(source, target)

    def _copy_context(self, source: str, target: str) -> None:
        into = self._workdir / target
        found = [file for file in context_files(self._context) if file.is_relative_to(source.rstrip("/"))]
        assert found, f"COPY {source}: .dockerignore leaves nothing of it"
        for file in found:
            place = into / (file.relative_to(source) if source.endswith("/") else file.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._context / file, place)

    def _run(self, arguments: str) -> None:
        environment = os.environ | self.environment | {"PATH": f"{self._stubs}:{self.environment['PATH']}"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            ["/bin/sh", "-euc", self.path(self._filled(arguments))],
            cwd=self._workdir,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"RUN {arguments}\n{done.stdout}{done.stderr}"

    def _env(self, arguments: str) -> None:
        for name, value in (pair.split("=", 1) for pair in shlex.split(arguments)):
            self.environment[name] = self.path(value).replace("$PATH", self.environment["PATH"])

    def _user(self, arguments: str) -> None:
        self.user = arguments

    def _healthcheck(self, arguments: str) -> None:
        self.health = json.loads(arguments.partition(" CMD ")[2])

    def _cmd(self, arguments: str) -> None:
        self.command = json.loads(arguments)

    def _ignore(self, arguments: str) -> None:
        pass

    _volume = _expose = _stopsignal = _ignore
