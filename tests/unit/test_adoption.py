"""Adopting images without a record: refused files stay unchanged."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from umrgen.provenance import Provenance, mark
from umrgen.server.blobs.stored_images import FoundImage
from umrgen.server.domain.job import Change, output_name, thumbnail_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.adoption import adopt
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.png import encode_png

JOB = "ext_" + "0" * 32
EVER = 2**50


@pytest.fixture
async def ledger() -> AsyncIterator[MemoryLedger]:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


async def found_image(ledger: MemoryLedger) -> FoundImage:
    """Run a job; return the image that its attempt stores."""
    await ledger.jobs.submit(JOB, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
    (job,) = await ledger.jobs.claim("worker", now=2, lease_until=1000)
    record = Provenance("algorithmicMedia", engine="procedural", prompt="a boat", seed=1, steps=4, job_id=JOB)
    file = mark(encode_png(np.zeros((512, 512, 3), np.uint8)), record)
    return FoundImage("sid_a", output_name(job, 0, "image/png"), 3, lambda: file)


async def test_the_file_of_a_cancelled_job_is_refused_and_deleted_all_the_same(ledger: MemoryLedger) -> None:
    image = await found_image(ledger)
    await ledger.jobs.change(JOB, Change.CANCEL, now=4, error="cancelled", error_code="cancelled")
    report = await adopt(ledger, [image])
    assert report.refused == {image.name: "its job is failed without it"}
    assert (image.session_id, image.name) in await ledger.outputs.obsolete_files(now=EVER, limit=99)


async def test_the_file_of_a_requeued_job_is_adopted_and_kept(ledger: MemoryLedger) -> None:
    image = await found_image(ledger)
    await ledger.jobs.change(JOB, Change.RELEASE, now=4)
    report = await adopt(ledger, [image])
    assert report.adopted == [image.name]
    left = await ledger.outputs.obsolete_files(now=EVER, limit=99)
    assert not {image.name, thumbnail_name(image.name)} & {name for _, name in left}
