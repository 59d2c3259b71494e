"""Images that arrive within calls are deleted when no call and no job needs them, and not before."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from umrgen.server.services.call_references import CallReferences, HeldReferences
from umrgen.server.services.refusal import Refusal

CALLER: Any = SimpleNamespace(session_id="sid_1")


@dataclass
class Stored:
    """Stores images as `Uploads` does, and is the reservation for one: equal images have one name."""

    images: dict[str, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(100)))

    async def all(self, caller: Any) -> list[Any]:
        await asyncio.sleep(0)
        return [SimpleNamespace(name=name) for name in self.images]

    async def add(self, data: bytes) -> Any:
        await asyncio.sleep(0)
        if data == b"no image":
            raise Refusal("unsupported_media_type", "the image cannot be decoded")
        known = [name for name, image in self.images.items() if image == data]
        name = known[0] if known else f"ref_{next(self.numbers)}.png"
        self.images[name] = data
        return SimpleNamespace(name=name)

    async def remove(self, caller: Any, name: str) -> None:
        await asyncio.sleep(0)
        del self.images[name]


class Calls:
    def __init__(self) -> None:
        self.stored = Stored()
        self.references = CallReferences(self.stored)  # type: ignore[arg-type]

    async def add(self, *images: bytes) -> HeldReferences:
        return await self.references.add(CALLER, self.stored, images)  # type: ignore[arg-type]


def job(job_id: str) -> Any:
    return SimpleNamespace(id=job_id)


async def test_the_images_of_a_call_are_deleted_when_it_ends() -> None:
    calls = Calls()
    async with await calls.add(b"one", b"two", b"one") as held:
        held.needed_by([job("ext_1")])
        assert held.names == ["ref_0.png", "ref_1.png", "ref_0.png"]
        assert len(calls.stored.images) == 2
    assert calls.stored.images == {}


async def test_an_image_that_another_call_needs_stays() -> None:
    calls = Calls()
    first, second = await asyncio.gather(calls.add(b"one"), calls.add(b"one"))
    assert first.names == second.names
    async with first:
        first.needed_by([job("ext_1")])
    assert list(calls.stored.images) == first.names
    async with second:
        second.needed_by([job("ext_2")])
    assert calls.stored.images == {}


async def test_a_call_that_is_cut_off_leaves_its_images_to_the_next_equal_one() -> None:
    calls = Calls()
    with pytest.raises(asyncio.CancelledError):
        async with await calls.add(b"one") as held:
            held.needed_by([job("ext_1")])
            raise asyncio.CancelledError
    assert list(calls.stored.images) == ["ref_0.png"]
    async with await calls.add(b"one") as held:
        held.needed_by([job("ext_1")])  # the equal call takes the job
    assert calls.stored.images == {}


async def test_the_images_of_a_failed_job_and_of_a_refused_call_are_deleted() -> None:
    calls = Calls()
    with pytest.raises(Refusal):
        async with await calls.add(b"one") as held:
            held.needed_by([job("ext_1")])
            raise Refusal("job_failed", "no", job_id="ext_1")
    assert calls.stored.images == {}
    with pytest.raises(Refusal):
        async with await calls.add(b"one"):
            raise Refusal("queue_full")
    assert calls.stored.images == {}
    with pytest.raises(Refusal):
        await calls.add(b"one", b"no image")
    assert calls.stored.images == {}


async def test_an_image_that_the_caller_has_uploaded_itself_stays() -> None:
    calls = Calls()
    before = await calls.stored.add(b"before")
    async with await calls.add(b"before", b"meanwhile") as held:
        held.needed_by([job("ext_1")])
        calls.references.keep(CALLER, held.names[1])
    assert list(calls.stored.images) == [before.name, held.names[1]]
