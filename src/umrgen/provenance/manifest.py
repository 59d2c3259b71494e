"""The C2PA manifest of an image: its signer, whether it is for these bytes, and whether the signer is trusted.

The library of the extra `umrgen[c2pa]` checks it; without the library, only its presence is known. It is checked
offline: no manifest, revocation list or time-stamp is fetched.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umrgen.errors import OutputCorrupt
from umrgen.image_files import sniff
from umrgen.provenance.containers import manifest_size
from umrgen.provenance.record import SOURCE_TYPES, Provenance
from umrgen.text import printable

__all__ = ["ASSERTION", "GENERATED", "MAX_MANIFEST", "Manifest", "examine"]

ASSERTION = "org.umrgen.provenance"
"""The label of the assertion that contains the record."""
MAX_MANIFEST = 16 << 20
"""Bytes of a manifest that is checked; one with four ingredients and their thumbnails has less than 1 MiB."""
GENERATED = frozenset(
    ("trainedAlgorithmicMedia", "algorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic")
)
"""IPTC's terms for images that a program made, or made a part of."""
INSTALL = "It was not checked: pip install 'umrgen[c2pa]'."
_EXPIRED = ("signingCredential.expired", "claimSignature.outsideValidity")
_REVOKED = ("signingCredential.revoked", "signingCredential.ocsp.revoked")
_UNKNOWN = ("signingCredential.untrusted",)
_OTHER_SIGNER = ("signingCredential.invalid",)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The result of checking the C2PA manifest of a file."""

    present: bool = False
    valid: bool | None = None
    """Whether signature and hashes are right, and the signer's certificate could sign; None: it was not checked."""
    signer: str | None = None
    """The names in the certificate, which are proved by `trusted` only."""
    trusted: bool = False
    """Whether the certificate leads to one of the caller's roots."""
    reason: str = ""
    """One sentence for people; empty without a manifest."""
    intact: bool = False
    """Whether signature and hashes are right: it was made for these bytes, by the owner of the certificate's key."""
    source_type: str | None = None
    """IPTC's term for how the image was made, as the manifest states it."""
    record: Provenance | None = None

    def as_dict(self) -> dict[str, Any]:
        names = ("present", "valid", "signer", "trusted", "reason")
        return {name: getattr(self, name) for name in names}


def examine(data: bytes, roots: str = "") -> Manifest:
    """Check the manifest of an image. `roots`: certificates of trusted signers as PEM. Never raises."""
    size = _size(data)
    if not size:
        return Manifest()
    if size > MAX_MANIFEST:
        return _refused(f"The C2PA manifest has {size} bytes; more than {MAX_MANIFEST} are not read.")
    try:
        import c2pa as library
    except (ImportError, OSError, RuntimeError):
        return Manifest(True, reason=f"There is a C2PA manifest. {INSTALL}")
    # The library refuses a list with a damaged root before it reads the image.
    return (
        (_checked(library, data, roots) if roots else None)
        or _checked(library, data, "")
        or _refused("The C2PA manifest cannot be read: it is damaged.")
    )


def _checked(library: Any, data: bytes, roots: str) -> Manifest | None:
    """Return the result of the library; None when it cannot read the manifest, or the roots."""
    verify = {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}
    settings = {"verify": verify} | ({"trust": {"trust_anchors": roots}} if roots else {})
    try:
        context = library.Context.from_dict(settings)
        with context, library.Reader(sniff(data[:16]), io.BytesIO(data), context=context) as reader:
            return _judged(json.loads(reader.json()))
    except (library.C2paError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _size(data: bytes) -> int:
    try:
        return manifest_size(data)
    except (OutputCorrupt, ValueError, IndexError):
        return 0


def _refused(reason: str) -> Manifest:
    return Manifest(True, False, reason=reason)


def _judged(store: Mapping[str, Any]) -> Manifest:
    """Return the result for what the library reports."""
    active = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    codes = {str(each.get("code")) for each in results.get("failure", [])}
    trusted = store.get("validation_state") == "Trusted" and not codes
    signer = _signer(active)
    intact, valid, reason = _verdict(codes, trusted, signer or "an unnamed signer")
    return Manifest(True, valid, signer, trusted, reason, intact, _source_type(active), _record(active))


def _verdict(codes: set[str], trusted: bool, signer: str) -> tuple[bool, bool, str]:
    """Return whether it is intact, whether it is valid, and the reason."""
    wrong = codes - {*_EXPIRED, *_REVOKED, *_UNKNOWN, *_OTHER_SIGNER}
    if any(code.endswith(".mismatch") for code in wrong):
        return False, False, f"It is not the file that {signer} signed: it was changed since."
    if wrong:
        return False, False, f"The C2PA manifest is not valid: {printable(min(wrong))}."
    if codes.intersection(_REVOKED):
        return True, False, f"It was signed by {signer}, with a certificate that was revoked."
    if codes.intersection(_EXPIRED):
        return True, False, f"It was signed by {signer}, with a certificate that had expired."
    if codes.intersection(_OTHER_SIGNER):
        return True, False, f"It was signed by {signer}, but that certificate, or the time-stamp's, is not for C2PA."
    if trusted:
        return True, True, f"It was signed by {signer}, which is trusted."
    return True, True, f"It was signed by {signer}, which is not known as trusted."


def _signer(active: Mapping[str, Any]) -> str | None:
    info = active.get("signature_info") or {}
    names = [printable(info[name])[:100] for name in ("common_name", "issuer") if isinstance(info.get(name), str)]
    return ", ".join(dict.fromkeys(name for name in names if name)) or None


def _assertions(active: Mapping[str, Any], label: str) -> list[Any]:
    found = active.get("assertions", [])
    return [each.get("data") for each in found if str(each.get("label")).startswith(label)]


def _source_type(active: Mapping[str, Any]) -> str | None:
    for data in _assertions(active, "c2pa.actions"):
        for action in data.get("actions", []):
            if str(term := action.get("digitalSourceType")).startswith(SOURCE_TYPES):
                return printable(term.removeprefix(SOURCE_TYPES))[:100]
    return None


def _record(active: Mapping[str, Any]) -> Provenance | None:
    found = _assertions(active, ASSERTION)
    return Provenance.from_json(json.dumps(found[0])) if found else None
