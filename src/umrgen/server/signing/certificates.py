"""The certificate and the key that sign images: read from their files, and checked as a validator would."""

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["BadCredentials", "CredentialFiles", "Credentials"]

LARGEST_FILE = 1 << 20
"""Bytes of a PEM file that is read."""
C2PA_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""The extended key usage c2pa-kp-claimSigning, of certificates in the C2PA conformance program."""
_PURPOSES = {
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "email protection",
    ExtendedKeyUsageOID.CODE_SIGNING: "code signing",
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36"): "document signing",
    C2PA_SIGNING: "C2PA claim signing",
}
_FOR_SIGNING = {*_PURPOSES} - {ExtendedKeyUsageOID.CODE_SIGNING}


class BadCredentials(Exception):
    """The certificate or the key cannot sign. The message has no path, and nothing of the key."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate chain and its key, which belong together."""

    certificates: tuple[x509.Certificate, ...]
    """The signer's first."""
    chain: bytes = field(repr=False)
    """As PEM."""
    key: bytes = field(repr=False)
    """As PEM. It is never part of a log line or an error."""

    @property
    def expires(self) -> datetime:
        """The first time at which a certificate of the chain is no longer valid."""
        return min(each.not_valid_after_utc for each in self.certificates)

    def check_dates(self, now: datetime | None = None) -> None:
        """Raise BadCredentials outside of the dates of a certificate."""
        now = now or datetime.now(UTC)
        begins = max(each.not_valid_before_utc for each in self.certificates)
        if now < begins:
            raise BadCredentials(f"the certificate is valid from {begins:%Y-%m-%d %H:%M} UTC only")
        if now > self.expires:
            raise BadCredentials(f"the certificate expired on {self.expires:%Y-%m-%d %H:%M} UTC")

    def facts(self) -> dict[str, str]:
        """Return what a validator sees of the certificate, by name."""
        leaf, last = self.certificates[0], self.certificates[-1]
        root = last.subject if last.subject == last.issuer else last.issuer
        return {
            "signer": _common_name(leaf.subject),
            "issuer": _common_name(leaf.issuer),
            "valid": f"{leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}",
            "key use": ", ".join(_PURPOSES.get(each, each.dotted_string) for each in _purposes(leaf)) or "none",
            "chain": f"{len(self.certificates)} certificates, up to {_common_name(root)}",
        }


class CredentialFiles:
    """The two PEM files. They are read again when one of them has changed."""

    def __init__(self, certificate: str, key: str) -> None:
        self._paths = (Path(certificate), Path(key))
        self._state: object = None
        self._credentials: Credentials | None = None

    def read(self) -> Credentials:
        """Return the credentials; the same object until a file changes. Raises BadCredentials."""
        state = [_state(path, what) for path, what in zip(self._paths, ("certificate", "key"), strict=True)]
        if self._credentials is None or state != self._state:
            self._credentials = None
            self._credentials, self._state = _credentials(*self._paths), state
        return self._credentials


def _state(path: Path, what: str) -> tuple[int, ...]:
    """Return what changes with a file. Raises BadCredentials for one that is missing, or a key that others can read."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadCredentials(f"the {what} file cannot be read: {error.strerror}") from None
    if what == "key" and stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise BadCredentials(f"other users can read the key file, which has mode {mode:04o}: chmod 600 it")
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _credentials(certificate: Path, key: Path) -> Credentials:
    chain, secret = _content(certificate, "certificate"), _content(key, "key")
    certificates = _certificates(chain)
    _check_key(secret, certificates[0])
    _check_use(certificates[0])
    _check_chain(certificates)
    return Credentials(certificates, chain, secret)


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadCredentials(f"the {what} file cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(data) > LARGEST_FILE or b"\0" in data:
        raise BadCredentials(f"the {what} file is not PEM")
    return data


def _certificates(chain: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(chain))
    except ValueError:
        raise BadCredentials("the certificate file has no certificates in PEM form") from None


def _check_key(secret: bytes, leaf: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(secret, None)
    except TypeError:
        raise BadCredentials("the key file has a passphrase; the key must have none") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadCredentials("the key file has no private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCredentials("the key must be one of the curve P-256, for signatures by ES256")
    if key.public_key() != leaf.public_key():
        raise BadCredentials("the key does not belong to the first certificate of the certificate file")


def _purposes(leaf: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def _check_use(leaf: x509.Certificate) -> None:
    """Raise BadCredentials for a certificate that validators of C2PA refuse (C2PA 2.4, section 14.5)."""
    try:
        may_sign = leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except (x509.ExtensionNotFound, ValueError):
        may_sign = False
    if not may_sign:
        raise BadCredentials("the certificate is not for digital signatures: its key usage does not have them")
    if not _FOR_SIGNING.intersection(_purposes(leaf)):
        raise BadCredentials("the certificate is not for signing content: its extended key usage has no such purpose")


def _check_chain(certificates: tuple[x509.Certificate, ...]) -> None:
    for each, issuer in pairwise(certificates):
        try:
            each.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise BadCredentials("the certificates are not a chain: each must be issued by the next") from None


def _common_name(name: x509.Name) -> str:
    parts = [*name.get_attributes_for_oid(NameOID.COMMON_NAME), *name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return ", ".join(str(part.value) for part in parts) or "unnamed"
