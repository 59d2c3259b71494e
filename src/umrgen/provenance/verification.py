"""What a file states of itself, and whether its pixels are those for which this was written."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from umrgen.errors import OutputCorrupt
from umrgen.image_files import png_texts
from umrgen.provenance.a1111 import parameters_of
from umrgen.provenance.containers import content_digest, packets
from umrgen.provenance.record import Provenance
from umrgen.provenance.xmp import digest_of, record_of, source_type_of

__all__ = ["Mark", "Verification", "inspect"]


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
    """One sentence for people."""

    def as_dict(self) -> dict[str, Any]:
        record = self.record.as_dict() if self.record else None
        return {"mark": str(self.mark), "source_type": self.source_type, "record": record, "reason": self.reason}


def inspect(data: bytes) -> Verification:
    """Read the marks of an image: ours, and those of other tools. Never raises: a damaged file has no mark."""
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
    return Verification(Mark.NONE, None, None, "No mark was found. That proves nothing: a screenshot removes marks.")


def _own(record: Provenance, unchanged: bool) -> Verification:
    what = "a model" if record.source_type == "trainedAlgorithmicMedia" else "a program without a model"
    if unchanged:
        reason = f"UMRGEN states that {what} made this image, and the pixels are those that were marked."
        return Verification(Mark.MARKED, record, record.source_type, reason)
    reason = f"UMRGEN states that {what} made this image, and the pixels were changed since."
    return Verification(Mark.CHANGED, record, record.source_type, reason)
