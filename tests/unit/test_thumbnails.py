"""Thumbnails: how large they are, what they state, and when they are made."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from support import draw_task
from umrgen.image_files import verify
from umrgen.provenance import Provenance, mark, read
from umrgen.provenance import verify as verify_mark
from umrgen.server import thumbnails
from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.domain.job import Change, Output, thumbnail_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EncodedImage, EngineInfo
from umrgen.server.engines.encoding import encoded
from umrgen.server.executors import verified
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.png import encode_png
from umrgen.server.services.image_cache import ImageCache
from umrgen.server.services.thumbnails import AT_A_TIME, Thumbnails
from umrgen.server.thumbnails import LARGEST, SIDE, thumbnail, thumbnail_of_file
from umrgen.testing import FakeClock

RECORD = Provenance("algorithmicMedia", engine="procedural", prompt="a boat " * 250, seed=7, loras=(("ink", 1.0),))
INFO = EngineInfo("fake", "procedural", "1")


def noise(width: int, height: int) -> "np.typing.NDArray[np.uint8]":
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def smooth(width: int, height: int) -> "np.typing.NDArray[np.uint8]":
    return np.broadcast_to(np.linspace(0, 255, height, dtype=np.uint8)[:, None, None], (height, width, 3))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1024, 1024, (384, 384)),
        (2048, 512, (384, 96)),
        (512, 1024, (192, 384)),
        (200, 100, (200, 100)),
        (3000, 1, (384, 1)),
    ],
)
def test_the_longer_side_of_a_thumbnail_has_384_pixels(width: int, height: int, size: tuple[int, int]) -> None:
    data = thumbnail(smooth(width, height), RECORD)
    facts = verify(data)
    assert (facts.media_type, (facts.width, facts.height)) == ("image/webp", size)
    assert max(size) <= SIDE == 384


@pytest.mark.parametrize("side", [384, 512, 600, 1024, 2048])
def test_a_thumbnail_is_small_even_of_noise(side: int) -> None:
    assert 1000 < len(thumbnail(noise(side, side), RECORD)) <= LARGEST <= 20_000


def test_a_thumbnail_shows_its_image() -> None:
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    pixels[:512] = (200, 40, 40)
    with Image.open(BytesIO(thumbnail(pixels, None))) as image:
        top, bottom = image.getpixel((190, 90)), image.getpixel((190, 300))
    assert np.allclose(top, (200, 40, 40), atol=8)
    assert np.allclose(bottom, (0, 0, 0), atol=8)


def test_a_thumbnail_states_how_its_image_was_made_without_the_prompt() -> None:
    data = thumbnail(smooth(600, 600), RECORD)
    assert read(data) == replace(RECORD, prompt=None, loras=())
    assert verify_mark(data).mark == verify_mark(mark(encode_png(noise(8, 8)), RECORD)).mark
    assert b"a boat" not in data


def test_the_record_of_a_file_is_that_of_its_thumbnail() -> None:
    file = mark(encode_png(smooth(600, 600)), RECORD)
    found = read(thumbnail_of_file(file))
    assert found is not None
    assert (found.seed, found.prompt) == (7, None)
    assert read(thumbnail_of_file(encode_png(smooth(600, 600)))) is None


def test_no_thumbnail_is_made_of_a_broken_or_huge_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = encode_png(noise(100, 100))
    assert thumbnail_of_file(file)
    assert thumbnail_of_file(file[:200]) == b""
    assert thumbnail_of_file(b"no image") == b""
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 9_999)
    assert thumbnail_of_file(file) == b""


@pytest.mark.parametrize("kind", ["pixels", "PNG", "JPEG"])
def test_the_engine_makes_a_thumbnail_with_each_image(kind: str) -> None:
    file = BytesIO()
    if kind != "pixels":
        Image.fromarray(smooth(512, 512)).save(file, kind)
    image = smooth(512, 512) if kind == "pixels" else EncodedImage(file.getvalue(), f"image/{kind.lower()}")
    small = encoded(image, draw_task("a boat", seed=3), INFO).thumbnail
    assert verify(small).width == SIDE
    assert (found := read(small)) is not None
    assert (found.seed, found.prompt) == (3, None)


@pytest.mark.parametrize("small", [b"no image", encode_png(noise(8, 8)), b""])
async def test_another_file_than_a_thumbnail_is_dropped(small: bytes) -> None:
    good = thumbnail(noise(64, 64), None)
    for given, kept in ((small, b""), (good[:-4], b""), (good, good)):
        (image,) = await verified([EncodedImage(encode_png(noise(64, 64)), "image/png", given)])
        assert image.thumbnail == kept


class SlowBlobs(MemoryBlobStore):
    """A blob store that counts what it stores, and stores when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[str] = []
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.storing = asyncio.Event()
        self.full = False

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        if not self.may_store.is_set():
            self.storing.set()
        await self.may_store.wait()
        if self.full:
            raise BlobStoreUnavailable("the disk is full")
        self.stored.append(name)
        await super().put(session_id, name, data)

    async def has(self, name: str) -> bool:
        return await self.open_range("sid_a", name) is not None


class Gallery:
    """Images of an earlier version, which have no thumbnails."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger, self.clock, self.blobs = ledger, FakeClock(), SlowBlobs()
        self.thumbnails = Thumbnails(ledger.outputs, self.blobs, ImageCache(self.blobs, 1 << 20), self.clock)

    async def draw(self, name: str, data: bytes) -> Output:
        jobs, now = self.ledger.jobs, self.clock.now()
        await jobs.submit(name, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=now)
        (job,) = await jobs.claim("worker", now=now, lease_until=now + 1)
        output = Output(f"{name}.png", "sid_a", len(data), "00" * 32, 512, 512)
        await self.blobs.put("sid_a", output.name, data)
        await jobs.change(job.id, Change.COMPLETE, now=now, token=job.token, outputs=(output,))
        return output


@pytest.fixture
async def gallery() -> AsyncIterator[Gallery]:
    ledger = MemoryLedger()
    await ledger.open(lambda jobs: None)
    yield Gallery(ledger)
    await ledger.close()


class TestOlderImages:
    """A thumbnail is made when it is requested first, once for all requests, and stored."""

    async def test_requests_at_the_same_time_share_the_work(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", encode_png(noise(512, 512)))
        found = await asyncio.gather(*(gallery.thumbnails.get(image) for _ in range(9)))
        again = await gallery.thumbnails.get(image)
        assert again is not None
        assert all(each == again for each in found)
        assert gallery.blobs.stored == [image.name, thumbnail_name(image.name)]
        assert await gallery.ledger.outputs.obsolete_files(now=2**50, limit=9) == []
        output, data = again
        assert (output.name, output.media_type, output.bytes) == ("ext_1.png.thumb.webp", "image/webp", len(data))
        assert output.sha256 == verify(data).sha256

    async def test_a_disconnect_does_not_end_the_work(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", encode_png(noise(512, 512)))
        gallery.blobs.may_store.clear()
        first = asyncio.create_task(gallery.thumbnails.get(image))
        second = asyncio.create_task(gallery.thumbnails.get(image))
        await asyncio.sleep(0)
        first.cancel()
        gallery.blobs.may_store.set()
        assert await second is not None
        assert gallery.blobs.stored.count(thumbnail_name(image.name)) == 1

    async def test_a_few_are_made_at_a_time(self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
        images = [await gallery.draw(f"ext_{number}", encode_png(noise(64, 64))) for number in range(3 * AT_A_TIME)]
        making, most = 0, 0

        async def count(function: object, file: bytes) -> bytes:
            nonlocal making, most
            making += 1
            most = max(most, making)
            await asyncio.sleep(0)
            making -= 1
            return b"webp"

        monkeypatch.setattr(asyncio, "to_thread", count)
        await asyncio.gather(*(gallery.thumbnails.get(image) for image in images))
        assert most == AT_A_TIME

    async def test_nothing_is_left_of_an_image_that_is_deleted_meanwhile(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", encode_png(noise(64, 64)))
        gallery.blobs.may_store.clear()
        making = asyncio.create_task(gallery.thumbnails.get(image))
        await gallery.blobs.storing.wait()
        await gallery.ledger.jobs.delete("sid_a", ["ext_1"], now=gallery.clock.now())
        gallery.blobs.may_store.set()
        assert await making is None
        assert not await gallery.blobs.has(thumbnail_name(image.name))

    async def test_a_server_that_is_killed_while_it_stores_one_leaves_a_note(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", encode_png(noise(64, 64)))
        gallery.blobs.may_store.clear()
        making = asyncio.create_task(gallery.thumbnails.get(image))
        await gallery.blobs.storing.wait()
        note = ("sid_a", thumbnail_name(image.name))
        assert note in await gallery.ledger.outputs.obsolete_files(now=2**50, limit=9)
        assert await gallery.ledger.outputs.obsolete_files(now=gallery.clock.now(), limit=9) == [], "not before an hour"
        gallery.blobs.may_store.set()
        assert await making is not None
        assert await gallery.ledger.outputs.obsolete_files(now=2**50, limit=9) == []

    async def test_a_full_disk_is_no_reason_to_show_none(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", encode_png(noise(64, 64)))
        gallery.blobs.full = True
        assert await gallery.thumbnails.get(image) is not None
        gallery.blobs.full = False
        assert await gallery.thumbnails.get(image) is not None
        assert await gallery.blobs.has(thumbnail_name(image.name))

    async def test_there_is_none_of_a_file_that_cannot_be_decoded(self, gallery: Gallery) -> None:
        image = await gallery.draw("ext_1", b"no image")
        assert await gallery.thumbnails.get(image) is None
