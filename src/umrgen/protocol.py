"""The waiting rules: submitting, watching one job to its end, and what every answer means."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from umrgen.errors import (
    ApiError,
    ConcurrencyLimit,
    ConnectionFailed,
    JobFailed,
    JobNotFound,
    JobStalled,
    NotUmrgen,
    OutputMissing,
    RateLimited,
    UmrgenError,
    WaitTimeout,
    api_error,
)
from umrgen.flow import Event, Flow, Patience, Reply, Run, TransportFailure, retry_after
from umrgen.jobs import State, Status

__all__ = ["API", "Watch", "ask", "failure_of", "finished", "submit"]

API = "/api/v1"


# --- reading answers --------------------------------------------------------------------------------


def failure_of(reply: Reply, *, job_id: str | None = None) -> ApiError:
    """The exception for an answer that is not what was asked for: status code first, words second."""
    data = reply.json()
    if 300 <= reply.status < 400:
        return _redirected(reply)
    if reply.status < 400 or (data is None and reply.status in (403, 404) and _is_html(reply)):
        return NotUmrgen(f"{_describe(reply)} came where JSON was due (HTTP {reply.status})", status=reply.status)
    return api_error(reply.status, data, job_id=job_id)


def _redirected(reply: Reply) -> NotUmrgen:
    target = urlsplit(reply.headers.get("location", ""))
    where = f"{target.scheme}://{target.hostname}" if target.hostname else "elsewhere"
    return NotUmrgen(
        f"the server redirects to {where} (HTTP {reply.status}); the key was not sent there",
        status=reply.status,
        next="If that is the right server, set UMRGEN_BASE_URL to it.",
    )


def _is_html(reply: Reply) -> bool:
    return reply.body.lstrip()[:1] == b"<" or "html" in reply.headers.get("content-type", "")


def _describe(reply: Reply) -> str:
    if not reply.body:
        return "an empty answer"
    return "an HTML page" if _is_html(reply) else "something unreadable"


def _transient(reply: Reply) -> bool:
    return (reply.status >= 500 and reply.status != 501) or reply.status in (408, 425)


# --- flows ------------------------------------------------------------------------------------------


def ask(run: Run, method: str, path: str, *, job_id: str | None = None, body: Any = None) -> "Flow[dict[str, Any]]":
    """One call and its JSON object, tried again while the server is away, within `submit_patience`.

    Only for calls that may be repeated without harm.
    """
    patience = Patience(run, run.options.submit_patience)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    delay = 0.0
    while True:
        try:
            reply = yield run.step(method, path, delay=delay, headers=headers, body=body, job_id=job_id)
        except TransportFailure as failure:
            run.now = failure.at
            delay = patience.bear(ConnectionFailed(_unreachable(failure), job_id=job_id), job_id=job_id)
            continue
        run.now = reply.at
        data = reply.json()
        if 200 <= reply.status < 300 and data is not None:
            return data
        error = failure_of(reply, job_id=job_id)
        if not (_transient(reply) or isinstance(error, RateLimited)):
            raise error
        delay = patience.bear(error, retry_after(reply), job_id=job_id)


def _unreachable(failure: TransportFailure) -> str:
    return f"the server cannot be reached: {failure}"


def submit(
    run: Run, request: Mapping[str, Any], idempotency_key: str, *, wait_for_slot: bool = False
) -> "Flow[Mapping[str, Any]]":
    """Make the job; give the server's receipt, which has a `job_id`.

    A submit is repeated when it provably never arrived, or was refused before it was looked at.
    When it may have arrived, it is repeated only to a server that keeps idempotency keys; an older
    one would make a second job.
    """
    patience = Patience(run, run.options.submit_patience)
    headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
    delay = 0.0
    while True:
        try:
            reply = yield run.step("POST", f"{API}/generate", delay=delay, headers=headers, body=request)
        except TransportFailure as failure:
            run.now = failure.at
            error: UmrgenError = ConnectionFailed(_unreachable(failure))
            if failure.sent:
                yield from _check_repeatable(run, error)
            delay = patience.bear(error)
            continue
        run.now = reply.at
        data = reply.json()
        if reply.status in (200, 201, 202) and data is not None and _job_id_of(data):
            run.notify(Event("submitted", _job_id_of(data), data=data))
            return data
        error = failure_of(reply)
        if isinstance(error, ConcurrencyLimit):
            if not wait_for_slot:
                raise error
            delay = yield from _slot(run, error, reply)
        elif isinstance(error, RateLimited):
            # Refused before it was looked at: only the deadline limits how often one may ask.
            delay = Patience(run, float("inf")).bear(error, retry_after(reply) or run.options.longest_backoff)
        elif _transient(reply):
            if not (reply.status == 503 and data is not None and data.get("code")):
                yield from _check_repeatable(run, error)
            delay = patience.bear(error, retry_after(reply))
        else:
            raise error


def _job_id_of(data: Mapping[str, Any]) -> str | None:
    job_id = data.get("job_id")
    return job_id if isinstance(job_id, str) and job_id else None


def _check_repeatable(run: Run, error: UmrgenError) -> "Flow[None]":
    """Raise unless this server is one that keeps idempotency keys: one that has `/healthz` as ours has."""
    try:
        reply = yield run.step("GET", "/healthz", delay=run.options.first_backoff)
    except TransportFailure as failure:
        # Nobody there to ask. If it comes back, the next try meets the same question again.
        run.now = failure.at
        return
    run.now = reply.at
    if reply.status == 200 and (reply.json() or {}).get("status") == "ok":
        return
    error.retryable = False
    error.next = "The job may have been made all the same: look at the server before you submit again."
    raise error


def _slot(run: Run, error: ConcurrencyLimit, reply: Reply) -> "Flow[float]":
    """Wait until the job that is in the way is over; give the delay before the next try."""
    run.notify(Event("slot", error.job_id, f"waiting for job {error.job_id} to end"))
    if error.job_id is None:
        return run.asked(retry_after(reply) or run.options.queued_interval)
    watch = Watch(run, error.job_id, seen=True)
    try:
        while not (yield from watch.next_change(until_over=True)).over:
            pass
    except JobNotFound:
        return 0.0
    except UmrgenError as other:
        if isinstance(other, WaitTimeout):
            raise WaitTimeout(str(error), next=error.next) from None
        return run.asked(run.options.queued_interval)
    return 0.0


class Watch:
    """The wait for one job. What one change learnt (pace, patience, the stall clock), the next one knows."""

    def __init__(self, run: Run, job_id: str, *, seen: bool = False) -> None:
        self.run = run
        self.job_id = job_id
        self.status: Status | None = None
        self._path = f"{API}/status/{quote(job_id, safe='')}"
        self._seen = seen
        self._patience = Patience(run, run.options.patience)
        self._limited = Patience(run, float("inf"))
        self._garbage = 0
        self._etag: str | None = None
        self._delay = 0.0
        self._changed_at = run.now
        self._queued_since = run.now
        self._expected_end: float | None = None
        self._told: set[str] = set()

    # --- what callers use ---

    def next_change(self, *, until_over: bool = False) -> "Flow[Status]":
        """The job's status as soon as it differs from the last one; with `until_over`, its end.

        Raises JobNotFound, JobStalled (if asked for), WaitTimeout, and what the server refuses.
        """
        while True:
            status = yield from self._look(until_over)
            if status is None:
                continue
            changed = self._note(status)
            if status.over or (changed and not until_over):
                return status

    def result(self) -> "Flow[Status]":
        """The completed job. Raises JobFailed, OutputMissing and what `next_change` raises."""
        status = yield from self._end()
        if status.state == State.COMPLETED and not status.images:
            # Once more: an older server may still be looking for the file.
            self._delay = self.run.options.running_interval
            self._etag = None
            status = yield from self._end()
        return finished(status)

    def _end(self) -> "Flow[Status]":
        while True:
            status = yield from self.next_change(until_over=not self.run.options.follow)
            if status.over:
                return status

    # --- one look ---

    def _look(self, until_over: bool) -> "Flow[Status | None]":
        """One request; None when it brought no status and another is due after `self._delay`."""
        run = self.run
        # For every change a server is held by the version we know; before we know one, a plain look.
        wait = run.options.wait if until_over or self._etag else 0
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        if self._etag and not until_over:
            headers["If-None-Match"] = self._etag
        try:
            reply = yield run.step("GET", self._path, delay=self._delay, headers=headers, held=wait, job_id=self.job_id)
        except TransportFailure as failure:
            run.now = failure.at
            error = ConnectionFailed(
                _unreachable(failure), job_id=self.job_id, next=f"Carry on with: umrgen wait {self.job_id}"
            )
            self._delay = self._patience.bear(error, job_id=self.job_id)
            return None
        run.now = reply.at
        if reply.status == 304 and self.status is not None:
            self._understood()
            self._delay = self._pace(reply, self.status)
            return self.status
        data = reply.json() if reply.status == 200 else None
        status = Status.parse(data, self.job_id) if data is not None else None
        if status is None:
            self._refused(reply)
            return None
        self._understood()
        self._etag = reply.headers.get("etag")
        self._delay = self._pace(reply, status)
        return status

    def _understood(self) -> None:
        self._seen = True
        self._garbage = 0
        self._patience.good()
        self._limited.good()

    def _refused(self, reply: Reply) -> None:
        """Bear what may pass, raise what will not."""
        error = failure_of(reply, job_id=self.job_id)
        if isinstance(error, JobNotFound):
            raise self._gone(error)
        if isinstance(error, RateLimited):
            self._delay = self._limited.bear(error, retry_after(reply) or self._limited_delay(), job_id=self.job_id)
        elif _transient(reply):
            self._delay = self._patience.bear(error, retry_after(reply), job_id=self.job_id)
        elif reply.status == 200 and (self._seen or self._garbage < self.run.options.garbage_tries):
            # A tunnel's page or a cut-off answer. A server that has made sense before gets more patience.
            self._garbage += 1
            self._delay = max(self._patience.bear(error, job_id=self.job_id), self.run.options.running_interval)
        else:
            raise error

    def _limited_delay(self) -> float:
        """After a 429 that names no time: seconds enough for a window of a minute to move on."""
        options = self.run.options
        return min(options.longest_delay, 2 * options.queued_interval * 2.0 ** min(self._limited.failures, 10))

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
        if "preference-applied" in reply.headers and reply.elapsed >= 0.5 * options.wait:
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
        return self.status is None or status != self.status

    def _towards_eta(self, status: Status) -> float:
        """Most of the way to the expected end in one sleep; 0 without an estimate.

        Old servers repeat the average run time instead of counting it down: the first word counts.
        """
        if status.eta_seconds is None:
            return 0.0
        expected = self.run.now + status.eta_seconds
        if self._expected_end is None or expected < self._expected_end:
            self._expected_end = expected
        return min(self.run.options.eta_interval, 0.9 * (self._expected_end - self.run.now))

    # --- what a status means ---

    def _note(self, status: Status) -> bool:
        """Remember `status`; whether it is a change. Raises for a stall or a full queue budget."""
        run, before = self.run, self.status
        changed = before is None or status.place != before.place
        if before is not None and status.state != before.state:
            self._expected_end = None
        self.status = status
        if changed:
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
        return changed

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
