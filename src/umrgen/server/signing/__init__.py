"""Signing images with the operator's certificate: C2PA manifests, made by the library of the extra `umrgen[c2pa]`."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from umrgen import __version__
from umrgen.image_files import sniff
from umrgen.provenance.manifest import ASSERTION
from umrgen.provenance.record import SOURCE_TYPES, Provenance
from umrgen.server.signing.ingredients import SETTINGS, label_of
from umrgen.text import printable

if TYPE_CHECKING:
    from umrgen.server.signing.certificates import Credentials

__all__ = ["ManifestSigner", "SigningFailed", "SigningOptions"]


class SigningFailed(Exception):
    """An image cannot be signed. The message is for callers: it has no path, and nothing of the key."""


@dataclass(frozen=True, slots=True)
class SigningOptions:
    """The operator's settings for signing. Only names of files: the key itself is read where it signs."""

    certificate: str
    """A PEM file: the signer's certificate first, then those up to the root."""
    key: str
    """A PEM file with the certificate's private key."""
    authority: str = ""
    """The URL of a time-stamp authority (RFC 3161), or "": then a signature is valid as long as the certificate."""
    required: bool = False
    """Whether an image that cannot be signed is an error, and no image without a signature."""

    def to_json(self) -> str:
        names = ("certificate", "key", "authority", "required")
        return json.dumps({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, text: str) -> "SigningOptions | None":
        """Return the options; None for "null"."""
        data = json.loads(text)
        return cls(**data) if data is not None else None


class ManifestSigner:
    """Signs images. The files are read again when they change, so that a certificate is renewed without a restart."""

    def __init__(self, options: SigningOptions) -> None:
        from umrgen.server.signing.certificates import CredentialFiles

        self.options = options
        self._files = CredentialFiles(options.certificate, options.key)
        self._loading = threading.Lock()
        self._loaded: tuple[Credentials, Any] | None = None

    def credentials(self, now: datetime | None = None) -> "Credentials":
        """Return the certificate and key, checked for this time, or the present.

        Raises SigningFailed when they are unreadable, expired, or not for signing.
        """
        from umrgen.server.signing.certificates import BadCredentials

        try:
            found = self._files.read()
            found.check_dates(now)
        except BadCredentials as error:
            raise SigningFailed(str(error)) from None
        return found

    def sign(
        self,
        data: bytes,
        record: Provenance | None,
        references: Sequence[bytes] = (),
        archives: Sequence[bytes] = (),
        *,
        original: bytes | None = None,
    ) -> bytes:
        """Return the image with a signed manifest. `original`: the signed image that this one was converted from.

        `references` become ingredients; the manifests that they have are kept. So are those in `archives`, of the
        references in their order (b"": none). Raises SigningFailed.
        """
        signer, media_type = self._signer(), sniff(data[:16]) or ""
        ingredients = _references(references, archives)
        manifest = _manifest(record, [each.label for each in ingredients])
        if original is not None:
            manifest["assertions"][0]["data"]["actions"] = _conversion_actions(record)
            ingredients = [_Ingredient("original", "parentOf", "original", original)]
        return _signed(signer, manifest, media_type, data, ingredients)

    def _signer(self) -> Any:
        """Return the library's signer of the files as they are now."""
        with self._loading:
            found = self.credentials()
            if self._loaded is None or self._loaded[0] is not found:
                self._loaded = (found, _library_signer(found, self.options.authority))
            return self._loaded[1]


@dataclass(frozen=True, slots=True)
class _Ingredient:
    """An image that another one was made from."""

    title: str
    relationship: str
    label: str
    """By which an action refers to it."""
    image: bytes
    archive: BytesIO | None = None
    """Of its manifest, instead of the image."""

    def add_to(self, builder: Any) -> None:
        if self.archive is not None:
            builder.add_ingredient_from_archive(self.archive)
            return
        described = {"title": self.title, "relationship": self.relationship, "label": self.label}
        builder.add_ingredient(described, sniff(self.image[:16]) or "", BytesIO(self.image))


def _references(images: Sequence[bytes], archives: Sequence[bytes]) -> list[_Ingredient]:
    """Return the ingredients for reference images; an image that is used twice with its archive is one."""
    found: dict[str, _Ingredient] = {}
    for at, image in enumerate(images):
        label, archive = f"reference-{at + 1}", None
        if at < len(archives) and archives[at]:
            label, archive = label_of(archives[at])
        found[label] = _Ingredient(f"reference {at + 1}", "inputTo", label, image, archive)
    return list(found.values())


def _library_signer(credentials: "Credentials", authority: str) -> Any:
    try:
        from c2pa import C2paError, C2paSignerInfo, Signer
    except (ImportError, OSError, RuntimeError):  # it is a shared library, which may not fit to the system
        raise SigningFailed("the library for C2PA cannot be loaded") from None
    try:
        info = C2paSignerInfo(b"es256", credentials.chain, credentials.key, authority or None)
        return Signer.from_info(info)
    except (C2paError, ValueError):
        raise SigningFailed("the certificate and its key cannot sign") from None


def _signed(
    signer: Any, manifest: dict[str, Any], media_type: str, data: bytes, ingredients: Sequence[_Ingredient]
) -> bytes:
    from c2pa import Builder, C2paError, Context

    target = BytesIO()
    try:
        with Context.from_dict(SETTINGS) as context, Builder.from_json(manifest, context=context) as builder:
            for ingredient in ingredients:
                ingredient.add_to(builder)
            builder.sign(signer, media_type, BytesIO(data), target)
    except (C2paError, ValueError) as error:
        raise SigningFailed(_why(error)) from None
    return target.getvalue()


def _why(error: Exception) -> str:
    """Return the library's reason, without what a key or an answer of another server could put into it."""
    text = printable(str(error))[:200]
    if "timestamp" in text.lower() or "time stamp" in text.lower() or "http" in text.lower():
        return "the time-stamp authority did not answer as it must"
    return "the certificate was not valid when it signed" if "not valid at time" in text else "the library refused it"


def _manifest(record: Provenance | None, references: Sequence[str]) -> dict[str, Any]:
    """Return the manifest's definition: the image was created by this program, from these references (labels)."""
    action: dict[str, Any] = {"action": "c2pa.created"} | _origin(record)
    if references:
        action["parameters"] = {"ingredientIds": references}
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    if record is not None:
        assertions.append({"label": ASSERTION, "data": _encodable(record.to_json())})
    generator = {"name": "UMRGEN", "version": __version__}
    title = {"title": record.job_id} if record is not None and record.job_id else {}
    return {"claim_generator_info": [generator], "assertions": assertions} | title


def _encodable(text: str) -> Any:
    """Return the values of a JSON text; characters that are none, which a prompt can have, are replaced."""
    return json.loads(text.encode("utf-8", "replace"))


def _conversion_actions(record: Provenance | None) -> list[dict[str, Any]]:
    """Return the actions of an image that was converted to another format."""
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["original"]}}
    return [opened, {"action": "c2pa.converted"} | _origin(record)]


def _origin(record: Provenance | None) -> dict[str, Any]:
    """Return the source type and the software agent of an action."""
    if record is None:
        return {}
    name = " ".join(part for part in ("UMRGEN", record.engine, record.model) if part)
    agent = {"name": name, "version": record.engine_version or __version__}
    return {"digitalSourceType": SOURCE_TYPES + record.source_type, "softwareAgent": agent}
