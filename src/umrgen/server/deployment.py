"""The files that `umrgen serve --print-unit` and `--print-config` print: a systemd unit, and an example of settings."""

import sys
import sysconfig
from pathlib import Path

__all__ = ["example_config", "executable", "systemd_unit"]

DOCUMENTED = "/opt/umrgen/bin/umrgen"
"""The program's place in deploy/umrgen.service and in docs/operations.md."""


def _read(name: str) -> str:
    """A file of deploy/: inside the installed package, or in the checkout that it is run from."""
    installed = Path(__file__).parent / "deploy" / name
    path = installed if installed.is_file() else Path(__file__).parents[3] / "deploy" / name
    return path.read_text(encoding="utf-8")


def executable() -> Path:
    """The absolute path of the `umrgen` program that runs now, or of the one beside this interpreter."""
    started = Path(sys.argv[0])
    if started.name == "umrgen" and started.is_file():
        return started.absolute()
    return Path(sysconfig.get_path("scripts")) / "umrgen"


def systemd_unit(program: Path) -> str:
    """A unit that starts `program`."""
    return _read("umrgen.service").replace(DOCUMENTED, str(program))


def example_config() -> str:
    """An example of a file for `umrgen serve --config`."""
    return _read("umrgen.toml")
