"""`umrgen provenance`: the certificate that signs the images of a server on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import CommandOutput, exit_on_error, json_option
from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.server.signing.check import SigningCheck

__all__ = ["provenance"]

UNTRUSTED = (
    "This certificate is for trying out: other validators will report the signer as untrusted, because they do not "
    "have its root. How to get another: docs/provenance.md."
)


@contextmanager
def signing_packages() -> Iterator[None]:
    """Translate the ImportError of a missing package to a UmrgenError with a remedy."""
    try:
        yield
    except ImportError as missing:
        raise UmrgenError(
            f"the packages for signing are not installed: {missing.name} is missing",
            next="pip install 'umrgen[server,c2pa]'",
        ) from None


@click.group()
def provenance() -> None:
    """Make and check the certificate that signs images."""


@provenance.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@json_option
def init(folder: Path, as_json: bool) -> None:
    """Make a private root and a certificate under it in DIR, for trying out signatures."""
    output = CommandOutput(as_json, False)

    def work() -> None:
        with signing_packages():
            from umrgen.server.signing.trial import write_trial

        files = write_trial(folder)
        use = f"umrgen serve --signing-certificate {files['certificate.pem']} --signing-key {files['key.pem']}"
        listed = "\n".join(str(path) for path in files.values())
        check = f"umrgen verify --trust {files['root.pem']} FILE"
        data = {"files": [str(path) for path in files.values()], "trusted": False, "note": UNTRUSTED}
        output.result(data, f"{listed}\n\n{UNTRUSTED}\n\nUse it:    {use}\nCheck:     {check}")

    exit_on_error(output, work)


@provenance.command()
@click.option("--config", type=click.Path(path_type=Path), envvar="UMRGEN_CONFIG", help="A settings file.")
@click.option("--signing-certificate", help="The PEM file.  [env var: UMRGEN_SIGNING_CERTIFICATE]")
@click.option("--signing-key", help="The PEM file.  [env var: UMRGEN_SIGNING_KEY]")
@click.option("--signing-authority", help="The URL.  [env var: UMRGEN_SIGNING_AUTHORITY]")
@json_option
def check(as_json: bool, config: Path | None, **flags: Any) -> None:
    """Sign a small image with the configured certificate, and print what a validator reports of it.

    Exit code 1 when it cannot sign.
    """
    output = CommandOutput(as_json, False)

    def work() -> None:
        with signing_packages():
            from umrgen.server.settings import Settings
            from umrgen.server.signing.check import check_signing

        settings = Settings.load(flags, os.environ, config)
        if settings.signing is None:
            raise UmrgenError(
                "no certificate is configured, so images are not signed",
                code="not_configured",
                next="Set signing_certificate and signing_key, or make both: umrgen provenance init DIR",
            )
        found = check_signing(settings.signing)
        output.result(found.as_dict(), _as_text(found))

    exit_on_error(output, work)


def _as_text(found: "SigningCheck") -> str:
    sample = f"{found.milliseconds:.0f} ms for a small image, read back: {found.manifest.reason}"
    rows = found.facts | {"sample": sample}
    return "\n".join(f"{name:9} {value}" for name, value in rows.items())
