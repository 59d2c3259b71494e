"""`umrgen provenance check`: what a validator reports of an image that the configured certificate signed."""

import time
from dataclasses import dataclass
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.provenance import Manifest, Provenance, inspect, mark
from umrgen.server.png import encode_png
from umrgen.server.signing import ManifestSigner, SigningFailed, SigningOptions

__all__ = ["SigningCheck", "check_signing"]


@dataclass(frozen=True, slots=True)
class SigningCheck:
    """The certificate as a validator sees it, and what it reports of a sample."""

    facts: dict[str, str]
    manifest: Manifest
    """Of the sample; without a list of roots, so that its signer is not trusted."""
    milliseconds: float
    """The time to sign the sample, without that to load the library."""

    def as_dict(self) -> dict[str, Any]:
        return self.facts | {"sample": self.manifest.as_dict(), "milliseconds": round(self.milliseconds, 1)}


def check_signing(options: SigningOptions) -> SigningCheck:
    """Sign one small image, and read it back. Raises UmrgenError with the reason why that failed."""
    import numpy

    signer, record = ManifestSigner(options), Provenance("algorithmicMedia", engine="check")
    sample = mark(encode_png(numpy.zeros((64, 64, 3), numpy.uint8)), record)
    try:
        facts = signer.credentials().facts()
        signer.sign(sample, record)
        began = time.perf_counter()
        signed = signer.sign(sample, record)
        milliseconds = (time.perf_counter() - began) * 1000
    except SigningFailed as error:
        raise UmrgenError(
            f"images cannot be signed: {error}",
            code="signing_failed",
            next="See docs/provenance.md, or make a certificate for trying out: umrgen provenance init DIR",
        ) from None
    manifest = inspect(signed).manifest
    if not manifest.valid:
        raise UmrgenError(f"the signed sample is not valid: {manifest.reason}", code="signing_failed")
    return SigningCheck(facts, manifest, milliseconds)
