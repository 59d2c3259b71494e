"""Submitting a job: exactly once, whatever the network does meanwhile."""

from collections.abc import Mapping
from typing import Any

from umrgen.client.flow import CallContext, Event, Flow, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.flows.wait import Watch
from umrgen.client.protocol import API, failure_of, limited_delay, transient, unreachable
from umrgen.errors import ConcurrencyLimit, ConnectionFailed, RateLimited, UmrgenError, WaitTimeout

__all__ = ["check_keeps_keys", "submit"]


def submit(
    run: CallContext, request: Mapping[str, Any], idempotency_key: str, *, wait_for_slot: bool = False
) -> "Flow[Mapping[str, Any]]":
    """Make the job; give the server's receipt, which has a `job_id`.

    A submit is repeated when it provably never arrived, or was refused before it was looked at.
    When it may have arrived, it is repeated only to a server that keeps idempotency keys; an older
    one would make a second job. What is raised says in `sent` whether a job may have been made.
    """
    submission = _Submission(run, request, idempotency_key, wait_for_slot)
    try:
        return (yield from submission.flow())
    except WaitTimeout as late:
        error = submission.trouble or late
        error.sent = submission.maybe_made
        raise error from None
    except UmrgenError as error:
        error.sent = submission.maybe_made
        raise


class _Submission:
    """One submit, however often it takes; what went wrong last outlives the deadline as its reason."""

    def __init__(self, run: CallContext, request: Mapping[str, Any], key: str, wait_for_slot: bool) -> None:
        self.maybe_made = False
        self.trouble: UmrgenError | None = None
        self._run = run
        self._request = request
        self._headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        self._wait_for_slot = wait_for_slot
        self._patience = RetryBudget(run, run.options.submit_patience)
        self._limited = RetryBudget(run, float("inf"))
        self._waited_for: set[str] = set()

    def flow(self) -> "Flow[Mapping[str, Any]]":
        run, delay = self._run, 0.0
        while True:
            try:
                reply = yield run.step(
                    "POST", f"{API}/generate", delay=delay, headers=self._headers, body=self._request
                )
            except TransportFailure as failure:
                run.now = failure.at
                delay = yield from self._again(ConnectionFailed(unreachable(failure)), None, unclear=failure.sent)
                continue
            run.now = reply.at
            data = reply.json()
            if reply.status in (200, 201, 202) and data is not None and _job_id_of(data):
                run.notify(Event("submitted", _job_id_of(data), data=data))
                return data
            delay = yield from self._refused(reply, data)

    def _refused(self, reply: Reply, data: Mapping[str, Any] | None) -> "Flow[float]":
        """The delay before the next try. Raises what trying again will not change."""
        error = failure_of(reply)
        if reply.status in (201, 202):  # made, but the receipt cannot be read
            return (yield from self._again(error, None, unclear=True))
        if isinstance(error, ConcurrencyLimit) and self._wait_for_slot:
            return (yield from self._slot(error, reply))
        if isinstance(error, RateLimited) and not isinstance(error, ConcurrencyLimit):
            # Refused before it was looked at: only the deadline limits how often one may ask.
            self.trouble = error
            return self._limited.bear(error, limited_delay(self._run, reply, self._limited))
        if not transient(reply):
            raise error
        looked_at = not (reply.status == 503 and data is not None and bool(data.get("code")))
        return (yield from self._again(error, retry_after(reply), unclear=looked_at))

    def _slot(self, error: ConcurrencyLimit, reply: Reply) -> "Flow[float]":
        """Wait until the job that is in the way is over; give the delay before the next try."""
        run, in_the_way = self._run, error.job_id
        pause = run.asked(retry_after(reply) or run.options.queued_interval)
        if in_the_way is None or in_the_way in self._waited_for:
            return pause  # nothing to wait for, or it is over and the server has not noticed yet
        self._waited_for.add(in_the_way)
        run.notify(Event("slot", in_the_way, f"waiting for job {in_the_way} to end"))
        try:
            yield from Watch(run, in_the_way, seen=True).next_change(until_over=True)
        except WaitTimeout:
            raise WaitTimeout(str(error), next=error.next) from None
        except UmrgenError:
            return pause  # gone, or somebody else's: there is no more to learn about it than by trying
        return 0.0

    def _again(self, error: UmrgenError, asked: float | None, *, unclear: bool) -> "Flow[float]":
        self.trouble = error
        if unclear:
            self.maybe_made = True
            yield from _check_repeatable(self._run, error, self._patience)
        return self._patience.bear(error, asked)


def _job_id_of(data: Mapping[str, Any]) -> str | None:
    job_id = data.get("job_id")
    return job_id if isinstance(job_id, str) and job_id else None


def _check_repeatable(run: CallContext, error: UmrgenError, patience: RetryBudget) -> "Flow[None]":
    """Return if this server keeps idempotency keys: if it has `/healthz` as ours has. Raise `error` if not.

    Whether the submit arrived is unknown here; without that promise a second one could make a second job.
    """
    delay = run.options.first_backoff
    while True:
        try:
            reply = yield run.step("GET", "/healthz", delay=delay)
        except TransportFailure as failure:
            run.now = failure.at
            delay = patience.bear(error)
            continue
        run.now = reply.at
        if reply.status == 200 and (reply.json() or {}).get("status") == "ok":
            return
        if not transient(reply):
            error.retryable = False
            error.next = "The job may have been made all the same: look at the server before you submit again."
            raise error
        delay = patience.bear(error, retry_after(reply))


def check_keeps_keys(run: CallContext) -> "Flow[None]":
    """Raise ConnectionFailed unless a submit can be repeated here under its idempotency key without harm."""
    error = ConnectionFailed("it is not known whether this job was ever made, and this server cannot tell")
    error.sent = True
    yield from _check_repeatable(run, error, RetryBudget(run, run.options.submit_patience))
