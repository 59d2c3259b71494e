"""`umrgen work`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import CommandOutput, exit_on_error, require_server_packages
from umrgen.cli.serve import setting_options

if TYPE_CHECKING:
    from umrgen.server.settings import Settings

__all__ = ["work"]


def _announce(settings: "Settings", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"ledger": settings.ledger_name, "state": str(settings.state)}))
    elif sys.stderr.isatty():
        click.echo(f"Drawing the jobs of {settings.ledger_name}  (engine {settings.engine})", err=True)


@click.command(params=setting_options())
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="UMRGEN_CONFIG",
    help="A TOML file with settings. [UMRGEN_CONFIG]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout when started: ledger, state.")
def work(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Draw the jobs of a ledger, for servers on the same --ledger and --blobs. It has no API."""

    def run() -> None:
        with require_server_packages():
            from umrgen.server.logs import set_up_logs
            from umrgen.server.settings import Settings
            from umrgen.server.work import work as work_forever

        def load() -> Settings:
            return Settings.load({name: value for name, value in flags.items() if value != ()}, os.environ, config)

        settings = load()
        set_up_logs(settings.log_format, settings.log_level)
        work_forever(settings, lambda: _announce(settings, as_json), load)

    exit_on_error(CommandOutput(False, False), run)
