"""Waiting for many jobs: by batch calls where the server supports them, otherwise by one call per job."""

from collections.abc import Callable, Sequence

from umrgen.client.flow import CallContext, Flow, RetryBudget
from umrgen.client.flows.wait import StatusPoller, applied_wait
from umrgen.client.protocol import API, call, is_missing_endpoint
from umrgen.client.responses import MAX_LIST, Batch, parse_batch
from umrgen.errors import ApiError, JobNotFound, JobStalled, NotUmrgen, UmrgenError
from umrgen.model import Status

__all__ = ["BatchPoller", "Outcome"]

Outcome = Status | UmrgenError
"""How a job ended: its final status, or the error that makes it unknown."""

MAX_BATCH = 1000
"""Jobs per batch call (contract)."""
BATCH_GAP = 0.03
"""Seconds between batch calls to a server whose jobs change all the time, so that one response has several changes."""


class BatchPoller:
    """Waits for many jobs. The server's first response decides between batch calls and single status calls.

    `seen`: the server has accepted one of these jobs before, in this process. `on_status` is called with each new state
    of a job in a response to a batch call; single calls emit events.
    """

    def __init__(
        self,
        context: CallContext,
        job_ids: Sequence[str],
        *,
        seen: bool = False,
        on_status: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.context = context
        self.pending = list(dict.fromkeys(job_ids))
        self._retries = RetryBudget(context, context.options.patience)
        self._on_status = on_status
        self._use_batch = True
        self._seen = seen
        self._requested: set[str] = set()
        self._cursor = ""
        self._states: dict[str, str] = {}
        self._delay = 0.0
        self._pollers: dict[str, StatusPoller] = {}
        self._due: dict[str, float] = {}

    def next_finished(self) -> "Flow[dict[str, Outcome]]":
        """Return the outcomes of jobs that have ended since the last call, at least one; {} when no job is pending.

        Raises errors that concern all jobs: WaitTimeout, ConnectionFailed, Unauthorized.
        """
        finished: dict[str, Outcome] = {}
        while self.pending and not finished:
            finished = yield from (self._poll_batch() if self._use_batch else self._poll_next())
            self.pending = [job_id for job_id in self.pending if job_id not in finished]
        return finished

    # --- batch calls ---

    def _poll_batch(self) -> "Flow[dict[str, Outcome]]":
        context, job_ids = self.context, self.pending[:MAX_BATCH]
        if not self._requested.issuperset(job_ids):
            self._cursor = ""  # for new jobs, the response must include earlier changes
        body = {"job_ids": job_ids, "since": self._cursor}
        path = f"{API}/status"
        try:
            reply, data = yield from call(
                context,
                "POST",
                path,
                body=body,
                long_poll=context.long_poll_seconds(),
                limit=MAX_LIST,
                retries=self._retries,
                delay=self._delay,
                job_id=job_ids[0],
                answered=self._seen,
                seen=bool(self._requested),
            )
        except ApiError as error:
            if not is_missing_endpoint(error):
                raise
            self._use_single_calls()
            return {}
        batch = parse_batch(data)
        if batch is None:
            self._use_single_calls()
            return {}
        self._seen = True
        self._requested.update(job_ids)
        self._cursor = batch.cursor
        timed_out = 0 < applied_wait(reply) <= reply.elapsed * 1.1
        poll_now = timed_out or self._has_new_states(batch)
        self._delay = BATCH_GAP if poll_now else context.with_jitter(context.options.running_interval)
        return _outcomes(batch, set(job_ids))

    def _has_new_states(self, batch: Batch) -> bool:
        """Return whether a response has a state that was not known; some servers repeat known ones."""
        changed = [status for status in batch.jobs if self._states.get(status.job_id) != status.state]
        self._states |= {status.job_id: status.state for status in changed}
        for status in changed:
            self._on_status(status)
        return bool(changed)

    def _use_single_calls(self) -> None:
        """Poll each job by its own calls, within the request budget: this is an older server."""
        self._use_batch = False
        self.context.budget.limited = True
        self._due = {
            job_id: self.context.running_time + self._interval(index) for index, job_id in enumerate(self.pending)
        }

    # --- one call per job ---

    def _poll_next(self) -> "Flow[dict[str, Outcome]]":
        """Poll the job that is due first. The oldest job is polled most often, newer ones less the newer they are."""
        context = self.context
        job_id = min(self.pending, key=lambda name: self._due[name])
        poller = self._pollers.setdefault(job_id, StatusPoller(context, job_id, seen=True, long_poll=False))
        poller.delay = max(0.0, self._due[job_id] - context.running_time)
        try:
            status = yield from poller.poll()
        except (JobNotFound, JobStalled, NotUmrgen) as error:
            return {job_id: error}
        if status is not None and status.over:
            return {job_id: status}
        self._due[job_id] = context.running_time + max(poller.delay, self._interval(self.pending.index(job_id)))
        return {}

    def _interval(self, index: int) -> float:
        """Return the seconds between status calls for a job with `index` older ones before it."""
        options = self.context.options
        return min(2 * options.queued_interval * index, options.longest_delay)


def _outcomes(batch: Batch, requested: set[str]) -> dict[str, Outcome]:
    """Return the outcomes of the jobs in a response that are over, or that the server does not have."""
    outcomes: dict[str, Outcome] = {
        status.job_id: status for status in batch.jobs if status.over and status.job_id in requested
    }
    for job_id in batch.unknown:
        if job_id in requested:
            outcomes[job_id] = JobNotFound(f"the server has no job {job_id}", job_id=job_id, coded=True)
    return outcomes
