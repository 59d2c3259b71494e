"""Cancels a prompt: the pending one is removed, the running one interrupted, and no other one is touched."""

import asyncio
import logging

from umrgen.server.engines import EngineCrashed
from umrgen.server.engines.comfyui.answers import PromptState, QueueEntry
from umrgen.server.engines.comfyui.prompts import find_prompt
from umrgen.server.engines.comfyui.servers import ComfyServer

__all__ = ["cancel_prompt"]

log = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds until a prompt that ignores its interruption is left to itself: during its last node, ComfyUI ignores it."""
FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0
"""Seconds between two polls of the queue, doubled each time."""


async def cancel_prompt(server: ComfyServer, prompt_id: str) -> None:
    """Cancel a prompt, and wait until it has left the queue, so that its place is free."""
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            await _cancel(server, prompt_id)
    except TimeoutError:
        log.warning("prompt %s: it did not stop within %g s, and is left to itself", prompt_id, LONGEST_WAIT)
    except EngineCrashed as error:
        server.lost(error)
        log.warning("prompt %s: it could not be cancelled: %s", prompt_id, error)


async def _cancel(server: ComfyServer, prompt_id: str) -> None:
    cancelled = await server.client.cancel(prompt_id)
    interrupted, delay = False, FIRST_DELAY
    while True:
        entry = await find_prompt(server, prompt_id)
        if not isinstance(entry, QueueEntry):
            return
        if not cancelled and entry.state is PromptState.PENDING:
            await server.client.remove_pending(entry.prompt_id)
        elif not cancelled and not interrupted:
            await server.client.interrupt(entry.prompt_id)
            interrupted = True
        await asyncio.sleep(delay)
        delay = min(LONGEST_DELAY, 2 * delay)
