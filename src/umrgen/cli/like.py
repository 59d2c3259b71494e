"""`umrgen generate --like FILE`: the request that drew an image, from its file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umrgen.errors import UmrgenError

if TYPE_CHECKING:
    from umrgen.client.descriptions import Capabilities
    from umrgen.provenance import Provenance

__all__ = ["differences", "record_in", "request_like", "supported"]


def record_in(file: Path) -> "Provenance":
    """Return the record of a file of UMRGEN or AUTOMATIC1111. Raises UmrgenError without one."""
    from umrgen.provenance import verify

    found = verify(file)
    if found.record is None:
        raise UmrgenError(
            f"{file} does not say how it was made. {found.reason}",
            code="no_record",
            next="Give the prompt and the settings yourself.",
        )
    return found.record


def request_like(record: "Provenance", changes: dict[str, Any]) -> dict[str, Any]:
    """Return the request of a record, with `changes`. Raises UmrgenError for a record without a prompt."""
    given = {
        "prompt": record.prompt,
        "negative": record.negative,
        "seed": record.seed,
        "width": record.width,
        "height": record.height,
        "steps": record.steps,
        "cfg": record.cfg,
        "model": record.model,
        "loras": [{"name": name, "strength": strength} for name, strength in record.loras],
    }
    request = {name: value for name, value in given.items() if value not in (None, "", [])}
    request |= {name: value for name, value in changes.items() if value not in (None, ())}
    if "prompt" not in request:
        raise UmrgenError("the file does not have its prompt", code="no_record", next="Give the PROMPT as well.")
    return request


def differences(record: "Provenance", server: "Capabilities") -> Iterator[str]:
    """Yield what makes the server's image another one than that of the file, one line each."""
    if record.engine and server.engine and record.engine != server.engine:
        yield f"the engine is {server.engine}; the file was made by {record.engine}"
    if record.model and record.model not in server.models:
        yield f"the server does not have the model {record.model}"
    for name, _ in record.loras:
        if name not in server.loras:
            yield f"the server does not have the LoRA {name}"
    if record.references:
        yield f"the file was made with {len(record.references)} reference images, which it does not contain"
    if record.batch > 1:
        yield f"the image was drawn together with {record.batch - 1} others, which can change its pixels slightly"


def supported(request: dict[str, Any], server: "Capabilities") -> dict[str, Any]:
    """Return the request without the parameters that the server would refuse."""
    kept = dict(request)
    for name in ("negative", "cfg"):
        if name not in server.features:
            kept.pop(name, None)
    if kept.get("model") not in server.models:
        kept.pop("model", None)
    if "loras" in kept:
        kept["loras"] = [lora for lora in kept["loras"] if lora["name"] in server.loras]
    return kept
