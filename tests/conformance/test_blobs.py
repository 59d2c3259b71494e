"""The conformance suite of blob stores."""

import errno
import hashlib
import os
from pathlib import Path

import httpx2
import obstore
import pytest

from s3_server import SECRET_KEY, S3Server, new_prefix, shared_s3
from umrgen.server.blobs import BlobStore, BlobStoreForeign, BlobStoreOutage, BlobStoreUnavailable, read
from umrgen.server.blobs.local import INCOMING, PART, LocalBlobStore
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.blobs.s3 import MARKER, S3BlobStore


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> str:
    """A new prefix in the bucket `images`, whose server and credentials are in the environment."""
    for name, value in shared_s3().environment.items():
        monkeypatch.setenv(name, value)
    return new_prefix()


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "s3":
        return S3BlobStore(f"s3://images/{request.getfixturevalue('prefix')}/more")
    return {"local": lambda: LocalBlobStore(tmp_path / "outputs"), "memory": MemoryBlobStore}[request.param]()


async def test_stored_bytes_are_returned(blobs: BlobStore) -> None:
    await blobs.put("sid_a", "one.png", b"bytes")
    await blobs.put("sid_a", "two.png", b"")
    assert await read(blobs, "sid_a", "one.png") == b"bytes"
    assert await read(blobs, "sid_a", "two.png") == b""
    assert await read(blobs, "sid_b", "one.png") is None


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
async def test_any_range_is_returned(blobs: BlobStore, size: int) -> None:
    data = os.urandom(size)
    await blobs.put("sid_a", "one.png", data)
    for start, end in ((0, None), (0, size), (1, None), (size // 2, size), (0, 1), (size, None), (size + 5, None)):
        parts = await blobs.open_range("sid_a", "one.png", start, end)
        assert parts is not None
        assert b"".join([part async for part in parts]) == data[start:end]


async def test_a_second_put_replaces_the_first(blobs: BlobStore) -> None:
    await blobs.put("sid_a", "one.png", b"first")
    await blobs.put("sid_a", "one.png", b"second")
    assert await read(blobs, "sid_a", "one.png") == b"second"


async def test_deleting_a_missing_blob_is_no_error(blobs: BlobStore) -> None:
    await blobs.put("sid_a", "one.png", b"bytes")
    await blobs.delete("sid_a", "one.png")
    await blobs.delete("sid_a", "one.png")
    assert await read(blobs, "sid_a", "one.png") is None


@pytest.mark.parametrize("part", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b", ".hidden", "x" * 300])
async def test_only_plain_names_are_accepted(blobs: BlobStore, part: str) -> None:
    for session, name in ((part, "one.png"), ("sid_a", part)):
        with pytest.raises(ValueError, match="plain name"):
            await blobs.put(session, name, b"bytes")
        with pytest.raises(ValueError, match="plain name"):
            await blobs.open_range(session, name)
        with pytest.raises(ValueError, match="plain name"):
            await blobs.delete(session, name)


async def test_a_store_is_empty_until_a_blob_is_stored(blobs: BlobStore) -> None:
    await blobs.claim("ledger")
    await blobs.check()
    assert await blobs.is_empty()
    await blobs.put("sid_a", "one.png", b"bytes")
    assert not await blobs.is_empty()
    await blobs.claim("ledger")
    await blobs.delete("sid_a", "one.png")
    assert await blobs.is_empty()


class TestLocal:
    """Tests of the store in a local folder."""

    async def test_a_failed_put_leaves_no_file(self, tmp_path: Path) -> None:
        root = tmp_path / "outputs"
        blobs = LocalBlobStore(root, "worker")
        await blobs.put("sid_a", "one.png", b"bytes")
        (root / "sid_a" / "taken.png").mkdir()
        with pytest.raises(BlobStoreUnavailable, match=f"could not be stored: {os.strerror(errno.EISDIR)}"):
            await blobs.put("sid_a", "taken.png", b"bytes")
        assert sorted(entry.name for entry in (root / "sid_a").iterdir()) == ["one.png", "taken.png"]
        assert list((root / INCOMING / "worker").iterdir()) == []

    async def test_a_start_deletes_the_unfinished_files_of_its_worker(self, tmp_path: Path) -> None:
        for worker in ("own", "other"):
            (tmp_path / INCOMING / worker).mkdir(parents=True)
            (tmp_path / INCOMING / worker / "unfinished").write_bytes(b"half")
        await LocalBlobStore(tmp_path, "own").put("sid_a", "one.png", b"bytes")
        assert sorted(path.parent.name for path in (tmp_path / INCOMING).rglob("unfinished")) == ["other"]

    async def test_files_are_readable_by_their_owner_only(self, tmp_path: Path) -> None:
        await LocalBlobStore(tmp_path).put("sid_a", "one.png", b"bytes")
        assert (tmp_path / "sid_a" / "one.png").stat().st_mode & 0o777 == 0o600

    async def test_it_has_no_urls_and_reports_the_free_space(self, tmp_path: Path) -> None:
        blobs = LocalBlobStore(tmp_path)
        assert await blobs.url_for("sid_a", "one.png") is None
        free = await blobs.free_bytes()
        assert free is not None
        assert free > 0


@pytest.mark.slow
class TestS3:
    """Tests of the store in S3."""

    async def test_a_bucket_belongs_to_the_first_ledger_and_others_are_refused(self, prefix: str) -> None:
        await S3BlobStore(f"s3://images/{prefix}/a").claim("first")
        with pytest.raises(BlobStoreForeign, match="belong to another ledger"):
            await S3BlobStore(f"s3://images/{prefix}/a").claim("second")
        await S3BlobStore(f"s3://images/{prefix}/a").claim("first")
        await S3BlobStore(f"s3://images/{prefix}/b").claim("second")
        marker = await obstore.get_async(shared_s3().client("images"), f"{prefix}/a/{MARKER}")
        assert bytes(await marker.bytes_async()) == b"first"

    async def test_an_object_has_its_digest_and_media_type(self, prefix: str) -> None:
        await S3BlobStore(f"s3://images/{prefix}").put("sid_a", "one.png", b"bytes")
        stored = await obstore.get_async(shared_s3().client("images"), f"{prefix}/sid_a/one.png")
        assert stored.attributes["sha256"] == hashlib.sha256(b"bytes").hexdigest()
        assert stored.attributes["Content-Type"] == "image/png"

    async def test_a_presigned_url_returns_the_blob_without_credentials(self, prefix: str) -> None:
        blobs = S3BlobStore(f"s3://images/{prefix}", redirects=True)
        await blobs.put("sid_a", "one.png", b"bytes")
        url = await blobs.url_for("sid_a", "one.png")
        assert url is not None
        assert SECRET_KEY not in url
        assert "X-Amz-Expires=900" in url
        assert httpx2.get(url, headers={"Range": "bytes=1-2"}).content == b"yt"
        assert httpx2.get(url.replace("one.png", "two.png")).status_code == 403
        assert await S3BlobStore(f"s3://images/{prefix}").url_for("sid_a", "one.png") is None

    async def test_a_missing_bucket_is_an_outage_and_not_a_missing_blob(self, prefix: str) -> None:
        """A blob that is reported as missing would be taken for deleted."""
        for blobs in (S3BlobStore("s3://no-images/some/prefix"), S3BlobStore("s3://no-images")):
            with pytest.raises(BlobStoreOutage, match="there is no such bucket") as refused:
                await blobs.open_range("sid_a", "one.png")
            assert "Create the bucket" in refused.value.next
            for call in (blobs.claim("first"), blobs.put("sid_a", "a.png", b""), blobs.is_empty(), blobs.check()):
                with pytest.raises(BlobStoreOutage, match="there is no such bucket"):
                    await call
            with pytest.raises(BlobStoreOutage):
                await blobs.delete("sid_a", "one.png")

    @pytest.mark.parametrize(
        ("variable", "reason"),
        [("AWS_ACCESS_KEY_ID", "does not know the access key"), ("AWS_SECRET_ACCESS_KEY", "not accept the secret key")],
    )
    async def test_wrong_credentials_are_an_outage(
        self, prefix: str, monkeypatch: pytest.MonkeyPatch, variable: str, reason: str
    ) -> None:
        monkeypatch.setenv(variable, "wrong-credential")
        for call in (
            S3BlobStore(f"s3://images/{prefix}").claim("first"),
            S3BlobStore(f"s3://images/{prefix}").open_range("sid_a", "one.png"),
        ):
            with pytest.raises(BlobStoreOutage, match=reason) as refused:
                await call
            assert "wrong-credential" not in f"{refused.value} {refused.value.next}"
            assert "AWS_ACCESS_KEY_ID" in refused.value.next

    async def test_a_server_that_is_stopped_is_an_outage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = S3Server().start()
        try:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            blobs = S3BlobStore(server.create_bucket())
            await blobs.put("sid_a", "one.png", b"bytes")
            server.kill()
            for call in (blobs.put("sid_a", "two.png", b""), blobs.open_range("sid_a", "one.png"), blobs.check()):
                with pytest.raises(BlobStoreOutage, match="S3 does not answer"):
                    await call
            with pytest.raises(BlobStoreOutage, match="could not be deleted"):
                await blobs.delete("sid_a", "one.png")
            server.start()
            assert await read(blobs, "sid_a", "one.png") == b"bytes"
        finally:
            server.remove()
