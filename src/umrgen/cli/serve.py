"""`umrgen serve`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import CommandOutput, exit_on_error, require_server_packages

if TYPE_CHECKING:
    from umrgen.server.serve import Announcement
    from umrgen.server.settings import Settings

__all__ = ["serve", "setting_options"]


def setting_options() -> list[click.Parameter]:
    """Return one option for each of the server's settings."""
    from umrgen.server.settings import settings_table

    return [
        click.Option(
            [setting.flag],
            help=f"{setting.help[0].upper()}{setting.help[1:]}. [{setting.variable}]",
            metavar=setting.metavar,
            multiple=setting.name == "engine_option",
        )
        for setting in settings_table()
    ]


def _announce(announcement: "Announcement", as_json: bool) -> None:
    if as_json:
        data = {
            "url": announcement.url,
            "key": announcement.key,
            "state": str(announcement.settings.state),
            "studio": announcement.studio,
        }
        click.echo(json.dumps(data))
        return
    if not sys.stderr.isatty():  # a log
        return
    settings = announcement.settings
    click.echo(
        f"UMRGEN is running on {announcement.url}  (engine {settings.engine}, state in {settings.state})",
        err=True,
    )
    if announcement.studio:
        click.echo(
            f"The studio, for your browser (this link works once, within ten minutes):\n\n    {announcement.studio}",
            err=True,
        )
    if announcement.key:
        click.echo("\nThis is the API key. It is printed only once; only its hash is stored:\n", err=True)
        click.echo(f"    {announcement.key}\n", err=True)
        click.echo("Try it:\n", err=True)
        click.echo(f"    export UMRGEN_BASE_URL={announcement.url} UMRGEN_API_KEY={announcement.key}", err=True)
        click.echo('    umrgen generate "a lighthouse on a cliff at dusk"\n', err=True)


def _announce_engine(settings: "Settings") -> None:
    """Print which engine the model chose; with the default engine, whether a ComfyUI could be used instead."""
    from umrgen.server.comfyui_hint import DEFAULT_URL, is_there
    from umrgen.server.model_choice import choose

    if settings.model:
        click.echo(f"the engine is {settings.engine}: {choose(settings.model).reason}", err=True)
    elif settings.engine == "procedural" and sys.stderr.isatty() and is_there():
        click.echo(f"A ComfyUI runs on this machine. To draw with it: umrgen serve --model {DEFAULT_URL}\n", err=True)


def _print_unit(context: click.Context, parameter: click.Parameter, requested: bool) -> None:
    if not requested:
        return
    from umrgen.server.deployment import executable, systemd_unit

    program = executable()
    if program.parts[1] in ("home", "root"):
        # The unit has ProtectHome=yes.
        click.echo(f"note: a systemd service cannot read {program}: install UMRGEN outside of home folders", err=True)
    click.echo(systemd_unit(program), nl=False)
    context.exit()


def _print_config(context: click.Context, parameter: click.Parameter, requested: bool) -> None:
    if not requested:
        return
    from umrgen.server.deployment import example_config

    click.echo(example_config(), nl=False)
    context.exit()


def _check_health(settings: "Settings") -> None:
    from umrgen.server.health import check_health

    click.echo(f"ready: {check_health(settings)}")


def _print_policy(context: click.Context, parameter: click.Parameter, requested: bool) -> None:
    if not requested:
        return
    from umrgen.server.deployment import example_policy

    click.echo(example_policy(), nl=False)
    context.exit()


@click.command(params=setting_options())
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="UMRGEN_CONFIG",
    help="A TOML file with settings. [UMRGEN_CONFIG]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout when ready: url, key, state, studio."
)
@click.option("--no-engines", is_flag=True, help="As --engines off: other servers, or umrgen work, draw the jobs.")
@click.option(
    "--check-health", is_flag=True, help="Only check that the server with these settings is ready: exit code 0 or 1."
)
@click.option("--until-eof", is_flag=True, help="Also stop when standard input ends.")
@click.option(
    "--print-unit", is_flag=True, is_eager=True, expose_value=False, callback=_print_unit, help="Print a systemd unit."
)
@click.option(
    "--print-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_config,
    help="Print an example file for --config.",
)
@click.option(
    "--print-policy",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_policy,
    help="Print a starter list of terms for --policy.",
)
def serve(
    config: Path | None, as_json: bool, no_engines: bool, check_health: bool, until_eof: bool, **flags: Any
) -> None:
    """Serve the API. The first start in a terminal creates the state folder and a key, and prints the key once."""

    def work() -> None:
        with require_server_packages():
            from umrgen.server.logs import set_up_logs
            from umrgen.server.serve import serve as serve_forever
            from umrgen.server.settings import Settings

        if no_engines:
            flags["engines"] = "off"

        def load() -> Settings:
            return Settings.load({name: value for name, value in flags.items() if value != ()}, os.environ, config)

        settings = load()
        if check_health:
            _check_health(settings)
            return
        set_up_logs(settings.log_format, settings.log_level)
        _announce_engine(settings)
        serve_forever(
            settings,
            lambda announcement: _announce(announcement, as_json),
            load=load,
            until_eof=until_eof,
            show_key=as_json or sys.stderr.isatty(),
        )

    exit_on_error(CommandOutput(False, False), work)
