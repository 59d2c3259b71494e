"""Records for images without one, after the ledger was lost or an older one was put back: `umrgen ledger adopt`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from umrgen.errors import UmrgenError
from umrgen.image_files import png_texts, verify
from umrgen.model import JOB_ID, State
from umrgen.server.blobs.stored_images import FoundImage
from umrgen.server.domain.job import Change, Job, Output, image_of_thumbnail, thumbnail_name
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.errors import OutputExpired
from umrgen.server.ledger.stores import Ledger

__all__ = ["AdoptionReport", "adopt"]

ADOPTER = "adoption"
"""The worker in whose name the jobs of adopted images run."""

NO_PROMPT = "(the prompt is not in the file)"
"""The prompt of an adopted job whose image was written with `provenance_prompt = none`."""


@dataclass(slots=True)
class AdoptionReport:
    """The result: the names of the images."""

    adopted: list[str] = field(default_factory=list)
    known: int = 0
    """Images that have a record already."""
    refused: dict[str, str] = field(default_factory=dict)
    """Files that were left alone, and the reasons."""


async def adopt(ledger: Ledger, images: Iterable[FoundImage]) -> AdoptionReport:
    """Write a completed job for each complete image without a record, from the provenance in its file.

    Running it again changes nothing more. A job that the ledger has as queued or running is completed with the image.
    """
    report = AdoptionReport()
    for image in images:
        if image_of_thumbnail(image.name) is not None:
            continue
        if await _has_record(ledger, image):
            report.known += 1
            continue
        try:
            await _adopt(ledger, image)
            report.adopted.append(image.name)
        except (UmrgenError, OSError) as error:
            report.refused[image.name] = str(error)
    return report


async def _has_record(ledger: Ledger, image: FoundImage) -> bool:
    try:
        return await ledger.outputs.get(image.session_id, image.name) is not None
    except OutputExpired:
        return True


async def _adopt(ledger: Ledger, image: FoundImage) -> None:
    data = image.read()
    facts = verify(data)
    if facts.width is None or facts.height is None:
        raise UmrgenError("its size cannot be read")
    output = Output(
        image.name, image.session_id, facts.bytes, facts.sha256, facts.width, facts.height, facts.media_type
    )
    made = image.made
    job = await _unfinished_job(ledger, image.session_id, _provenance(data), now=made)
    await _forget_deletion(ledger, image)
    token = job.token
    if job.state is State.QUEUED:
        claimed = await ledger.jobs.change(job.id, Change.CLAIM, now=made, worker=ADOPTER, lease_until=made)
        token = claimed.token
    await ledger.jobs.change(job.id, Change.COMPLETE, now=made, token=token, outputs=(output,), step=job.request.steps)


async def _forget_deletion(ledger: Ledger, image: FoundImage) -> None:
    """Keep the file: an older ledger may have a note to delete that of an attempt that was successful after all.

    Before the job is completed, so that no crash leaves a record whose file is deleted. The file of an image that is
    refused keeps its note.
    """
    names = (image.name, thumbnail_name(image.name))
    await ledger.outputs.forget_files([(image.session_id, name) for name in names])


def _provenance(data: bytes) -> dict[str, Any]:
    """Return what the server wrote into the file; raises UmrgenError for a file of another origin."""
    try:
        values = json.loads(png_texts(data)["umrgen"])
        if isinstance(values, dict) and JOB_ID.fullmatch(values["job_id"]):
            return values
    except (KeyError, TypeError, ValueError):
        pass
    raise UmrgenError("it has no provenance of an UMRGEN server")


async def _unfinished_job(ledger: Ledger, session_id: str, made: dict[str, Any], *, now: int) -> Job:
    """Return the image's job, which is created if the ledger does not have it. Raises UmrgenError."""
    job = await ledger.jobs.get(made["job_id"])
    if job is None:
        job, _ = await ledger.jobs.submit(made["job_id"], session_id, _request(made), _engine(made), now=now)
    if job.session_id != session_id:
        raise UmrgenError("its job belongs to another session")
    if job.over:
        raise UmrgenError(f"its job is {job.state} without it")
    return job


def _request(made: dict[str, Any]) -> GenerationRequest:
    names = ("prompt", "negative", "seed", "steps", "width", "height")
    try:
        known = {name: made[name] for name in names if name in made}
        return msgspec.convert({"prompt": NO_PROMPT} | known, GenerationRequest)
    except msgspec.ValidationError:
        raise UmrgenError("its provenance is not complete") from None


def _engine(made: dict[str, Any]) -> str:
    engine = made.get("engine")
    name = engine.get("name", "") if isinstance(engine, dict) else engine
    return str(name or "")
