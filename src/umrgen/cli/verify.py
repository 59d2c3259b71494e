"""`umrgen verify` and `umrgen show`: what image files state of themselves."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import CommandOutput, exit_on_error, json_option
from umrgen.cli.display import display, display_option
from umrgen.errors import UmrgenError
from umrgen.text import printable

if TYPE_CHECKING:
    from umrgen.provenance import Provenance, Verification

__all__ = ["show", "verify"]

EXIT_CODES = {"marked": 0, "changed": 8, "none": 9}
"""By the mark; of several files, the highest counts."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A PEM file with the root certificates of the signers to trust.",
)
@json_option
def verify(files: tuple[Path, ...], trust: Path | None, as_json: bool) -> None:
    """Check whether each FILE states that a program made it, its signature, and whether it was changed since.

    Exit codes: 0 marked, 8 marked and changed since, 9 no mark found, which proves nothing.
    """
    output = CommandOutput(as_json, False)
    found: list[tuple[Path, Verification]] = []

    def work() -> None:
        found.extend((file, _inspected(file, trust)) for file in files)
        data = [{"file": str(file)} | one.as_dict() for file, one in found]
        text = "\n".join(f"{printable(str(file))}: {one.mark}. {printable(one.reason)}" for file, one in found)
        output.result({"files": data}, text)

    exit_on_error(output, work)
    sys.exit(max(EXIT_CODES[one.mark] for _, one in found))


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@display_option
@json_option
def show(file: Path, displayed: bool | None, as_json: bool) -> None:
    """Print how the image FILE was made: prompt, seed, size, steps, engine, model, references, job.

    A terminal that can show images shows it too.
    """
    output = CommandOutput(as_json, False)

    def work() -> None:
        found = _inspected(file)
        if found.record is None:
            raise UmrgenError(f"{file} does not say how it was made: {found.reason.rstrip('.')}", code="no_record")
        signature = f"\n{'signature':10} {printable(found.manifest.reason)}" if found.manifest.present else ""
        output.result({"file": str(file)} | found.as_dict(), _described(found.record) + signature)
        if not as_json:
            display([file], displayed)

    exit_on_error(output, work)


def _inspected(file: Path, trust: Path | None = None) -> "Verification":
    from umrgen.provenance import verify as verify_file

    return verify_file(file, trust=trust)


def _described(record: "Provenance") -> str:
    size = f"{record.width} × {record.height}" if record.width and record.height else None
    rows = {
        "prompt": record.prompt if record.prompt is not None else "(not in the file)",
        "negative": record.negative,
        "seed": record.seed,
        "size": size,
        "steps": record.steps,
        "cfg": record.cfg,
        "engine": " ".join(part for part in (record.engine, record.engine_version) if part),
        "model": " ".join(part for part in (record.model, record.revision) if part),
        "LoRAs": ", ".join(f"{name} ({strength:g})" for name, strength in record.loras),
        "references": ", ".join(f"sha256 {digest}" for digest in record.references),
        "batch": f"{record.batch} images were drawn together" if record.batch > 1 else None,
        "job": record.job_id,
        "source": record.source_type,
    }
    return "\n".join(f"{name:10} {printable(str(value))}" for name, value in rows.items() if value not in (None, ""))
