"""What the first servers do not do, without a word: the seed is not reported, sizes are clamped, parameters ignored."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from umrgen.image_files import SavedImage

__all__ = ["receipt_warnings", "sent_seed", "size_warnings", "with_seed"]

SEEDS = 2**32
IGNORED = {
    "webhook_url": "it sends no webhook",
    "priority": "it has no priorities",
    "idempotency_key": "a second submit makes a second job",
}


def with_seed(request: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
    """Return the request with a seed, so that it can be reported, even for a server that does not report seeds.

    It is made of the idempotency key, under which the request must be the same each time.
    """
    if request.get("seed") not in (None, -1):
        return dict(request)
    digest = hashlib.sha256(idempotency_key.encode()).digest()
    return {**request, "seed": int.from_bytes(digest[:8]) % SEEDS}


def sent_seed(request: Mapping[str, Any]) -> int | None:
    """Return the seed that the client has sent."""
    seed = request.get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else None


def receipt_warnings(receipt: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a request the server will not do, by its response to the submit: one of ours has a status URL."""
    if "status_url" in receipt:
        return
    for name, consequence in IGNORED.items():
        if request.get(name):
            yield f"this server is an older one, which ignores {name}: {consequence}"


def size_warnings(image: SavedImage, request: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the size of an image differs from the request."""
    sides = {"width": image.width, "height": image.height}
    wanted = {side: request[side] for side in sides if request.get(side) is not None}
    if None not in sides.values() and any(sides[side] != size for side, size in wanted.items()):
        text = " and ".join(f"{side} {size}" for side, size in wanted.items())
        yield f"the image has {image.width} × {image.height} pixels; the request was for {text}"
