"""The command line. Each group of commands has a module, which is imported when one of them is run."""

import os
import sys
from importlib import import_module

import click

from umrgen import __version__
from umrgen.cli.common import CommandOutput
from umrgen.errors import UmrgenError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "generate": "umrgen.cli.generate:generate",
    "submit": "umrgen.cli.generate:submit",
    "status": "umrgen.cli.jobs:status",
    "watch": "umrgen.cli.jobs:watch",
    "wait": "umrgen.cli.jobs:wait",
    "fetch": "umrgen.cli.jobs:fetch",
    "cancel": "umrgen.cli.jobs:cancel",
    "upload": "umrgen.cli.upload:upload",
    "jobs": "umrgen.cli.listing:jobs",
    "resume": "umrgen.cli.resume:resume",
    "forget": "umrgen.cli.resume:forget",
    "doctor": "umrgen.cli.doctor:doctor",
    "mcp": "umrgen.cli.mcp:mcp",
    "serve": "umrgen.cli.serve:serve",
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
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="umrgen %(version)s")
def umrgen() -> None:
    """A prompt becomes a verified image file, through a job that nothing can lose.

    UMRGEN_BASE_URL and UMRGEN_API_KEY set the server's address and key. Without an address,
    `generate` starts a temporary server on this machine for that one call.
    """


def main() -> None:
    """Run the command line and exit with one of the documented exit codes."""
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
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
