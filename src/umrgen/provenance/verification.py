"""What a file states of itself, and whether its pixels are those for which this was written."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from umrgen.errors import OutputCorrupt
from umrgen.image_files import png_texts, sniff
from umrgen.provenance.a1111 import parameters_of
from umrgen.provenance.containers import content_digest, packets
from umrgen.provenance.manifest import GENERATED, Manifest, examine
from umrgen.provenance.record import Provenance
from umrgen.provenance.xmp import digest_of, record_of, source_type_of

__all__ = ["Mark", "Verification", "inspect", "unsigned_marks"]


class Mark(StrEnum):
    """What the marks of a file say."""

    MARKED = "marked"
    """Made by a program, and the pixels are those that were marked."""
    CHANGED = "changed"
    """Made by a program, and changed since, or marked by another tool in a way that does not cover the pixels."""
    NONE = "none"
    """No mark was found, which proves nothing: a mark is removed by a screenshot."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `inspect`."""

    mark: Mark
    record: Provenance | None
    """The record of UMRGEN, or the settings of AUTOMATIC1111; None for a mark that has no more than a source type."""
    source_type: str | None
    """IPTC's term for how the image was made."""
    reason: str
    """One or two sentences for people."""
    manifest: Manifest = field(default_factory=Manifest)
    """The C2PA manifest, which is signed; the other marks are not."""

    def as_dict(self) -> dict[str, Any]:
        record = self.record.as_dict() if self.record else None
        found = {"mark": str(self.mark), "source_type": self.source_type, "record": record, "reason": self.reason}
        return found | {"manifest": self.manifest.as_dict()}


def inspect(data: bytes, roots: str = "") -> Verification:
    """Read the marks of an image: ours, and those of other tools. Never raises: a damaged file has no mark.

    `roots`: the certificates of the signers to trust, as PEM; without them no signer is trusted.
    """
    found, manifest = unsigned_marks(data), examine(data, roots)
    if not manifest.present:
        return found
    record = found.record or (manifest.record if manifest.intact else None)
    source_type = found.source_type or manifest.source_type
    mark = _combined(found, manifest)
    return Verification(mark, record, source_type, _reason(mark, found, manifest), manifest)


def _combined(found: Verification, manifest: Manifest) -> Mark:
    """Return the mark of a file that has a manifest."""
    if manifest.valid is None:
        return found.mark
    if not manifest.intact:
        return Mark.CHANGED if found.mark is not Mark.NONE or manifest.source_type else Mark.NONE
    own_record_changed = found.mark is Mark.CHANGED and found.record is not None and found.record.version
    return Mark.MARKED if manifest.source_type in GENERATED and not own_record_changed else found.mark


def _reason(mark: Mark, found: Verification, manifest: Manifest) -> str:
    if found.mark is not Mark.NONE:
        return f"{found.reason} {manifest.reason}"
    if manifest.intact:
        said = manifest.source_type or "nothing about how it was made"
        return f"The C2PA manifest states: {said}. {manifest.reason}"
    return manifest.reason if mark is Mark.CHANGED else f"No mark can be read. {manifest.reason}"


def unsigned_marks(data: bytes) -> Verification:
    """Return what the marks without a signature say: XMP and text. Never raises."""
    try:
        found = packets(data)
        texts = png_texts(data)
        digest = content_digest(data) if found else ""
    except (OutputCorrupt, KeyError, ValueError, IndexError):
        return Verification(Mark.NONE, None, None, "The file is damaged, so its marks cannot be read.")
    if len(found) > 1:
        return Verification(Mark.CHANGED, None, None, "The file has several XMP packets, so none of them counts.")
    if found and (record := record_of(found[0])):
        return _own(record, digest_of(found[0]) == digest)
    source_type = source_type_of(found[0]) if found else None
    other = Provenance.from_json(texts.get("umrgen", "")) or parameters_of(texts.get("parameters", ""))
    if other is not None:
        reason = "The file has the settings of a generator, which do not cover its pixels."
        return Verification(Mark.CHANGED, other, source_type or other.source_type, reason)
    if source_type is not None:
        reason = f"Another program states that the image is {source_type}."
        return Verification(Mark.CHANGED, None, source_type, reason)
    if sniff(data[:16]) is None:
        return Verification(Mark.NONE, None, None, "The file is not a PNG, JPEG or WebP image.")
    return Verification(Mark.NONE, None, None, "No mark was found. That proves nothing: a screenshot removes marks.")


def _own(record: Provenance, unchanged: bool) -> Verification:
    what = "a model" if record.source_type == "trainedAlgorithmicMedia" else "a program without a model"
    if unchanged:
        reason = f"UMRGEN states that {what} made this image, and the pixels are those that were marked."
        return Verification(Mark.MARKED, record, record.source_type, reason)
    reason = f"UMRGEN states that {what} made this image, and the pixels were changed since."
    return Verification(Mark.CHANGED, record, record.source_type, reason)
