"""`umrgen doctor`."""

import json
import sys
from pathlib import Path

import click

from umrgen.cli.cells import terminal_columns
from umrgen.cli.common import CommandOutput, run
from umrgen.cli.connection import ConnectionOptions, address_options

__all__ = ["doctor"]

INDENT = 12
"""The columns of the mark and the name of a check."""
_MARKS = {"good": ("✓", "green"), "bad": ("✗", "red"), "note": ("·", "yellow")}


@click.command()
@address_options
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder for images.",
)
@click.option("--draw", is_flag=True, help="Also draw a small image, which creates a job.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def doctor(connection: ConnectionOptions, folder: Path, draw: bool, as_json: bool) -> None:
    """Check this machine (folder, disk, journal, profiles, proxy) and the server (address, key, clock, version).

    Each failure is printed with its remedy, and exit code 1. A job is created only with --draw.
    """
    from umrgen.client.diagnostics import Check, run_checks

    output = CommandOutput(as_json, as_events=False)
    checks: list[Check] = []

    def report(check: Check) -> None:
        checks.append(check)
        if not as_json:
            mark, colour = _MARKS[check.verdict]
            click.echo(f"{click.style(mark, fg=colour)} {check.name:9} {_wrapped(check.message)}")
            if check.remedy:
                click.echo(f"{'':{INDENT}}→ {_wrapped(check.remedy)}")

    async def work() -> None:
        async for check in run_checks(connection.choice(), folder):
            report(check)
        if draw and not any(check.verdict == "bad" for check in checks):
            report(await _draw())

    async def _draw() -> Check:
        from tempfile import TemporaryDirectory

        from umrgen.client.async_client import AsyncClient
        from umrgen.errors import UmrgenError

        try:
            async with AsyncClient(journal=None, **connection.arguments() | {"timeout": 120}) as client:
                with TemporaryDirectory() as folder:
                    image = await client.generate("a small test image", folder, width=512, height=512, steps=1)
        except UmrgenError as error:
            return Check("picture", "bad", str(error), error.next)
        return Check("picture", "good", f"an image of {image.bytes} bytes was drawn, fetched and verified")

    run(output, work)
    bad = any(check.verdict == "bad" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "checks": [check.as_dict() for check in checks]}))
    sys.exit(1 if bad else 0)


def _wrapped(text: str) -> str:
    """Return a text with line breaks and an indentation for the terminal; unchanged elsewhere."""
    if not sys.stdout.isatty():
        return text
    width = max(20, terminal_columns(sys.stdout) - INDENT - 2)
    return click.wrap_text(text, width).replace("\n", "\n" + " " * INDENT)
