"""`umrgen verify` and `umrgen show`: the marks in image files, and the registry of the server."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import CommandOutput, exit_on_error, json_option
from umrgen.cli.connection import ConnectionOptions, connection_options
from umrgen.cli.display import display, display_option
from umrgen.errors import InvalidRequest, UmrgenError, Unsupported
from umrgen.text import printable

if TYPE_CHECKING:
    from umrgen.client.descriptions import ServerVerification
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
@click.option("--offline", is_flag=True, help="Send the files to no server, although one is configured.")
@connection_options
@json_option
def verify(
    files: tuple[Path, ...],
    trust: Path | None,
    offline: bool,
    connection: ConnectionOptions,
    as_json: bool,
) -> None:
    """Check whether each FILE states that a program made it, its signature, and whether it was changed since.

    If a server is configured (by an option, UMRGEN_BASE_URL or `umrgen login`), it is asked whether it made the image,
    also when the marks were removed. It gets each file, and stores none.

    Exit codes are those of the marks in the files: 0 marked, 8 marked and changed since, 9 no mark found, which proves
    nothing. If the server cannot be asked, the result is that of the files alone, and the exit code that of the error.
    """
    if offline and (connection.base_url or connection.profile):
        raise click.UsageError("--offline excludes --base-url and --profile, which name a server.")
    output = CommandOutput(as_json, False)
    found: list[_Checked] = []

    def work() -> None:
        found.extend(_Checked(file, _inspected(file, trust)) for file in files)
        failure = None if offline or not connection.configured else asyncio.run(_ask(found, connection))
        output.result({"files": [one.as_dict() for one in found]}, "\n".join(one.text for one in found))
        if failure is not None:
            raise failure

    exit_on_error(output, work)
    sys.exit(max(EXIT_CODES[one.marks.mark] for one in found))


@dataclass(slots=True)
class _Checked:
    """One file, and the result of its check."""

    file: Path
    marks: "Verification"
    server: "ServerVerification | None" = None
    refusal: str = ""
    """Why the server did not check it."""

    def as_dict(self) -> dict[str, Any]:
        server = self.server.as_dict() if self.server else {"error": self.refusal} if self.refusal else None
        return {"file": str(self.file)} | self.marks.as_dict() | {"server": server}

    @property
    def text(self) -> str:
        mark = "" if self.marks.mark == "none" else f"{self.marks.mark}. "  # the reason says it
        line = f"{printable(str(self.file))}: {mark}{printable(self.marks.reason)}"
        server = _registered(self.server) if self.server else self.refusal and f"The server refused it: {self.refusal}."
        return f"{line} {server}".rstrip()


async def _ask(checked: "Sequence[_Checked]", connection: ConnectionOptions) -> UmrgenError | None:
    """Have the server verify each file; return the error for which it cannot be asked about the rest of them."""
    from umrgen.client.async_client import AsyncClient

    async with AsyncClient(**connection.arguments(), journal=None) as client:
        for one in checked:
            try:
                one.server = await client.verify(one.file)
            except (InvalidRequest, Unsupported) as error:
                one.refusal = str(error).rstrip(".")
            except UmrgenError as error:
                return error
    return None


def _registered(found: "ServerVerification") -> str:
    """Return a sentence about the answer of the server, and one about the watermark if there is one."""
    return f"{_made_here(found)}{f' Its pixels have the watermark {found.watermark}.' * bool(found.watermark)}"


def _made_here(found: "ServerVerification") -> str:
    if found.made_here == "no":
        return "The server does not know it, which proves nothing."
    what = "this file" if found.made_here == "exact" else f"a similar image ({found.distance} of 256 bits differ)"
    when = f" on {found.created_at:%Y-%m-%d}" if found.created_at else ""
    job = f", by the job {found.job_id}" if found.job_id else ""
    return f"The server made {what}{when}{job}."


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
            raise UmrgenError(f"{file} does not say how it was made. {found.reason}", code="no_record")
        signature = f"\n{'signature':10} {printable(found.manifest.reason)}" if found.manifest.present else ""
        output.result({"file": str(file)} | found.as_dict(), _described(found.record) + signature)
        if not as_json:
            display([file], displayed)

    exit_on_error(output, work)


def _inspected(file: Path, trust: Path | None = None) -> "Verification":
    from umrgen.provenance import verify as verify_file

    return verify_file(file, trust=trust)


MAKERS = {"trainedAlgorithmicMedia": "a model", "algorithmicMedia": "a program without a model"}
"""What IPTC's source types mean; another one is printed as it is."""


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
        "made by": MAKERS.get(record.source_type, record.source_type),
    }
    return "\n".join(f"{name:10} {printable(str(value))}" for name, value in rows.items() if value not in (None, ""))
