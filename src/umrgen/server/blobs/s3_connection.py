"""The client of an S3 bucket: its settings, and its errors as those of a blob store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import S3Store

from umrgen.server.blobs import BlobStoreOutage
from umrgen.server.blobs.s3_failures import describe

if TYPE_CHECKING:
    from obstore.store import S3Config

__all__ = ["FAILURES", "connect_bucket", "translated"]

CONNECT_TIMEOUT, READ_TIMEOUT, TIMEOUT = "3s", "10s", "60s"
"""Limits of the connection, of the time without a byte, and of a whole request."""
RETRIES = 2
"""Further tries of one request; a job tries for as long as S3 is away."""
FAILURES = (BaseError, OSError, ValueError)
"""What obstore raises."""


def _endpoint(setting: str) -> str:
    """Return the endpoint of the setting or of the usual variables; an empty text means AWS."""
    return setting or os.environ.get("AWS_ENDPOINT_URL_S3", "") or os.environ.get("AWS_ENDPOINT_URL", "")


def _connect(bucket: str, prefix: str, endpoint: str) -> S3Store:
    """Return a client of the bucket. S3 keeps a SHA-256 of each object, which it compared with the bytes received."""
    config: S3Config = {"checksum_algorithm": "SHA256"}
    if endpoint:
        config["endpoint"] = endpoint
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "timeout": TIMEOUT,
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=5)},
    )


@contextmanager
def translated(url: str, action: str) -> Iterator[None]:
    """Raise BlobStoreOutage, with advice, for every failure of obstore inside the block."""
    try:
        yield
    except FAILURES as error:
        reason, advice = describe(error)
        raise BlobStoreOutage(f"the images in {url} could not be {action}: {reason}", next=advice) from None


def connect_bucket(url: str, endpoint: str) -> S3Store:
    """Return a client of `s3://BUCKET/PREFIX`; it makes no request. Raises BlobStoreOutage."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    with translated(url, "used"):
        return _connect(bucket, prefix.strip("/"), _endpoint(endpoint))
