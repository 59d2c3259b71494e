"""Parts that the commands share: options, output as JSON or text, errors as exit codes."""

import functools
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from umrgen import errors
from umrgen.text import printable, printable_json

if TYPE_CHECKING:
    from umrgen.server.settings import Settings

__all__ = [
    "EXIT_CODES",
    "CommandOutput",
    "EncodedText",
    "F",
    "ServerOptions",
    "check_stdout",
    "exit_code",
    "exit_on_error",
    "json_option",
    "output_options",
    "require_server_packages",
    "run",
    "server_options",
    "server_settings",
    "table",
    "target_option",
]

F = TypeVar("F", bound=Callable[..., Any])

_EXIT_CODES: tuple[tuple[type[errors.UmrgenError], int], ...] = (
    (errors.WaitTimeout, 3),
    (errors.JobStalled, 3),
    (errors.Unauthorized, 4),
    (errors.Forbidden, 4),
    (errors.JobFailed, 5),
    (errors.OutputMissing, 6),
    (errors.OutputForbidden, 6),
    (errors.OutputCorrupt, 6),
    (errors.ConnectionFailed, 7),
)
"""Errors with an exit code of their own; all others have 1."""
EXIT_CODES = {
    0: "success",
    1: "an error; of `doctor` and `config check`: a problem",
    2: "wrong usage: an unknown command or option, or a value of a wrong form",
    3: "the time limit has passed, or the job has stalled; the job continues",
    4: "the server does not accept the key",
    5: "the job has failed",
    6: "the image is missing, forbidden or corrupt",
    7: "the server cannot be reached",
    8: "of `verify`: the image is marked, and was changed after that",
    9: "of `verify`: no mark was found",
    130: "interrupted by Ctrl-C; the jobs continue",
}
"""The exit codes of the commands, and their meanings."""


@contextmanager
def require_server_packages() -> Iterator[None]:
    """Translate the ImportError of a missing server package to a UmrgenError with a remedy."""
    try:
        yield
    except ImportError as missing:
        extras = "server,postgres" if missing.name == "psycopg" else "server"
        raise errors.UmrgenError(
            f"the server's packages are not installed: {missing.name} is missing",
            next=f"pip install 'umrgen[{extras}]'",
        ) from None


def exit_code(error: errors.UmrgenError) -> int:
    """Return the exit code for an error."""
    if error.code == "bad_engine":
        return 2
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


class CommandOutput:
    """Writes a command's result to stdout, as text, JSON or events, and everything else to stderr."""

    def __init__(self, as_json: bool, as_events: bool) -> None:
        self.as_json = as_json
        self.as_events = as_events
        self._has_result = False
        self.text_to_stderr = False
        """Whether stdout has an image."""
        self.job_ids: list[str] = []
        """The ids of the command's jobs, for the message after an interruption."""
        self.continuation = ""
        """The command that continues this one, when it is not `fetch` or `resume`."""

    @property
    def machine_readable(self) -> bool:
        """Whether stdout has JSON instead of text."""
        return self.as_json or self.as_events

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Print an event, with --events."""
        if self.as_events:
            click.echo(printable_json({"event": kind} | data))

    def result(self, data: dict[str, Any], text: str) -> None:
        """Print the command's single result."""
        self._has_result = True
        if self.as_events:
            self.event("done", data)
        elif self.as_json:
            click.echo(printable_json(data))
        elif text:
            click.echo(text, err=self.text_to_stderr)

    def failure(self, error: errors.UmrgenError) -> int:
        """Print an error in one line; return its exit code. After a result, stdout gets no second object."""
        if self._has_result:
            pass
        elif self.as_events:
            self.event("error", error.as_dict())
        elif self.as_json:
            click.echo(printable_json(error.as_dict()))
        message = str(error).rstrip(".")
        click.echo(f"umrgen: {message}." + (f" {error.next}" if error.next else ""), err=True)
        return exit_code(error)

    def interrupted(self) -> int:
        """Print how to continue after Ctrl-C; return the exit code."""
        if self.job_ids:
            one = f"umrgen fetch {self.job_ids[0]}" if len(self.job_ids) == 1 else "umrgen resume"
            command = self.continuation or one
            click.echo(f"\numrgen: interrupted; the jobs continue. Resume with: {command}", err=True)
        else:
            click.echo("\numrgen: interrupted.", err=True)
        return 130


def output_options(command: F) -> F:
    """Add --json and --events, and pass an `CommandOutput` to the command as `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("--events", "as_events", is_flag=True, help="Print events on stdout, one JSON object per line.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, as_events: bool, **kwargs: Any) -> Any:
        return command(*args, output=CommandOutput(as_json, as_events), **kwargs)

    return wrapped  # type: ignore[return-value]  # click replaces the signature


class EncodedText(click.ParamType[str]):
    """Text of an argument that must be valid in the encoding of the locale, which is UTF-8 nearly everywhere."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        text = str(value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.fail(f"it is not valid UTF-8: {printable(text)}", param, context)
        return text


def _target(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """Convert the path of a file or folder: `-` is stdout, and a folder that is named with a slash is created."""
    from umrgen.client.target import STDOUT, prepare_target
    from umrgen.paths import user_path

    if value is None:
        return None
    if value == "-":
        return STDOUT
    if value.endswith((os.sep, os.altsep or os.sep)):
        prepare_target(value, overwrite=True)
    return user_path(value)


def target_option(help: str) -> Callable[[F], F]:
    """Add -o, as `to`."""
    return click.option("-o", "--output", "to", callback=_target, help=help, metavar="PATH")


def check_stdout(to: Path | None, output: CommandOutput) -> None:
    """Reserve stdout for the image when it is the target. Raises UsageError and TargetUnusable when it cannot."""
    from umrgen.client.target import descriptor_of

    if to is None or descriptor_of(to) != 1:
        return
    if output.machine_readable:
        raise click.UsageError("stdout cannot have both the image and JSON: choose a file with -o.")
    if os.isatty(1):
        raise errors.TargetUnusable(
            "stdout is a terminal, which cannot show an image", next="Redirect it: umrgen ... -o - > image.png"
        )
    output.text_to_stderr = True


class ServerOptions(TypedDict):
    """The values that `server_options` pass to a command."""

    state: Path | None
    ledger: str | None
    config: Path | None


def server_options(command: F) -> F:
    """Add --state, --ledger and --config: the server on this machine."""
    for option in (
        click.option(
            "--config",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            envvar="UMRGEN_CONFIG",
            help="The server's settings file.",
        ),
        click.option("--ledger", help="The server's ledger, as in its settings.  [env var: UMRGEN_LEDGER]"),
        click.option(
            "--state",
            type=click.Path(path_type=Path),
            help="The server's state folder.  [env var: UMRGEN_STATE]",
            show_default="the server's default",
        ),
    ):
        command = option(command)
    return command


def server_settings(state: Path | None, ledger: str | None, config: Path | None) -> "Settings":
    """Return the settings of the server that the options of `server_options` name. Raises BadSettings."""
    with require_server_packages():
        from umrgen.server.settings import Settings

    return Settings.load({"state": state, "ledger": ledger}, os.environ, config)


def json_option(command: F) -> F:
    """Add --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose columns are as wide as their longest cell."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def run(output: CommandOutput, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run asynchronous `work` as `exit_on_error` does."""
    import asyncio  # not needed by the fastest commands

    exit_on_error(output, lambda: asyncio.run(work()))


def exit_on_error(output: CommandOutput, work: Callable[[], None]) -> None:
    """Run `work`; print its error and exit with the error's exit code."""
    try:
        work()
    except errors.UmrgenError as error:
        sys.exit(output.failure(error))
    except (KeyboardInterrupt, click.Abort):  # click raises Abort in a prompt
        sys.exit(output.interrupted())
