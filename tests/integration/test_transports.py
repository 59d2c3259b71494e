"""The behaviour of the API, over HTTP and over a transport without HTTP: the rules are in the services."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from transports import Direct, Http, Refused, Transport
from umrgen.image_files import verify
from umrgen.server.application import Application
from umrgen.server.services.api_keys import NewKey
from umrgen.server.settings import Settings

SMALL = {"width": 512, "height": 512, "steps": 1}


@pytest.fixture
async def application(tmp_path: Path) -> AsyncIterator[Application]:
    terms = tmp_path / "terms"
    terms.write_text("weapon\n")
    application = Application(Settings(state=tmp_path / "state", policy=str(terms)))
    await application.open()
    application.start()
    await application.executor.ready()
    yield application
    await application.drain(0)
    await application.close()


@pytest.fixture(params=[Http, Direct])
async def transport(request: pytest.FixtureRequest) -> type[Http] | type[Direct]:
    chosen: type[Http] | type[Direct] = request.param
    return chosen


async def connect(transport: type[Http] | type[Direct], application: Application, **limits: int) -> Transport:
    """Return a caller with a new key."""
    secret, _ = await application.keys.create(NewKey("test", **limits))
    return transport(application, secret)


async def test_a_prompt_becomes_an_image(transport: type[Http] | type[Direct], application: Application) -> None:
    caller = await connect(transport, application)
    job_id = await caller.submit("a boat", **SMALL)
    assert await caller.wait(job_id) == ("completed", None)
    image = await caller.fetch(job_id)
    verify(image)
    reference = await caller.upload(image)
    with_reference = await caller.submit("a boat like that", reference_images=(reference,), **SMALL)
    assert await caller.wait(with_reference) == ("completed", None)


async def test_idempotency(transport: type[Http] | type[Direct], application: Application) -> None:
    caller = await connect(transport, application)
    job_ids = [await caller.submit("a boat", key="k", **SMALL) for _ in range(2)]
    assert len(set(job_ids)) == 1
    with pytest.raises(Refused, match="idempotency_conflict"):
        await caller.submit("another boat", key="k", **SMALL)
    other = await connect(transport, application)
    assert await other.submit("a boat", key="k", **SMALL) != job_ids[0]


async def test_limits_of_a_key(transport: type[Http] | type[Direct], application: Application) -> None:
    caller = await connect(transport, application, concurrent=1, rate=4)
    await caller.submit("a boat", width=2048, height=2048, steps=50)
    with pytest.raises(Refused, match="concurrent_limit"):
        await caller.submit("a boat", **SMALL)
    daily = await connect(transport, application, daily=1)
    await daily.submit("a boat", **SMALL)
    with pytest.raises(Refused, match="rate_limited"):
        await daily.submit("a boat", **SMALL)
    with pytest.raises(Refused, match="job_not_found"):
        await caller.cancel("ext_none")
    with pytest.raises(Refused, match="job_not_found"):
        await caller.cancel("ext_none")
    with pytest.raises(Refused, match="rate_limited"):
        await caller.cancel("ext_none")


async def test_invalid_requests_are_refused(transport: type[Http] | type[Direct], application: Application) -> None:
    caller = await connect(transport, application)
    with pytest.raises(Refused, match="content_policy"):
        await caller.submit("a Weapon", **SMALL)
    with pytest.raises(Refused, match="invalid_request"):
        await caller.submit("a boat", reference_images=("ref_none.png",), **SMALL)
    with pytest.raises(Refused, match="invalid_request"):
        await caller.submit("a boat", webhook_url="http://127.0.0.1/", **SMALL)
    with pytest.raises(Refused, match="unsupported_media_type"):
        await caller.upload(b"no image")


async def test_sessions_are_isolated(transport: type[Http] | type[Direct], application: Application) -> None:
    mine, other = await connect(transport, application), await connect(transport, application)
    job_id = await mine.submit("a boat", **SMALL)
    await mine.wait(job_id)
    reference = await mine.upload(await mine.fetch(job_id))
    for act in (other.wait, other.cancel, other.fetch):
        with pytest.raises(Refused, match="job_not_found"):
            await act(job_id)
    with pytest.raises(Refused, match="invalid_request"):
        await other.submit("a boat", reference_images=(reference,), **SMALL)


async def test_cancelling(transport: type[Http] | type[Direct], application: Application) -> None:
    caller = await connect(transport, application)
    job_ids = [await caller.submit("a boat", width=2048, height=2048, steps=50) for _ in range(2)]
    for _ in range(2):
        assert await caller.cancel(job_ids[0]) == "cancelled"
    assert await caller.wait(job_ids[0]) == ("failed", "cancelled")
    other = await application.ledger.jobs.get(job_ids[1])
    assert other is not None
    assert not other.over
    assert await caller.cancel(job_ids[1]) == "cancelled"


async def test_a_wrong_key_is_refused(transport: type[Http] | type[Direct], application: Application) -> None:
    with pytest.raises(Refused, match="unauthorized"):
        await transport(application, "umr_wrong").submit("a boat", **SMALL)


async def test_a_draining_server_accepts_nothing(
    transport: type[Http] | type[Direct], application: Application
) -> None:
    caller = await connect(transport, application)
    application.admission.draining = True
    for act in (caller.submit("a boat", **SMALL), caller.upload(b"")):
        with pytest.raises(Refused, match="draining"):
            await act
