"""The files that `umrgen serve --print-unit` and `--print-config` print: a systemd unit and example settings."""

import sys
import sysconfig
from pathlib import Path

__all__ = ["example_config", "executable", "systemd_unit"]

DOCUMENTED = "/opt/umrgen/bin/umrgen"
"""The program's path in deploy/umrgen.service and in docs/operations.md."""


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


def example_config() -> str:
    """Return an example file for `umrgen serve --config`."""
    return _read("umrgen.toml")
