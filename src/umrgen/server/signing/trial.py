"""A private root and a certificate under it, for trying out signatures; validators report them as untrusted."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from umrgen.durable import make_folder
from umrgen.errors import UmrgenError

__all__ = ["DAYS", "make_trial", "write_trial"]

DAYS = 397
"""Days for which the certificate is valid; the root, whose key is not kept, as long."""
ORGANIZATION = "UMRGEN trial"


def make_trial(begins: datetime | None = None, days: float = DAYS) -> tuple[bytes, bytes, bytes]:
    """Return the chain, its key and the root, each as PEM. The root's key is not kept: it signs one certificate."""
    begins = begins or datetime.now(UTC) - timedelta(hours=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = _name("UMRGEN trial root")
    dates = (begins, begins + timedelta(days=days))
    signing = {"digital_signature": True}
    root = _certificate(root_name, root_name, root_key, root_key, dates, {"key_cert_sign": True, "crl_sign": True})
    leaf = _certificate(_name("UMRGEN trial signer"), root_name, key, root_key, dates, signing)
    root_pem = root.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return leaf.public_bytes(serialization.Encoding.PEM) + root_pem, secret, root_pem


def write_trial(folder: Path) -> dict[str, Path]:
    """Write certificate.pem, key.pem (mode 0600) and root.pem. Raises UmrgenError when one of them is there already."""
    names = ("certificate.pem", "key.pem", "root.pem")
    if there := [name for name in names if (folder / name).exists()]:
        raise UmrgenError(
            f"{folder / there[0]} is there already, and is not replaced",
            code="exists",
            next="Give another folder, or remove the files.",
        )
    try:
        make_folder(folder, mode=0o700)
        for name, content in zip(names, make_trial(), strict=True):
            _write(folder / name, content, 0o600 if name == "key.pem" else 0o644)
    except OSError as error:
        raise UmrgenError(f"the folder {folder} cannot be written: {error.strerror}", code="target_unusable") from None
    return {name: folder / name for name in names}


def _write(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def _name(common: str) -> x509.Name:
    values = ((NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, ORGANIZATION))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in values])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    dates: tuple[datetime, datetime],
    uses: dict[str, bool],
) -> x509.Certificate:
    is_root = subject == issuer
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    others = ("decipher_only", "digital_signature", "key_cert_sign", "crl_sign")
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), *dates)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**(dict.fromkeys((*names, *others), False) | uses)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_root:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
