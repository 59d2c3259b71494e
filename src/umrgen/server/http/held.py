"""Status calls that are held without a task, until their job is over: each costs some hundred bytes.

Thousands of callers wait for jobs, often for the same one, and all want to hear at once. A task for each,
with a second one that listens for the caller's leaving, costs several kilobytes and more time than the answer.
"""

import asyncio
from typing import Any, ClassVar, Protocol

from umrgen.jobs import Job
from umrgen.server.http import Services
from umrgen.server.http.endings import pack
from umrgen.server.http.status import View, answer_of, to_problem
from umrgen.server.ledger import Key, LedgerUnavailable

__all__ = ["HeldCall", "Line", "ending"]


def ending(services: Services, job: Job, wait: int | None) -> bytes:
    """The packed answer about a job that is over, to a caller who asked to be held for `wait` seconds."""
    answer = services.endings.get(job, wait)
    if answer is None:
        _, headers, body = answer_of(View(services, job, None), wait)
        answer = pack(headers, body)
        if not services.signatures.wanted:  # a signed URL is new for everybody
            services.endings.keep(job, wait, answer)
    return answer


class Line(Protocol):
    """The connection that a held call came in on."""

    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[Any]]

    def tell_held(self, status: int, answer: bytes) -> None:
        """Send the packed answer to the call that is held."""
        ...

    def end_hold(self) -> None:
        """Go on to what was asked behind the call that was held: it has its answer."""
        ...


class HeldCall:
    """One held call. It stands where uvicorn has the cycle of a request, not complete yet: so uvicorn lets
    what is asked behind it wait its turn, and the connection stays open. A `Watcher` of its job."""

    __slots__ = (
        *("_job_id", "_line", "_services", "_session_id", "_timer", "_told", "_wait"),
        *("disconnected", "keep_alive", "names_changed", "owner", "response_complete"),
    )

    message_event: ClassVar = asyncio.Event()
    """Where uvicorn tells what arrives on the line; nobody waits for it here."""

    def __init__(self, line: Line, services: Services, key: Key, job: Job, wait: int) -> None:
        """Wait for the end of `job`, for up to `wait` seconds."""
        self.owner = key.id
        self.names_changed: set[str] | None = None
        self.response_complete = self.disconnected = False
        self.keep_alive = True
        self._line = line
        self._services = services
        self._job_id = job.id
        self._session_id = job.session_id
        self._wait = wait
        self._told = False
        self._timer: asyncio.TimerHandle | None = line.loop.call_later(wait, self._time_over)
        services.waiters.add((job.id,), self)

    def leave(self) -> bool:
        """Wait no longer; whether it was waiting until now."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        self._services.waiters.discard((self._job_id,), self)
        return True

    def wake(self) -> None:
        """The job has changed, or the server stops."""
        if self._told:
            return
        if self._services.waiters.closing:
            self._time_over()
            return
        try:
            job = self._services.ledger.glance(self._job_id)
        except LedgerUnavailable:
            return  # the caller hears of it, if it stays so, when its time is over
        if job is not None and job.over:
            self._end(200, ending(self._services, job, self._wait))

    def _time_over(self) -> None:
        if not self._told and self.leave():
            task = self._line.loop.create_task(self._tell())
            self._line.tasks.add(task)
            task.add_done_callback(self._line.tasks.discard)

    async def _tell(self) -> None:
        """Answer how the job stands now."""
        try:
            view = await View.of(self._services, self._job_id, self._session_id)
            status, headers, body = answer_of(view, self._wait)
        except Exception as error:
            status, headers, body = to_problem(error).answer()
        self._end(status, pack(headers, body))

    def _end(self, status: int, answer: bytes) -> None:
        self._told = True
        self._line.tell_held(status, answer)
        # Thousands may be told in this turn of the loop: what is not the telling itself comes when all of them know.
        self._line.loop.call_soon(self._tidy_up)

    def _tidy_up(self) -> None:
        self.leave()
        self.response_complete = True
        self._line.end_hold()
