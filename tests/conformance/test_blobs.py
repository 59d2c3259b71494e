"""The conformance suite of blob stores."""

import errno
import os
from pathlib import Path

import pytest

from umrgen.server.blobs import BlobStore, BlobStoreUnavailable, read
from umrgen.server.blobs.local import INCOMING, PART, LocalBlobStore
from umrgen.server.blobs.memory import MemoryBlobStore


@pytest.fixture(params=["local", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
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
