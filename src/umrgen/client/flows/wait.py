"""Waiting for one job: the interval between status calls, the meaning of a status, stalls."""

import re
from urllib.parse import quote

from umrgen.client.engine_error import short_reason
from umrgen.client.flow import CallContext, Event, Flow, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.protocol import API, RetryPolicy
from umrgen.client.responses import entity_tag, reports_missing_job
from umrgen.errors import JobFailed, JobNotFound, JobStalled, OutputMissing, WaitTimeout
from umrgen.model import State, Status

__all__ = ["StatusPoller", "applied_wait", "require_completed"]


def applied_wait(reply: Reply) -> float:
    """Return the seconds of the server's `Preference-Applied` header; 0 when it does not support long polls."""
    applied = re.search(r"wait=([0-9]{1,4})", reply.headers.get("preference-applied", ""))
    return float(applied[1]) if applied else 0.0


class StatusPoller:
    """Waits for one job. The polling state (ETag, retry budgets, stall timer) is kept between calls.

    `seen`: the server has accepted this job or reported its status before, so that only its own 404 ends the wait.
    `answered`: it did so in this process (by default, as `seen`), so that a timeout may report that the job continues.
    """

    def __init__(
        self,
        context: CallContext,
        job_id: str,
        *,
        seen: bool = False,
        answered: bool | None = None,
        long_poll: bool = True,
    ) -> None:
        self.context = context
        self.delay = max(0.0, context.status_due - context.now)
        """Seconds until the next status call."""
        self._long_poll = long_poll
        self.job_id = job_id
        self.status: Status | None = None
        self._path = f"{API}/status/{quote(job_id, safe='')}"
        self._seen = seen
        self._retries = RetryPolicy(
            context,
            RetryBudget(context, context.options.patience),
            job_id,
            answered=seen if answered is None else answered,
            advice=f"Check the server and its address: `umrgen doctor`. Continue with: umrgen wait {job_id}",
        )
        self._etag: str | None = None
        self._changes = 0
        self._changed_at = context.running_time
        self._queued_since = context.now
        self._eta_poll_at: float | None = None
        self._reported: set[str] = set()

    # --- public ---

    def next_change(self, *, until_over: bool = False) -> "Flow[Status]":
        """Return the job's status when it differs from the last one; with `until_over`, its final status.

        Raises JobNotFound, JobStalled (with `on_stall="raise"`), WaitTimeout and the errors of other responses.
        """
        while True:
            before = self._changes
            status = yield from self.poll(until_over=until_over)
            if status is not None and (status.over or (self._changes > before and not until_over)):
                return status

    def result(self) -> "Flow[Status]":
        """Return the status of the completed job. Raises JobFailed, OutputMissing and the errors of `next_change`."""
        status = yield from self._final_status()
        if status.state == State.COMPLETED and not status.images:
            # Poll again: an older server may report the state before it has found the file.
            self.delay = self.context.options.running_interval
            self._etag = None
            status = yield from self._final_status()
        return require_completed(status)

    def _final_status(self) -> "Flow[Status]":
        while True:
            status = yield from self.next_change(until_over=not self.context.options.follow)
            if status.over:
                return status

    # --- one status call ---

    def poll(self, *, until_over: bool = True) -> "Flow[Status | None]":
        """Send one status call; return None when it got no status. The next one is due after `self.delay`."""
        status = yield from self._request_status(until_over)
        if status is not None:
            self._observe(status)
        return status

    def _request_status(self, until_over: bool) -> "Flow[Status | None]":
        context = self.context
        # A long poll for any change needs the ETag of the known version; the first call is an ordinary one.
        long_poll = self._long_poll and (until_over or self._etag)
        wait = context.long_poll_seconds(self._queue_time_left()) if long_poll else 0
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        if self._etag and not until_over:
            headers["If-None-Match"] = self._etag
        try:
            step = context.step(
                "GET",
                self._path,
                delay=self.delay,
                headers=headers,
                long_poll=wait,
                job_id=self.job_id,
            )
        except WaitTimeout as timeout:
            raise self._retries.timeout_error(timeout) from None
        try:
            reply = yield step
        except TransportFailure as failure:
            self.delay = self._retries.delay_after_failure(failure)
            return None
        context.observe(reply.at)
        if reply.status == 304 and self.status is not None:
            self._reset_retries()
            self.delay = self._next_delay(reply, self.status)
            return self.status
        data = reply.json()
        status = Status.parse(data, self.job_id) if reply.status == 200 and data is not None else None
        if status is None:
            self._handle_error_reply(reply)
            return None
        self._reset_retries()
        self._etag = entity_tag(reply.headers.get("etag", ""))
        self.delay = self._next_delay(reply, status)
        return status

    def _reset_retries(self) -> None:
        self._seen = True
        self._retries.reset()

    def _handle_error_reply(self, reply: Reply) -> None:
        """Set the delay before the retry; raise an error that ends the wait.

        The end of a job requires certainty: any other response than the server's own 404 may be from a gateway.
        """
        if reports_missing_job(reply.status, reply.json()):
            error = self._not_found_error(reply.status)
            error.coded = "code" in (reply.json() or {})
            raise error
        self.delay = self._retries.delay_after_error(reply, seen=self._seen)

    def _not_found_error(self, status: int) -> JobNotFound:
        if not self._seen:
            return JobNotFound(f"the server has no job {self.job_id}", status=status, job_id=self.job_id)
        return JobNotFound(
            f"job {self.job_id} no longer exists: it failed earlier, or the server was restarted",
            code="job_gone",
            status=status,
            job_id=self.job_id,
            next="Submit it again; this server does not keep failed jobs.",
        )

    # --- the interval between status calls ---

    def _next_delay(self, reply: Reply, status: Status) -> float:
        """Return the seconds until the next status call: as the server requests, or by the guide's intervals."""
        context, options = self.context, self.context.options
        applied = applied_wait(reply)
        if 0 < applied <= reply.elapsed * 1.1:
            return 0.0  # a long poll that ran its full time: start the next one now
        # A weak tag alone shows nothing: the first servers send one, and have no long polls.
        tag = reply.headers.get("etag", "")
        if self._is_progress(status) and (tag.startswith('"') or (tag and applied)):
            return options.running_interval / 8  # this server reports changes: the next one may follow soon
        requested = retry_after(reply)
        if requested is None and status.retry_after_ms is not None:
            requested = status.retry_after_ms / 1000
        if requested is not None:
            return context.server_delay(max(requested, options.running_interval / 2))
        interval = options.queued_interval if status.state == State.QUEUED else options.running_interval
        return max(context.with_jitter(interval), self._eta_delay(status))

    def _is_progress(self, status: Status) -> bool:
        # An estimate is not compared: it counts down in every response.
        return self.status is None or status.progress_key != self.status.progress_key

    def _eta_delay(self, status: Status) -> float:
        """Return a longer delay during the first part of the expected time; 0 after it, or without an estimate.

        Older servers repeat the average run time instead of counting it down, so only the first estimate is used.
        """
        if status.eta_seconds is None:
            return 0.0
        options, now = self.context.options, self.context.now
        if self._eta_poll_at is None:
            self._eta_poll_at = now + options.eta_share * status.eta_seconds
        # At least one more status call fits in before the deadline, however long the estimate.
        return min(options.eta_interval, self._eta_poll_at - now, self.context.time_left - options.running_interval)

    def _queue_time_left(self) -> float:
        """Return the seconds that the job may still be queued; infinite without a limit."""
        budget = self.context.options.queue_timeout
        queued = self.status is None or self.status.state == State.QUEUED
        return float("inf") if budget is None or not queued else self._queued_since + budget - self.context.now + 1

    # --- the meaning of a status ---

    def _observe(self, status: Status) -> None:
        """Store `status` and report changes. Raises JobStalled for a stall and WaitTimeout after `queue_timeout`."""
        context, options = self.context, self.context.options
        if self.status is not None and status.state != self.status.state:
            self._eta_poll_at = None
        is_progress = self._is_progress(status)
        self.status = status
        if is_progress:
            self._changes += 1
            self._changed_at = context.running_time
            self._reported.discard("stalled")
            context.notify(Event("status", self.job_id, status.state, status.raw, status))
        if not status.known and "unknown" not in self._reported:
            self._reported.add("unknown")
            context.notify(Event("unknown_state", self.job_id, f"unknown state {status.state!r}; waiting continues"))
        if status.state == State.RUNNING and context.running_time - self._changed_at >= options.stall_after:
            self._report_stall(status)
        if status.state != State.QUEUED:
            self._queued_since = context.now
        elif options.queue_timeout is not None and context.now - self._queued_since >= options.queue_timeout:
            raise WaitTimeout(
                f"job {self.job_id} is still queued after {options.queue_timeout:g} s",
                code="queue_timeout",
                job_id=self.job_id,
                next=f"Continue with: umrgen wait {self.job_id}",
            )

    def _report_stall(self, status: Status) -> None:
        idle = self.context.running_time - self._changed_at
        message = f"job {self.job_id} is running, but has not changed for {idle:.0f} s"
        if self.context.options.on_stall == "raise":
            raise JobStalled(message, job_id=self.job_id)
        if "stalled" not in self._reported:
            self._reported.add("stalled")
            self.context.notify(Event("stalled", self.job_id, message, status=status))


def require_completed(status: Status) -> Status:
    """Return `status` if it is completed with an image. Raises JobFailed and OutputMissing."""
    if status.state == State.FAILED:
        reason = status.error or "the job failed; the server reported no reason"
        raise JobFailed(short_reason(reason), code=status.error_code or None, job_id=status.job_id, whole_reason=reason)
    if not status.images:
        raise OutputMissing(
            f"job {status.job_id} is completed, but the server has no image of it", job_id=status.job_id
        )
    return status
