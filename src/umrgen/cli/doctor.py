"""`umrgen doctor`."""

import asyncio
import json
import sys
from pathlib import Path

import click

__all__ = ["doctor"]

_MARKS = {"good": ("✓", "green"), "bad": ("✗", "red"), "note": ("·", "yellow")}


@click.command()
@click.option("--base-url", help="The server's address. [UMRGEN_BASE_URL]")
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
def doctor(base_url: str | None, folder: Path, draw: bool, as_json: bool) -> None:
    """Check the address, the key, the clock, the folder and the server. Creates a job only with --draw."""
    from umrgen.client.diagnostics import Check, configured_address, run_checks

    url, key = configured_address()
    url = base_url or url
    checks: list[Check] = []

    def report(check: Check) -> None:
        checks.append(check)
        if not as_json:
            mark, colour = _MARKS[check.verdict]
            click.echo(f"{click.style(mark, fg=colour)} {check.name:9} {check.message}")
            if check.remedy:
                click.echo(f"  {'':9} → {check.remedy}")

    async def work() -> None:
        async for check in run_checks(url, key, folder):
            report(check)
        if draw and not any(check.verdict == "bad" for check in checks):
            report(await _draw(url))

    async def _draw(url: str | None) -> Check:
        from tempfile import TemporaryDirectory

        from umrgen.client.async_client import AsyncClient
        from umrgen.errors import UmrgenError

        try:
            async with AsyncClient(url, timeout=120, journal=None) as client:
                with TemporaryDirectory() as folder:
                    image = await client.generate("a small test image", folder, width=512, height=512, steps=1)
        except UmrgenError as error:
            return Check("picture", "bad", str(error), error.next)
        return Check("picture", "good", f"an image of {image.bytes} bytes was drawn, fetched and verified")

    asyncio.run(work())
    bad = any(check.verdict == "bad" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not bad, "checks": [check.as_dict() for check in checks]}))
    sys.exit(1 if bad else 0)
