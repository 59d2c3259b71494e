"""The files of deploy/ that commands print or install: systemd units, example settings, a list of words."""

import sys
import sysconfig
from pathlib import Path

__all__ = ["example_config", "example_policy", "executable", "systemd_unit", "user_unit"]

DOCUMENTED = "/opt/umrgen/bin/umrgen"
"""The program's path in deploy/umrgen.service and in docs/operations.md."""
CONFIG, ENVIRONMENT = "/etc/umrgen/umrgen.toml", "/etc/umrgen/umrgen.env"
"""The paths in the units of deploy/."""


def _read(name: str) -> str:
    """Read a file of deploy/, from the installed package or from the checkout."""
    installed = Path(__file__).parent / "deploy" / name
    path = installed if installed.is_file() else Path(__file__).parents[3] / "deploy" / name
    return path.read_text(encoding="utf-8")


def executable() -> Path:
    """Return the absolute path of the running `umrgen` program, or of the one in this interpreter's environment."""
    started = Path(sys.argv[0])
    if started.name == "umrgen" and started.is_file():
        return started.absolute()
    return Path(sysconfig.get_path("scripts")) / "umrgen"


def systemd_unit(program: Path) -> str:
    """Return a systemd unit that starts `program`."""
    return _read("umrgen.service").replace(DOCUMENTED, str(program))


def user_unit(program: Path, config: Path) -> str:
    """Return a systemd unit for one user, which starts `program` with the settings file `config`."""
    environment = config.with_name("umrgen.env")
    return (
        _read("umrgen-user.service")
        .replace(DOCUMENTED, _unit_word(program))
        .replace(CONFIG, _unit_word(config))
        .replace(ENVIRONMENT, str(environment).replace("%", "%%"))
    )


def _unit_word(path: Path) -> str:
    """Return a path as one word of a command in a unit, where % and $ have a meaning."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(char in escaped for char in " '\"\\;") else escaped


def example_config() -> str:
    """Return an example file for `umrgen serve --config`."""
    return _read("umrgen.toml")


def example_policy() -> str:
    """Return a starter list for the setting `policy`."""
    return _read("policy-words.txt")
