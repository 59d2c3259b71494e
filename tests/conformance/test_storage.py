"""What every storage must do."""

from pathlib import Path

import pytest

from umrgen.server.blobs import Storage
from umrgen.server.blobs.local import LocalStorage


@pytest.fixture(params=["local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return {"local": lambda: LocalStorage(tmp_path / "outputs")}[request.param]()


async def names(storage: Storage) -> dict[str, set[str]]:
    """All that is stored, by session."""
    found: dict[str, set[str]] = {}
    async for session_id, part in storage.older(2**62):
        found.setdefault(session_id, set()).update(part)
    return found


async def test_bytes_come_back(storage: Storage) -> None:
    await storage.put("sid_a", "one.png", b"bytes")
    await storage.put("sid_a", "two.png", b"")
    assert await storage.get("sid_a", "one.png") == b"bytes"
    assert await storage.get("sid_a", "two.png") == b""
    assert await storage.get("sid_b", "one.png") is None
    assert await names(storage) == {"sid_a": {"one.png", "two.png"}}


async def test_putting_again_replaces(storage: Storage) -> None:
    await storage.put("sid_a", "one.png", b"first")
    await storage.put("sid_a", "one.png", b"second")
    assert await storage.get("sid_a", "one.png") == b"second"
    assert await names(storage) == {"sid_a": {"one.png"}}


async def test_deleting_what_is_not_there_is_no_error(storage: Storage) -> None:
    await storage.put("sid_a", "one.png", b"bytes")
    await storage.delete("sid_a", "one.png")
    await storage.delete("sid_a", "one.png")
    assert await storage.get("sid_a", "one.png") is None


@pytest.mark.parametrize("part", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b", ".hidden", "x" * 300])
async def test_only_plain_names_are_taken(storage: Storage, part: str) -> None:
    for session, name in ((part, "one.png"), ("sid_a", part)):
        with pytest.raises(ValueError, match="plain name"):
            await storage.put(session, name, b"bytes")
        with pytest.raises(ValueError, match="plain name"):
            await storage.get(session, name)


async def test_a_failed_put_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    storage = LocalStorage(root)
    await storage.put("sid_a", "one.png", b"bytes")
    (root / "sid_a" / "taken.png").mkdir()
    with pytest.raises(OSError):
        await storage.put("sid_a", "taken.png", b"bytes")
    assert sorted(entry.name for entry in (root / "sid_a").iterdir()) == ["one.png", "taken.png"]


async def test_what_is_older_is_listed_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umrgen.server.blobs.local.LISTED", 2)
    for name in ("one.png", "two.png", "three.png"):
        await storage.put("sid_a", name, b"bytes")
    await storage.put("sid_b", "one.png", b"bytes")
    listed = [(session, name) async for session, names in storage.older(2**50) for name in names]
    assert sorted(listed) == [("sid_a", "one.png"), ("sid_a", "three.png"), ("sid_a", "two.png"), ("sid_b", "one.png")]
    assert [part async for part in storage.older(0)] == []
