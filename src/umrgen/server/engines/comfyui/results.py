"""From the history of a prompt to images or an error."""

from umrgen.image_files import sniff
from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import EncodedImage, EngineFailure, OutOfMemory
from umrgen.server.engines.comfyui.answers import HistoryEntry, PromptState
from umrgen.server.engines.comfyui.transport import ComfyClient

__all__ = ["check_succeeded", "fetch_images"]

NO_IMAGES = "the workflow made no image; it needs a node such as SaveImage at its end"


def check_succeeded(entry: HistoryEntry, request: GenerationRequest) -> None:
    """Raise EngineFailure or OutOfMemory for a prompt that ended otherwise."""
    if entry.state is PromptState.SUCCEEDED:
        return
    if entry.state is PromptState.CANCELLED:
        raise EngineFailure("the prompt was interrupted in ComfyUI")
    if entry.error is None:
        raise EngineFailure("the prompt failed in ComfyUI; ComfyUI's log has the reason")
    if entry.error.out_of_memory:
        raise OutOfMemory(
            f"node {entry.error.node} ({entry.error.class_type}) needs more memory than ComfyUI's device has; "
            f"lower width and height ({request.width} x {request.height})"
        )
    raise EngineFailure(f"ComfyUI: {entry.error}")


async def fetch_images(client: ComfyClient, entry: HistoryEntry) -> list[EncodedImage] | None:
    """Return the images of a prompt, as they were written; None if a file was deleted. Raises EngineFailure.

    Files of the type `temp`, from nodes such as PreviewImage, are used only if there are no others.
    """
    files = [file for file in entry.files if file.type == "output"] or [f for f in entry.files if f.type == "temp"]
    if len(files) > MAX_IMAGES:
        raise EngineFailure(f"the workflow made {len(files)} images; a job may have {MAX_IMAGES}: lower batch_size")
    images = []
    for file in files:
        data = await client.view(file)
        if data is None:
            return None
        images.append(_image(data))
    found = [image for image in images if image is not None]
    if not found:
        raise EngineFailure(NO_IMAGES if not files else "the workflow wrote files that are not PNG, JPEG or WebP")
    return found


def _image(data: bytes) -> EncodedImage | None:
    """Return an image; None for a file of another kind, such as a video."""
    media_type = sniff(data[:16])
    return EncodedImage(data, media_type) if media_type else None
