"""What the commands share: connection options, output as data or as words, errors as exit codes."""

import functools
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from umrgen import errors

if TYPE_CHECKING:
    from umrgen.server.settings import Settings

__all__ = [
    "Output",
    "ServerOptions",
    "client_arguments",
    "connection_options",
    "exit_code",
    "guarded",
    "json_option",
    "output_options",
    "run",
    "server_options",
    "server_parts",
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
"""0 done · 1 error · 2 usage · 3 waited long enough · 4 key refused · 5 job failed · 6 output missing,
forbidden or corrupt · 7 cannot reach the server · 130 interrupted."""


@contextmanager
def server_parts() -> Iterator[None]:
    """For imports of the server's side: where its packages are not installed, say so and what to do."""
    try:
        yield
    except ImportError as missing:
        raise errors.UmrgenError(
            f"this installation cannot serve: {missing.name} is missing", next="pip install 'umrgen[server]'"
        ) from None


def exit_code(error: errors.UmrgenError) -> int:
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


class Output:
    """stdout: data, in one of three forms. stderr: everything else."""

    def __init__(self, as_json: bool, as_events: bool) -> None:
        self.as_json = as_json
        self.as_events = as_events
        self._told = False
        self.job_ids: list[str] = []
        """The jobs this command is about, so that an interruption can say how to carry on."""

    @property
    def for_programs(self) -> bool:
        return self.as_json or self.as_events

    def event(self, kind: str, data: dict[str, Any]) -> None:
        if self.as_events:
            click.echo(json.dumps({"event": kind} | data, ensure_ascii=False))

    def result(self, data: dict[str, Any], words: str) -> None:
        """The command's one result."""
        self._told = True
        if self.as_events:
            self.event("done", data)
        elif self.as_json:
            click.echo(json.dumps(data, ensure_ascii=False))
        else:
            click.echo(words)

    def failure(self, error: errors.UmrgenError) -> int:
        """Tell an error in one line; give the exit code. A result told before stays the one object on stdout."""
        if self._told:
            pass
        elif self.as_events:
            self.event("error", error.as_dict())
        elif self.as_json:
            click.echo(json.dumps(error.as_dict(), ensure_ascii=False))
        words = str(error).rstrip(".")
        click.echo(f"umrgen: {words}." + (f" {error.next}" if error.next else ""), err=True)
        return exit_code(error)

    def interrupted(self) -> int:
        if self.job_ids:
            ids = " ".join(self.job_ids)
            click.echo(f"\numrgen: interrupted; the work goes on. Carry on with: umrgen fetch {ids}", err=True)
        else:
            click.echo("\numrgen: interrupted.", err=True)
        return 130


def output_options(command: F) -> F:
    """Adds --json and --events, and hands the command an `Output` as `output`."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @click.option("--events", "as_events", is_flag=True, help="Events on stdout, one JSON object a line.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, as_events: bool, **kwargs: Any) -> Any:
        return command(*args, output=Output(as_json, as_events), **kwargs)

    return wrapped  # type: ignore[return-value]  # click replaces the signature


def _target(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """A file or folder to write; what ends in a slash must be a folder that is there."""
    if value is not None and value.endswith(os.sep) and not Path(value).is_dir():
        raise click.BadParameter(f"there is no folder {value}; make it first: mkdir -p {value}")
    return None if value is None else Path(value).expanduser()


def target_option(help: str) -> Callable[[F], F]:
    """Adds -o, as `to`."""
    return click.option("-o", "--output", "to", callback=_target, help=help, metavar="PATH")


class ServerOptions(TypedDict):
    """What `server_options` pass to a command."""

    state: Path | None
    ledger: str | None
    config: Path | None


def server_options(command: F) -> F:
    """Add --state, --ledger and --config: which server on this machine a command is about."""
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
    with server_parts():
        from umrgen.server.settings import Settings

    return Settings.load({"state": state, "ledger": ledger}, os.environ, config)


def json_option(command: F) -> F:
    """Adds --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")(command)


def connection_options(command: F) -> F:
    """Adds what tells the server and how long to wait."""
    for option in (
        click.option("--base-url", help="The server's address; otherwise UMRGEN_BASE_URL."),
        click.option("--timeout", type=float, help="Seconds for everything together (600).", metavar="SECONDS"),
    ):
        command = option(command)
    return command


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns as wide as what is in them."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def run(output: Output, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run asynchronous `work`; end the process with its exit code if it is not 0."""
    import asyncio  # the quickest commands do without it

    guarded(output, lambda: asyncio.run(work()))


def guarded(output: Output, work: Callable[[], None]) -> None:
    """Do `work`; tell its error and end the process with the error's exit code."""
    try:
        work()
    except errors.UmrgenError as error:
        sys.exit(output.failure(error))
    except KeyboardInterrupt:
        sys.exit(output.interrupted())


def client_arguments(base_url: str | None, timeout: float | None) -> dict[str, Any]:
    """Arguments of `AsyncClient` from the connection options."""
    return {"base_url": base_url} | ({} if timeout is None else {"timeout": timeout})
