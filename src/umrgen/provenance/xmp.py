"""XMP packets (ISO 16684-1) with a provenance record, and with the properties of IPTC that other programs read."""

import re
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from umrgen.provenance.record import SOURCE_TYPES, Provenance

__all__ = ["MAX_PACKET", "digest_of", "packet", "record_of", "source_type_of"]

MAX_PACKET = 256 << 10
"""Bytes of a packet that is read."""
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_OWN = "https://umrgen.org/ns/provenance/1.0/"
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot contain."""


def packet(record: Provenance, digest: str) -> str:
    """Return the packet for an image with this `digest` of its content.

    It has the source type and the system (IPTC Photo Metadata 2025.1), the prompt if the record has it, and the whole
    record as JSON.
    """
    system = " ".join(part for part in ("UMRGEN", record.engine, record.model) if part)
    properties = {
        "xmp:CreatorTool": f"UMRGEN {record.version}".strip(),
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPES + record.source_type,
        "Iptc4xmpExt:AISystemUsed": system,
        "Iptc4xmpExt:AISystemVersionUsed": record.engine_version or record.version,
        "Iptc4xmpExt:AIPromptInformation": record.prompt or "",
        "umrgen:record": record.to_json(),
        "umrgen:digest": digest,
    }
    names = {"xmp": _XMP, "Iptc4xmpExt": _IPTC, "umrgen": _OWN}
    spaces = " ".join(f'xmlns:{prefix}="{name}"' for prefix, name in names.items())
    written = " ".join(f"{name}={quoteattr(_CONTROLS.sub('', value))}" for name, value in properties.items() if value)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" {spaces} {written}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def record_of(text: str) -> Provenance | None:
    """Return the record in a packet; None for a packet without one, and for text that is no packet."""
    return Provenance.from_json(_property(text, _OWN, "record") or "")


def digest_of(text: str) -> str | None:
    """Return the digest of the content for which a packet was written."""
    return _property(text, _OWN, "digest")


def source_type_of(text: str) -> str | None:
    """Return the term of IPTC's vocabulary in a packet of any program, or None."""
    value = _property(text, _IPTC, "DigitalSourceType")
    return value.removeprefix(SOURCE_TYPES)[:100] if value and value.startswith(SOURCE_TYPES) else None


def _property(text: str, namespace: str, name: str) -> str | None:
    """Return a simple property, written as an attribute or as an element."""
    root = _parsed(text)
    for node in root.iter(f"{{{_RDF}}}Description") if root is not None else ():
        if (value := node.get(f"{{{namespace}}}{name}")) is not None:
            return value
        if (child := node.find(f"{{{namespace}}}{name}")) is not None:
            return child.text or child.get(f"{{{_RDF}}}resource")
    return None


def _parsed(text: str) -> ElementTree.Element | None:
    """Return the packet's root. A packet with a document type is not read: it could define entities without end."""
    if len(text) > MAX_PACKET or "<!" in text:
        return None
    try:
        return ElementTree.fromstring(re.sub(r"<\?xpacket.*?\?>", "", text))  # noqa: S314 - it has no entities
    except (ElementTree.ParseError, ValueError):
        return None
