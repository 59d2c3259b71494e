"""The images in a blob store, for maintenance: `umrgen ledger check` and `adopt`. A server needs no listing."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from umrgen.server.blobs import plain

__all__ = ["STORED_IMAGES", "FoundImage", "LocalImages", "StoredImages"]

STORED_IMAGES: Mapping[str, str] = {
    "local": "umrgen.server.blobs.stored_images:LocalImages",
    "s3": "umrgen.server.blobs.s3_images:S3Images",
}

PREFIX = "umrgen_"
"""The beginning of the names of images; those of reference images have another."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image in the blob store."""

    session_id: str
    name: str
    made: int
    """When it was stored, in milliseconds since the epoch."""
    read: Callable[[], bytes]


class StoredImages(Protocol):
    """Lists images, without a record. Raises BlobStoreUnavailable."""

    def sizes(self, session_id: str) -> Mapping[str, int]:
        """Return the sizes of a session's images and reference images in bytes, by name."""
        ...

    def find(self) -> Iterable[FoundImage]:
        """Yield the images of all sessions, in the order of their names."""
        ...


class LocalImages:
    """Implements `StoredImages` for a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self, session_id: str) -> Mapping[str, int]:
        try:
            with os.scandir(self._root / plain(session_id)) as entries:
                return {entry.name: entry.stat().st_size for entry in entries}
        except FileNotFoundError:
            return {}

    def find(self) -> Iterable[FoundImage]:
        for path in sorted(self._root.glob(f"[!.]*/{PREFIX}*")):
            yield FoundImage(path.parent.name, path.name, int(path.stat().st_mtime * 1000), path.read_bytes)
