"""The ids of prompts, and where the prompts of a job are.

The ids of a job's prompts follow from the id of the job, which is durable before the engine gets the job. So a server
that was killed finds its running prompt again, and no prompt is sent twice.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID, uuid5

from umrgen.server.engines import EngineCrashed
from umrgen.server.engines.comfyui.answers import HistoryEntry, PromptState, QueueEntry
from umrgen.server.engines.comfyui.servers import ComfyServer, ComfyServers
from umrgen.server.engines.remote_http import ServerUnreachable

__all__ = ["Located", "find_prompt", "locate", "prompt_uuid"]

NAMESPACE = UUID("c3b7c6b8-4f1d-5d0e-9a53-7f0e6a3c9d21")
"""A random UUID, the namespace of the ids."""
E = TypeVar("E", QueueEntry, HistoryEntry)
USABLE = (PromptState.PENDING, PromptState.RUNNING, PromptState.SUCCEEDED)
MOST_PROMPTS = 50
"""Prompts of one job; a job has few attempts."""
SEARCHED = 200
"""Entries of the history that are searched in a version which chooses the ids itself."""


def prompt_uuid(job_id: str, number: int) -> str:
    """Return the id of a job's prompt, from 0: a lower-case UUID, the only form that all versions accept."""
    return str(uuid5(NAMESPACE, f"{job_id} {number}"))


@dataclass(frozen=True, slots=True)
class Located:
    """The prompt to continue with; without a server, it is to be sent."""

    number: int
    server: ComfyServer | None = None
    entry: QueueEntry | HistoryEntry | None = None
    """The prompt, under the id that the server has it by: its own, in versions that ignore the given one."""


@dataclass(slots=True)
class _Search:
    """One server, and those of its lists that are the same for each prompt."""

    server: ComfyServer
    queue: Sequence[QueueEntry]
    recent: Sequence[HistoryEntry] | None = field(default=None)

    async def find(self, prompt_id: str) -> "QueueEntry | HistoryEntry | None":
        """Find a prompt. The queue was read first: a prompt only moves from there to the history."""
        if waiting := _match(self.queue, prompt_id):
            return waiting
        ended = await self.server.client.history(prompt_id)
        if ended is None and self.server.chooses_ids:
            if self.recent is None:
                self.recent = await self.server.client.recent(SEARCHED)
            ended = _match(self.recent, prompt_id)
        return ended


def _match(entries: Sequence[E], prompt_id: str) -> E | None:
    """Return the entry with this id: its own, or that of its client, which is the id that was given."""
    return next((entry for entry in entries if prompt_id in (entry.prompt_id, entry.client_id)), None)


async def locate(servers: ComfyServers, job_id: str, *, start: int, sent: int) -> Located:
    """Return the first prompt from number `start` on that waits, runs or has succeeded on a server; else a new one.

    A prompt that failed or was cancelled is skipped, and so is an unknown one with a number below `sent`, which
    this process has sent already. Raises EngineCrashed if a server that should respond does not.
    """
    searches = [search for search in await asyncio.gather(*map(_search, servers.responding())) if search]
    if not searches:
        raise EngineCrashed("no ComfyUI server responds")
    for number in range(start, MOST_PROMPTS):
        prompt_id = prompt_uuid(job_id, number)
        found = [(search.server, entry) for search in searches if (entry := await search.find(prompt_id))]
        usable = [Located(number, server, entry) for server, entry in found if entry.state in USABLE]
        if usable:
            return usable[0]
        if not found and number >= sent:
            return Located(number)
    raise EngineCrashed(f"ComfyUI has failed {MOST_PROMPTS} prompts of this job")


async def _search(server: ComfyServer) -> _Search | None:
    """Read the queue of a server; None if it has stopped responding."""
    try:
        return _Search(server, await server.client.queue())
    except ServerUnreachable as error:
        server.lost(error)
        return None


async def find_prompt(server: ComfyServer, prompt_id: str) -> QueueEntry | HistoryEntry | None:
    """Return the present state of a prompt, None if the server does not have it."""
    return await _Search(server, await server.client.queue()).find(prompt_id)
