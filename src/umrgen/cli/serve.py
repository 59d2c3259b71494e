"""`umrgen serve`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import Output, guarded, server_parts

if TYPE_CHECKING:
    from umrgen.server.serve import Announcement

__all__ = ["serve"]


def _setting_options() -> list[click.Parameter]:
    """One option per setting of the server, from its one table."""
    from umrgen.server.settings import settings_table

    return [
        click.Option(
            [setting.flag],
            help=f"{setting.help}. [{setting.variable}]",
            metavar=setting.metavar,
            multiple=setting.name == "engine_option",
        )
        for setting in settings_table()
    ]


def _announce(told: "Announcement", as_json: bool) -> None:
    if as_json:
        words = {"url": told.url, "key": told.key, "state": str(told.settings.state), "studio": told.studio}
        click.echo(json.dumps(words))
        return
    say = click.echo
    say(f"UMRGEN serves on {told.url}  (engine {told.settings.engine}, state in {told.settings.state})", err=True)
    if told.studio:
        say(
            f"The studio, for your browser (this link opens it once, within ten minutes):\n\n    {told.studio}",
            err=True,
        )
    if told.key:
        say("\nThis is the API key; it is shown this once, only its hash is kept:\n", err=True)
        say(f"    {told.key}\n", err=True)
        say("Try it:\n", err=True)
        say(f"    export UMRGEN_BASE_URL={told.url} UMRGEN_API_KEY={told.key}", err=True)
        say('    umrgen generate "a lighthouse on a cliff at dusk"\n', err=True)


def _print_unit(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from umrgen.server.deployment import executable, systemd_unit

    program = executable()
    if program.parts[1] in ("home", "root"):
        # The unit has ProtectHome=yes.
        click.echo(f"note: a service cannot see {program}: install UMRGEN outside of home folders", err=True)
    click.echo(systemd_unit(program), nl=False)
    context.exit()


def _print_config(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from umrgen.server.deployment import example_config

    click.echo(example_config(), nl=False)
    context.exit()


@click.command(params=_setting_options())
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="UMRGEN_CONFIG",
    help="A TOML file with settings, by their names. [UMRGEN_CONFIG]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout when ready: url, key, state, studio.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends, too.")
@click.option(
    "--print-unit", is_flag=True, is_eager=True, expose_value=False, callback=_print_unit, help="Print a systemd unit."
)
@click.option(
    "--print-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_config,
    help="Print an example of a file for --config.",
)
def serve(config: Path | None, as_json: bool, until_eof: bool, **flags: Any) -> None:
    """Serve the API. The first start makes the state folder and one key, and prints the key once."""

    def work() -> None:
        with server_parts():
            from umrgen.server.logs import set_up_logs
            from umrgen.server.serve import serve as serve_forever
            from umrgen.server.settings import Settings

        settings = Settings.load({name: value for name, value in flags.items() if value != ()}, os.environ, config)
        set_up_logs(settings.log_format)
        serve_forever(settings, lambda told: _announce(told, as_json), until_eof=until_eof)

    guarded(Output(False, False), work)
