"""Right and wrong uses of the client, for a type checker: each wrong one has a comment that names its error.

`make types` runs mypy on this file, which reports a comment that hides nothing.
"""

import io
from datetime import datetime
from pathlib import Path

from umrgen import AsyncClient, Capabilities, Client, ListedJob, SavedImage, Status, UmrgenError


def right(client: Client) -> None:
    image: SavedImage = client.generate(
        "a lighthouse", to="lighthouse.png", width=1024, height=768, steps=8, seed=7, negative="people", timeout=60
    )
    client.generate("the same", io.BytesIO(), references=["a.png", Path("b.png"), b"bytes"], overwrite=True)
    client.generate("the same", None, loras=[{"name": "ink", "strength": 0.5}], reference_images=["a"], seed=None)
    data: bytes = image.data
    size: tuple[int, int] | None = image.size
    job = client.submit("a lighthouse", idempotency_key="key", wait_for_slot=True, priority=1)
    status: Status = job.wait(timeout=120, on_stall="raise")
    place: int | None = status.queue_position
    listed: list[ListedJob] = list(client.jobs(state="completed", limit=10))
    created: datetime | None = listed[0].created_at
    can: Capabilities = client.capabilities()
    most: int | None = can.max_steps
    for result in client.generate_many([{"prompt": "a"}], ["a.png"], timeout=60):
        if isinstance(result, UmrgenError):
            print(result.code, result.next, result.request)
        else:
            print(result.path, result.request)
    print(data, size, place, created, most, job.image().sha256)


async def right_too(client: AsyncClient) -> None:
    image: SavedImage = await client.generate("a lighthouse", to=Path("lighthouse.png"), width=1024)
    job = await client.submit("a lighthouse", steps=4)
    async for status in job.watch(timeout=5):
        print(status.state)
    print(image, [job.prompt async for job in client.jobs()], (await client.capabilities()).engine)


def wrong(client: Client) -> None:
    client.generate()  # type: ignore[call-arg]
    client.generate("a boat", widht=512)  # type: ignore[call-arg]
    client.generate("a boat", width="512")  # type: ignore[arg-type]
    client.generate("a boat", to=5)  # type: ignore[arg-type]
    client.generate("a boat", references=[5])  # type: ignore[list-item]
    client.generate("a boat", loras=[{"nmae": "ink"}])  # type: ignore[typeddict-unknown-key]
    client.submit("a boat", "boat.png")  # type: ignore[call-arg]
    client.submit("a boat").wait(tiemout=5)  # type: ignore[call-arg]
    client.submit("a boat").wait(on_stall="give up")  # type: ignore[arg-type]
    client.submit("a boat").imgae()  # type: ignore[attr-defined]
    client.jobs()["jobs"]  # type: ignore[index]
    print(client.capabilities().engnie)  # type: ignore[attr-defined]
    Client(timeuot=5)  # type: ignore[call-arg]


async def wrong_too(client: AsyncClient) -> None:
    await client.generate("a boat", step=5)  # type: ignore[call-arg]
    await client.jobs()  # type: ignore[misc]
    print(client.submit("a boat").id)  # type: ignore[attr-defined]
