"""The images in an S3 bucket, for maintenance: one request lists a thousand of them."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial

import obstore

from umrgen.server.blobs import plain
from umrgen.server.blobs.s3_connection import connect_bucket, translated
from umrgen.server.blobs.stored_images import PREFIX, FoundImage

__all__ = ["S3Images"]


class S3Images:
    """Implements `StoredImages`."""

    def __init__(self, url: str, endpoint: str = "") -> None:
        """`url`: `s3://BUCKET/PREFIX`. Raises BlobStoreOutage when the client cannot be set up."""
        self._shown = url
        self._store = connect_bucket(url, endpoint)

    def _objects(self, prefix: str | None = None) -> Iterator[tuple[str, int, datetime]]:
        with translated(self._shown, "listed"):
            for found in obstore.list(self._store, prefix):
                yield from ((str(item["path"]), item["size"], item["last_modified"]) for item in found)

    def sizes(self, session_id: str) -> Mapping[str, int]:
        return {path.rpartition("/")[2]: size for path, size, _ in self._objects(plain(session_id))}

    def find(self) -> Iterable[FoundImage]:
        for path, _, made in self._objects():
            session_id, _, name = path.rpartition("/")
            if name.startswith(PREFIX) and not session_id.startswith("."):
                yield FoundImage(session_id, name, int(made.timestamp() * 1000), partial(self._read, path))

    def _read(self, path: str) -> bytes:
        with translated(self._shown, "read"):
            return bytes(obstore.get(self._store, path).bytes())
