"""One job on ComfyUI: find or send its prompt, follow it to its end, and fetch the images."""

import asyncio
import hashlib
from collections.abc import Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from umrgen.image_files import EXTENSIONS, sniff
from umrgen.server.engines import Cancelled, DrawTask, EncodedImage, EngineCrashed, Report
from umrgen.server.engines.comfyui.answers import Accepted, HistoryEntry, PromptEnded, PromptState, QueueEntry
from umrgen.server.engines.comfyui.cancellation import cancel_prompt
from umrgen.server.engines.comfyui.listener import EventListener
from umrgen.server.engines.comfyui.progress import ComfyProgress
from umrgen.server.engines.comfyui.prompts import Located, find_prompt, locate, prompt_uuid
from umrgen.server.engines.comfyui.results import check_succeeded, fetch_images
from umrgen.server.engines.comfyui.servers import ComfyServer, ComfyServers, models_of
from umrgen.server.engines.comfyui.transport import PromptRefused
from umrgen.server.engines.comfyui.workflow import Workflow
from umrgen.server.engines.remote_http import ResponseLost, ServerUnreachable

__all__ = ["Drawing", "PollLimits"]

FIRST_POLL = 0.1
"""Seconds until the first poll of a prompt without a socket; doubled up to the interval."""
AFTER_END = 0.02
"""Seconds until the next poll of a prompt whose end was announced, and whose history is not written yet."""
UNKNOWN_POLLS = 3
"""Polls in a row that do not find a prompt before it counts as lost."""
REMEMBERED = 10_000
"""Jobs whose prompts are counted."""
MOST_REPEATS = 3
"""Prompts of one drawing whose images were deleted."""


@dataclass(frozen=True, slots=True)
class PollLimits:
    """Times in seconds."""

    interval: float
    """Between two polls of a prompt whose messages arrive; at most this without them."""
    lost_after: float
    """Until a server that does not respond any more is given up."""


class Drawing:
    """The drawing of one task."""

    def __init__(
        self,
        task: DrawTask,
        report: Report,
        workflow: Workflow,
        servers: ComfyServers,
        limits: PollLimits,
        sent: MutableMapping[str, int],
    ) -> None:
        """`sent` has for each job the number of prompts that this process has sent."""
        self._task = task
        self._report = report
        self._workflow = workflow
        self._servers = servers
        self._limits = limits
        self._sent = sent
        self._current: tuple[ComfyServer, str] | None = None
        """The server and the id of a prompt that may wait or run."""

    async def run(self) -> list[EncodedImage]:
        """Return the images. A cancelled drawing cancels its prompt; after another error, a retry finds it again."""
        try:
            return await self._draw()
        except (asyncio.CancelledError, Cancelled):
            if self._current is not None:
                await cancel_prompt(*self._current)
            raise

    async def _draw(self) -> list[EncodedImage]:
        start = 0
        for _ in range(MOST_REPEATS):
            located = await locate(
                self._servers, self._task.job_id, start=start, sent=self._sent.get(self._task.job_id, 0)
            )
            images = await self._continue(located)
            if images is not None:
                self._sent.pop(self._task.job_id, None)
                return images
            start = located.number + 1
        raise EngineCrashed("ComfyUI's images were deleted before they could be read")

    async def _continue(self, located: Located) -> list[EncodedImage] | None:
        """Return the images of a prompt that was found or is sent now; None if their files were deleted."""
        entry = located.entry
        if located.server is None:
            server, entry = await self._send(located.number)
        else:
            server = located.server
            if isinstance(entry, HistoryEntry):
                self._progress(entry.prompt_id).finish()
            else:
                entry = await self._attach(server, located)
        self._current = None
        check_succeeded(entry, self._task.request)
        return await fetch_images(server.client, entry)

    def _progress(self, prompt_id: str) -> ComfyProgress:
        return ComfyProgress(self._report, self._task.request.steps, self._workflow.bindings.samplers, prompt_id)

    # --- sending ---

    async def _send(self, number: int) -> tuple[ComfyServer, HistoryEntry]:
        """Send the prompt to a server, and follow it. A server that accepts no connection is skipped."""
        tried: list[ComfyServer] = []
        while server := self._servers.choose(self._task.request, tried):
            try:
                with server.slot(models_of(self._task.request)):
                    return server, await self._send_to(server, number)
            except ServerUnreachable as error:
                server.lost(error)
                tried.append(server)
        if self._servers.responding():
            raise EngineCrashed("no ComfyUI that responds has this model or LoRA")
        raise EngineCrashed("no ComfyUI server responds")

    async def _send_to(self, server: ComfyServer, number: int) -> HistoryEntry:
        prompt_id = prompt_uuid(self._task.job_id, number)
        references = [await self._upload(server, data) for data in self._task.references]
        repeat = prompt_id[:8] if number else ""
        graph = msgspec.to_builtins(
            self._workflow.build(self._task.request, references, repeat, seed_max=server.seed_max)
        )
        async with EventListener(server.client, prompt_id) as listener:
            self._current = server, prompt_id
            self._count_sent(number + 1)
            try:
                accepted = await _finished(server.client.submit(graph, prompt_id))
            except ServerUnreachable:
                self._current, self._sent[self._task.job_id] = None, number
                raise
            except ResponseLost:
                return await self._follow(server, prompt_id, listener, accepted=False)  # it may arrive yet
            except PromptRefused:
                self._current = None
                raise
            if accepted.errors:
                await cancel_prompt(server, accepted.prompt_id)
                raise PromptRefused(f"ComfyUI refuses a part of the workflow: {accepted.errors[0]}")
            self._current = server, accepted.prompt_id
            return await self._follow(server, accepted.prompt_id, listener)

    def _count_sent(self, count: int) -> None:
        self._sent[self._task.job_id] = count
        while len(self._sent) > REMEMBERED:
            self._sent.pop(next(iter(self._sent)))

    async def _upload(self, server: ComfyServer, data: bytes) -> str:
        """Upload a reference image under a name that follows from its content."""
        media_type = sniff(data[:16]) or "image/png"
        name = f"{hashlib.sha256(data).hexdigest()[:32]}{EXTENSIONS[media_type]}"
        return await server.client.upload(name, data, media_type)

    async def _attach(self, server: ComfyServer, located: Located) -> HistoryEntry:
        """Follow a prompt that waits or runs already."""
        client_id = prompt_uuid(self._task.job_id, located.number)
        prompt_id = located.entry.prompt_id if located.entry else client_id
        self._current = server, prompt_id
        with server.slot(models_of(self._task.request)):
            async with EventListener(server.client, client_id) as listener:
                return await self._follow(server, prompt_id, listener)

    # --- following ---

    async def _follow(
        self, server: ComfyServer, prompt_id: str, listener: EventListener, *, accepted: bool = True
    ) -> HistoryEntry:
        """Return the end of a prompt. Messages give its progress; only the history confirms its end."""
        progress = self._progress(prompt_id)
        watch = _PromptWatch(server, prompt_id, self._limits, accepted=accepted)
        while True:
            connected = listener.connected.is_set()
            event = await listener.next(watch.remaining(connected=connected))
            if isinstance(event, PromptEnded) and event.prompt_id in (None, prompt_id):
                watch.hasten()
            elif event is not None:
                progress.observe(event)
            if watch.remaining(connected=connected):
                continue
            entry = await watch.poll()
            if isinstance(entry, HistoryEntry):
                for event in listener.waiting():
                    progress.observe(event)
                if entry.state is PromptState.SUCCEEDED:
                    progress.finish()
                return entry
            if entry is not None:
                progress.running()


async def _finished(call: Coroutine[Any, Any, Accepted]) -> Accepted:
    """Return the result of a call that is not cut off when this task is cancelled: a prompt that is sent arrives."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


class _PromptWatch:
    """The schedule of the polls of one prompt, and the detection of a lost prompt or server."""

    def __init__(self, server: ComfyServer, prompt_id: str, limits: PollLimits, *, accepted: bool) -> None:
        """`accepted`: whether the server had the prompt; else it is awaited for `lost_after` seconds."""
        self._server = server
        self._prompt_id = prompt_id
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._delay = FIRST_POLL
        self._polled = self._answered = self._clock()
        self._unknown = 0
        self._awaited_until = 0.0 if accepted else self._clock() + limits.lost_after

    def remaining(self, *, connected: bool) -> float:
        """Return the seconds until the next poll."""
        delay = self._limits.interval if connected and self._delay >= FIRST_POLL else self._delay
        return max(0.0, self._polled + min(delay, self._limits.interval) - self._clock())

    def hasten(self) -> None:
        """Poll the prompt now, and soon again: its end was announced."""
        self._delay = AFTER_END
        self._polled = float("-inf")

    async def poll(self) -> QueueEntry | HistoryEntry | None:
        """Return the state of the prompt, None if it is not known now. Raises EngineCrashed if it is lost."""
        entry = None
        try:
            entry = await find_prompt(self._server, self._prompt_id)
        except EngineCrashed as error:
            self._server.lost(error)
            if self._clock() - self._answered > self._limits.lost_after:
                # Not a ServerUnreachable, after which a prompt that was not sent is sent to another server.
                raise EngineCrashed("ComfyUI does not respond any more") from None
        else:
            self._answered = self._clock()
            self._unknown = 0 if entry else self._unknown + 1
        if self._unknown >= UNKNOWN_POLLS and self._clock() > self._awaited_until:
            raise EngineCrashed("ComfyUI has lost the prompt: it was restarted, or its queue was cleared")
        self._polled = self._clock()
        self._delay = FIRST_POLL if self._unknown else min(self._limits.interval, 2 * self._delay)
        return entry
