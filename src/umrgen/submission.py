"""Submitting a job: exactly once, whatever the network does meanwhile."""

from collections.abc import Mapping
from typing import Any

from umrgen.errors import ConcurrencyLimit, ConnectionFailed, RateLimited, UmrgenError, WaitTimeout
from umrgen.flow import Event, Flow, Patience, Reply, Run, TransportFailure, retry_after
from umrgen.protocol import API, failure_of, limited_delay, transient, unreachable
from umrgen.watch import Watch

__all__ = ["check_keeps_keys", "submit"]


def submit(
    run: Run, request: Mapping[str, Any], idempotency_key: str, *, wait_for_slot: bool = False
) -> "Flow[Mapping[str, Any]]":
    """Make the job; give the server's receipt, which has a `job_id`.

    A submit is repeated when it provably never arrived, or was refused before it was looked at.
    When it may have arrived, it is repeated only to a server that keeps idempotency keys; an older
    one would make a second job.
    """
    patience = Patience(run, run.options.submit_patience)
    limited = Patience(run, float("inf"))
    headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
    delay = 0.0
    while True:
        try:
            reply = yield run.step("POST", f"{API}/generate", delay=delay, headers=headers, body=request)
        except TransportFailure as failure:
            run.now = failure.at
            error: UmrgenError = ConnectionFailed(unreachable(failure))
            error.sent = failure.sent
            if failure.sent:
                yield from _check_repeatable(run, error, patience)
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
            delay = limited.bear(error, limited_delay(run, reply, limited))
        elif transient(reply):
            error.sent = not (reply.status == 503 and data is not None and bool(data.get("code")))
            if error.sent:
                yield from _check_repeatable(run, error, patience)
            delay = patience.bear(error, retry_after(reply))
        else:
            raise error


def _job_id_of(data: Mapping[str, Any]) -> str | None:
    job_id = data.get("job_id")
    return job_id if isinstance(job_id, str) and job_id else None


def _check_repeatable(run: Run, error: UmrgenError, patience: Patience) -> "Flow[None]":
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


def check_keeps_keys(run: Run) -> "Flow[None]":
    """Raise ConnectionFailed unless a submit can be repeated here under its idempotency key without harm."""
    error = ConnectionFailed("it is not known whether this job was ever made, and this server cannot tell")
    error.sent = True
    yield from _check_repeatable(run, error, Patience(run, run.options.submit_patience))


def _slot(run: Run, error: ConcurrencyLimit, reply: Reply) -> "Flow[float]":
    """Wait until the job that is in the way is over; give the delay before the next try."""
    if error.job_id is None:
        return run.asked(retry_after(reply) or run.options.queued_interval)
    run.notify(Event("slot", error.job_id, f"waiting for job {error.job_id} to end"))
    try:
        yield from Watch(run, error.job_id, seen=True).next_change(until_over=True)
    except WaitTimeout:
        raise WaitTimeout(str(error), next=error.next) from None
    except UmrgenError:
        # Gone, or somebody else's: there is no more to learn about it than by trying.
        return run.asked(run.options.queued_interval)
    return 0.0
