"""A blob store in an S3 bucket: `s3://<bucket>/<prefix>/<session>/<name>`. Several servers can share it.

Credentials come from the environment (`AWS_ACCESS_KEY_ID` and the others that `obstore` reads), and are in no message.
"""

import hashlib
import mimetypes
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError

from umrgen.server.blobs import BlobStoreForeign, plain
from umrgen.server.blobs.s3_connection import FAILURES, connect_bucket, translated
from umrgen.server.blobs.s3_failures import is_beyond_end, is_missing_object

if TYPE_CHECKING:
    from obstore import GetResult

__all__ = ["S3BlobStore"]

MARKER = ".umrgen-ledger"
"""The object, below the prefix, with the id of the ledger that the blobs belong to."""
PART = 8 << 20
"""Bytes that are passed on at a time."""
URL_VALID = timedelta(minutes=15)
"""For how long a client can use a presigned URL."""
CHECK = b"x" * 4096
"""What `check` stores."""


class S3BlobStore:
    """Implements `BlobStore`. Each put is one request, which S3 applies as a whole or not at all."""

    def __init__(self, url: str, endpoint: str = "", redirects: bool = False) -> None:
        """`url`: `s3://BUCKET/PREFIX`. `redirects`: whether clients may fetch blobs from S3 itself, by presigned URLs.

        Raises BlobStoreOutage when the client cannot be set up.
        """
        self._redirects = redirects
        self._shown = url
        self._store = connect_bucket(url, endpoint)

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return translated(self._shown, action)

    async def claim(self, ledger_id: str) -> None:
        with self._translated("used"), suppress(AlreadyExistsError):
            await obstore.put_async(self._store, MARKER, ledger_id.encode(), mode="create", use_multipart=False)
        with self._translated("used"):
            result = await obstore.get_async(self._store, MARKER)
            owner = bytes(await result.bytes_async()).decode("utf-8", "replace")
        if owner != ledger_id:
            raise BlobStoreForeign(
                f"the images in {self._shown} belong to another ledger",
                next=f"Choose another prefix with --blobs. If that ledger is gone, delete the object {MARKER} there.",
            )

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        path = f"{plain(session_id)}/{plain(name)}"
        attributes = {"sha256": hashlib.sha256(data).hexdigest()}
        if media_type := mimetypes.guess_type(name)[0]:
            attributes["Content-Type"] = media_type
        with self._translated("stored"):
            await obstore.put_async(self._store, path, data, attributes=attributes, use_multipart=False)

    async def open_range(
        self, session_id: str, name: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes] | None:
        path = f"{plain(session_id)}/{plain(name)}"
        with self._translated("read"):
            try:
                result = await self._get(path, start, end)
            except FAILURES as error:
                if is_missing_object(error):
                    return None
                if is_beyond_end(error):
                    return _nothing()
                raise
        return _nothing() if end is not None and end <= start else self._parts(result)

    async def _get(self, path: str, start: int, end: int | None) -> "GetResult":
        """Request the range, or one byte instead of none: S3 has no empty ranges."""
        if end is not None:
            return await obstore.get_async(self._store, path, options={"range": (start, max(end, start + 1))})
        if start:
            return await obstore.get_async(self._store, path, options={"range": {"offset": start}})
        return await obstore.get_async(self._store, path)

    async def _parts(self, result: "GetResult") -> AsyncIterator[bytes]:
        with self._translated("read"):
            async for part in result.stream(min_chunk_size=PART):
                yield bytes(part)

    async def delete(self, session_id: str, name: str) -> None:
        path = f"{plain(session_id)}/{plain(name)}"
        with self._translated("deleted"):
            await self._delete(path)

    async def _delete(self, path: str) -> None:
        try:
            await obstore.delete_async(self._store, path)
        except FAILURES as error:
            if not is_missing_object(error):
                raise

    async def url_for(self, session_id: str, name: str) -> str | None:
        if not self._redirects:
            return None
        path = f"{plain(session_id)}/{plain(name)}"
        with self._translated("read"):
            return await obstore.sign_async(self._store, "GET", path, URL_VALID)

    async def is_empty(self) -> bool:
        with self._translated("read"):
            async for found in obstore.list(self._store, chunk_size=10):
                if any(not str(item["path"]).startswith(".") for item in found):
                    return False
        return True

    async def check(self) -> None:
        path = f".check/{secrets.token_hex(8)}"
        with self._translated("stored"):
            await obstore.put_async(self._store, path, CHECK, use_multipart=False)
            await self._delete(path)

    async def free_bytes(self) -> int | None:
        return None


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
