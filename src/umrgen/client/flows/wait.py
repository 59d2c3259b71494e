"""Watching one job to its end: how often to look, what a status means, when to say that it stalls."""

import re
from urllib.parse import quote

from umrgen.client.flow import CallContext, Event, Flow, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.protocol import API, failure_of, limited_delay, transient, unreachable
from umrgen.errors import (
    ConnectionFailed,
    JobFailed,
    JobNotFound,
    JobStalled,
    OutputMissing,
    RateLimited,
    WaitTimeout,
)
from umrgen.model import State, Status

__all__ = ["Watch", "finished", "held_for"]


def held_for(reply: Reply) -> float:
    """The seconds for which the server says it held a call, at the most; 0 when it does not hold calls."""
    applied = re.search(r"wait=(\d{1,4})", reply.headers.get("preference-applied", ""))
    return float(applied[1]) if applied else 0.0


class Watch:
    """The wait for one job. What one change learnt (pace, patience, the stall clock), the next one knows."""

    def __init__(self, run: CallContext, job_id: str, *, seen: bool = False, hold: bool = True) -> None:
        self.run = run
        self.delay = 0.0
        """Seconds until the next look."""
        self._hold = hold
        self.job_id = job_id
        self.status: Status | None = None
        self._path = f"{API}/status/{quote(job_id, safe='')}"
        self._seen = seen
        self._patience = RetryBudget(run, run.options.patience)
        self._limited = RetryBudget(run, float("inf"))
        self._garbage = 0
        self._etag: str | None = None
        self._changes = 0
        self._changed_at = run.now
        self._queued_since = run.now
        self._look_from: float | None = None
        self._told: set[str] = set()

    # --- what callers use ---

    def next_change(self, *, until_over: bool = False) -> "Flow[Status]":
        """The job's status as soon as it differs from the last one; with `until_over`, its end.

        Raises JobNotFound, JobStalled (if asked for), WaitTimeout, and what the server refuses.
        """
        while True:
            before = self._changes
            status = yield from self.look(until_over=until_over)
            if status is not None and (status.over or (self._changes > before and not until_over)):
                return status

    def result(self) -> "Flow[Status]":
        """The completed job. Raises JobFailed, OutputMissing and what `next_change` raises."""
        status = yield from self._end()
        if status.state == State.COMPLETED and not status.images:
            # Once more: an older server may still be looking for the file.
            self.delay = self.run.options.running_interval
            self._etag = None
            status = yield from self._end()
        return finished(status)

    def _end(self) -> "Flow[Status]":
        while True:
            status = yield from self.next_change(until_over=not self.run.options.follow)
            if status.over:
                return status

    # --- one look ---

    def look(self, *, until_over: bool = True) -> "Flow[Status | None]":
        """One request; None when it brought no status. The next is due after `self.delay`."""
        status = yield from self._look(until_over)
        if status is not None:
            self._note(status)
        return status

    def _look(self, until_over: bool) -> "Flow[Status | None]":
        run = self.run
        # For every change a server is held by the version we know; before we know one, a plain look.
        wait = run.hold(self._queue_left()) if self._hold and (until_over or self._etag) else 0
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        if self._etag and not until_over:
            headers["If-None-Match"] = self._etag
        try:
            reply = yield run.step("GET", self._path, delay=self.delay, headers=headers, held=wait, job_id=self.job_id)
        except TransportFailure as failure:
            run.now = failure.at
            error = ConnectionFailed(
                unreachable(failure), job_id=self.job_id, next=f"Carry on with: umrgen wait {self.job_id}"
            )
            self.delay = self._patience.bear(error, job_id=self.job_id)
            return None
        run.now = reply.at
        if reply.status == 304 and self.status is not None:
            self._understood()
            self.delay = self._pace(reply, self.status)
            return self.status
        data = reply.json() if reply.status == 200 else None
        status = Status.parse(data, self.job_id) if data is not None else None
        if status is None:
            self._refused(reply)
            return None
        self._understood()
        self._etag = reply.headers.get("etag")
        self.delay = self._pace(reply, status)
        return status

    def _understood(self) -> None:
        self._seen = True
        self._garbage = 0
        self._patience.good()
        self._limited.good()

    def _refused(self, reply: Reply) -> None:
        """Bear what may pass, raise what will not."""
        run = self.run
        error = failure_of(reply, job_id=self.job_id)
        if isinstance(error, JobNotFound):
            raise self._gone(error)
        if isinstance(error, RateLimited):
            self.delay = self._limited.bear(error, limited_delay(run, reply, self._limited), job_id=self.job_id)
        elif transient(reply):
            self.delay = self._patience.bear(error, retry_after(reply), job_id=self.job_id)
        elif reply.status == 200 and (self._seen or self._garbage < self.run.options.garbage_tries):
            # A tunnel's page or a cut-off answer. A server that has made sense before gets more patience.
            self._garbage += 1
            self.delay = max(self._patience.bear(error, job_id=self.job_id), self.run.options.running_interval)
        else:
            raise error

    def _gone(self, error: JobNotFound) -> JobNotFound:
        if not self._seen:
            return JobNotFound(
                f"the server knows no job {self.job_id}", status=error.status, job_id=self.job_id, next=error.next
            )
        return JobNotFound(
            f"job {self.job_id} was there and is gone: it failed a while ago, or the server was restarted",
            code="job_gone",
            status=error.status,
            job_id=self.job_id,
            next="Submit it again; this server forgets jobs.",
        )

    # --- pace ---

    def _pace(self, reply: Reply, status: Status) -> float:
        """Seconds until the next look: the server's word if it has one, else the guide's intervals."""
        run, options = self.run, self.run.options
        if 0 < held_for(reply) <= reply.elapsed * 1.1:
            return 0.0  # it was held: asking again at once is how one waits on this server
        if "etag" in reply.headers and self._news(status):
            return options.running_interval / 8  # a change, on a server that tells of changes: the next may follow
        asked = retry_after(reply)
        if asked is None and status.retry_after_ms is not None:
            asked = status.retry_after_ms / 1000
        if asked is not None:
            return run.asked(max(asked, options.running_interval / 2))
        interval = options.queued_interval if status.state == State.QUEUED else options.running_interval
        return max(run.vary(interval), self._towards_eta(status))

    def _news(self, status: Status) -> bool:
        # Of its place only: an estimate that counts down is new in every answer, and tells nothing.
        return self.status is None or status.place != self.status.place

    def _towards_eta(self, status: Status) -> float:
        """Through the first part of the expected time in few sleeps; 0 after it, or without an estimate.

        Old servers repeat the average run time instead of counting it down: the first word counts.
        """
        if status.eta_seconds is None:
            return 0.0
        options, now = self.run.options, self.run.now
        if self._look_from is None:
            self._look_from = now + options.eta_share * status.eta_seconds
        # One more look fits in before the deadline, however long the estimate.
        return min(options.eta_interval, self._look_from - now, self.run.left - options.running_interval)

    def _queue_left(self) -> float:
        """What is left of the time that the job may spend queued."""
        budget = self.run.options.queue_timeout
        queued = self.status is None or self.status.state == State.QUEUED
        return float("inf") if budget is None or not queued else self._queued_since + budget - self.run.now + 1

    # --- what a status means ---

    def _note(self, status: Status) -> None:
        """Remember `status`, and tell what is new. Raises for a stall or a full queue budget."""
        run, before = self.run, self.status
        changed = before is None or status.place != before.place
        if before is not None and status.state != before.state:
            self._look_from = None
        self.status = status
        if changed:
            self._changes += 1
            self._changed_at = run.now
            self._told.discard("stalled")
            run.notify(Event("status", self.job_id, status.state, status.raw, status))
        if not status.known and "unknown" not in self._told:
            self._told.add("unknown")
            run.notify(Event("unknown_state", self.job_id, f"unknown state {status.state!r}; waiting on"))
        if status.state == State.RUNNING and run.now - self._changed_at >= run.options.stall_after:
            self._stalled(status)
        if status.state != State.QUEUED:
            self._queued_since = run.now
        elif run.options.queue_timeout is not None and run.now - self._queued_since >= run.options.queue_timeout:
            raise WaitTimeout(
                f"job {self.job_id} is still queued after {run.options.queue_timeout:g} s",
                code="queue_timeout",
                job_id=self.job_id,
                next=f"Carry on with: umrgen wait {self.job_id}",
            )

    def _stalled(self, status: Status) -> None:
        words = f"job {self.job_id} is running, and nothing has changed for {self.run.now - self._changed_at:.0f} s"
        if self.run.options.on_stall == "raise":
            raise JobStalled(words, job_id=self.job_id)
        if "stalled" not in self._told:
            self._told.add("stalled")
            self.run.notify(Event("stalled", self.job_id, words, status=status))


def finished(status: Status) -> Status:
    """`status`, if it is completed with an image. Raises JobFailed and OutputMissing."""
    if status.state == State.FAILED:
        raise JobFailed(
            status.error or "the job failed, and the server does not say why",
            code=status.error_code or None,
            job_id=status.job_id,
        )
    if not status.images:
        raise OutputMissing(
            f"job {status.job_id} is completed, but the server has no image for it", job_id=status.job_id
        )
    return status
