"""The command line. Each group of commands has a module, which is imported when one of them is run."""

import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import click

from umrgen import __version__
from umrgen.cli.common import CommandOutput
from umrgen.cli.examples import add_examples
from umrgen.cli.overview import SECTIONS, summary_of
from umrgen.cli.surroundings import close_stdout, prepare_streams
from umrgen.client.failures import disk_reason
from umrgen.errors import UmrgenError
from umrgen.text import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "login": "umrgen.cli.login:login",
    "logout": "umrgen.cli.login:logout",
    "generate": "umrgen.cli.generate:generate",
    "submit": "umrgen.cli.generate:submit",
    "status": "umrgen.cli.jobs:status",
    "watch": "umrgen.cli.jobs:watch",
    "wait": "umrgen.cli.jobs:wait",
    "fetch": "umrgen.cli.jobs:fetch",
    "cancel": "umrgen.cli.jobs:cancel",
    "delete": "umrgen.cli.jobs:delete",
    "upload": "umrgen.cli.upload:upload",
    "jobs": "umrgen.cli.listing:jobs",
    "show": "umrgen.cli.verify:show",
    "verify": "umrgen.cli.verify:verify",
    "resume": "umrgen.cli.resume:resume",
    "forget": "umrgen.cli.resume:forget",
    "bench": "umrgen.cli.bench:bench",
    "config": "umrgen.cli.config:config",
    "doctor": "umrgen.cli.doctor:doctor",
    "completion": "umrgen.cli.completion:completion",
    "mcp": "umrgen.cli.mcp:mcp",
    "setup": "umrgen.cli.setup:setup",
    "serve": "umrgen.cli.serve:serve",
    "studio": "umrgen.cli.studio:studio",
    "work": "umrgen.cli.work:work",
    "engine": "umrgen.cli.engine:engine",
    "provenance": "umrgen.cli.provenance:provenance",
    "keys": "umrgen.cli.keys:keys",
    "ledger": "umrgen.cli.ledger:ledger",
}


class LazyGroup(click.Group):
    """A command group that imports the module of a command when the command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        add_examples(cmd_name, command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by their purpose."""
        rest = {name: "" for name in COMMANDS if not summary_of(name)}
        for title, commands in (SECTIONS | {"More": rest}).items():
            rows = [(name, text or self._short_help(ctx, name)) for name, text in commands.items() if name in COMMANDS]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(60)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Return the commands that begin with `incomplete`, without importing them, and the options."""
        from click.shell_completion import CompletionItem  # only needed here

        commands = [CompletionItem(name, help=summary_of(name)) for name in COMMANDS if name.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to run. Raises UsageError with the nearest name for an unknown one."""
        near = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near and not args[0].startswith("-"):
            ctx.fail(f"No such command {printable(args[0])!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="umrgen %(version)s")
def umrgen() -> None:
    """A prompt becomes a verified image file, through a job that nothing can lose.

    `umrgen login` stores the address of a server and a key for it; UMRGEN_BASE_URL and UMRGEN_API_KEY
    take precedence. Without an address, `generate` starts a temporary server on this machine for that
    one call.
    """


def main() -> None:
    """Run the command line and exit with one of the documented exit codes."""
    prepare_streams()
    try:
        code = umrgen.main(prog_name="umrgen", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help:
        help.show()
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except UmrgenError as error:
        code = CommandOutput(False, False).failure(error)
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except OSError as error:
        code = _failed_output(error)
    sys.exit(code)


def _failed_output(error: OSError) -> int:
    """Print why stdout or stderr cannot be written; nothing when its reader has closed it. Return the exit code."""
    if error.filename is not None:  # not a stream
        raise error
    if isinstance(error, FileNotFoundError):  # of getcwd: no stream raises it
        click.echo("umrgen: the current folder no longer exists. Change to another folder.", err=True)
        return 1
    close_stdout()
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            click.echo(f"umrgen: stdout cannot be written: {disk_reason(error)}.", err=True)
    return 1
