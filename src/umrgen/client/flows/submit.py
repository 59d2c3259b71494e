"""Submitting a job exactly once, on an unreliable network."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from umrgen.client.flow import CallContext, Event, Flow, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.flows.lost_submit import LostSubmit, find_lost_job
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.protocol import API, error_from, is_html, is_transient, rate_limit_delay, unreachable_message
from umrgen.client.responses import SubmitReceipt, names_umrgen, parse_receipt
from umrgen.errors import ConcurrencyLimit, ConnectionFailed, RateLimited, UmrgenError, WaitTimeout

__all__ = ["submit", "supports_idempotency"]

KnownIds = Callable[[], Collection[str]]


def _ignore(postponed: bool) -> None:
    pass


def submit(
    context: CallContext,
    request: Mapping[str, Any],
    idempotency_key: str,
    *,
    wait_for_slot: bool = False,
    known_ids: KnownIds = tuple,
    on_postponed: Callable[[bool], None] = _ignore,
) -> "Flow[SubmitReceipt]":
    """Create the job; return the server's receipt.

    A submit is repeated when it certainly did not reach the server, or was refused before it was processed. When it
    may have been processed, it is repeated only to a server that supports idempotency keys; on an older one, where a
    repetition would create a second job, its job is searched for: one that is none of the `known_ids`. The attribute
    `sent` of a raised error is true when a job may have been created. `on_postponed` is called with True before a wait
    for a slot, while there is certainly no job, and with False after it.
    """
    submission = _Submission(context, request, idempotency_key, wait_for_slot, known_ids, on_postponed)
    try:
        return (yield from submission.flow())
    except WaitTimeout as timeout:
        error = submission.last_error or timeout
        error.sent = submission.maybe_created
        raise error from None
    except UmrgenError as error:
        error.sent = submission.maybe_created
        raise


class _LostError(Exception):
    """The submit cannot be repeated: it may have created a job, and the server has no idempotency keys."""


class _Submission:
    """One submit with its retries. After the deadline, the last error is raised, as the reason for the timeout."""

    def __init__(
        self,
        context: CallContext,
        request: Mapping[str, Any],
        key: str,
        wait_for_slot: bool,
        known_ids: KnownIds,
        on_postponed: Callable[[bool], None],
    ) -> None:
        self.maybe_created = False
        self.last_error: UmrgenError | None = None
        self._context = context
        self._request = request
        self._headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        self._wait_for_slot = wait_for_slot
        self._retries = RetryBudget(context, context.options.submit_patience)
        self._limited = RetryBudget(context, float("inf"))
        self._waited_for: set[str] = set()
        self._sent_at = context.now
        self._known_ids = known_ids
        self._on_postponed = on_postponed

    def flow(self) -> "Flow[SubmitReceipt]":
        try:
            return (yield from self._until_accepted())
        except _LostError:
            return (yield from self._find_again())

    def _find_again(self) -> "Flow[SubmitReceipt]":
        """Return a receipt for the job of a submit without a response. Raises `last_error` without one."""
        context, error = self._context, self.last_error
        assert error is not None
        lost = LostSubmit(self._request, self._sent_at, lambda: {*self._known_ids(), *self._waited_for})
        job_id, _ = yield from find_lost_job(context, lost)
        if job_id is None:
            error.retryable = False
            error.next = "The job may have been created: check the server before you submit again."
            raise error
        context.notify(Event("submitted", job_id, f"{error}; the server has the job", {"job_id": job_id}))
        return SubmitReceipt(job_id, (), {"job_id": job_id})

    def _until_accepted(self) -> "Flow[SubmitReceipt]":
        context, delay = self._context, 0.0
        while True:
            try:
                step = context.step("POST", f"{API}/generate", delay=delay, headers=self._headers, body=self._request)
                self._sent_at = context.now + step.delay
                reply = yield step
            except TransportFailure as failure:
                context.observe(failure.at)
                error = ConnectionFailed(unreachable_message(failure))
                delay = yield from self._retry_delay(error, None, maybe_created=failure.sent)
                continue
            context.observe(reply.at)
            data = reply.json()
            receipt = parse_receipt(data) if reply.status in (200, 201, 202) else None
            if receipt is not None:
                if "status_url" not in receipt.raw:
                    context.budget.limited = True  # an older server: it limits the calls of a minute
                context.notify(Event("submitted", receipt.job_id, data=receipt.raw))
                return receipt
            delay = yield from self._handle_error_reply(reply, data)

    def _handle_error_reply(self, reply: Reply, data: Mapping[str, Any] | None) -> "Flow[float]":
        """Return the delay before the retry of a transient error; raise any other."""
        error = error_from(reply)
        if reply.status in (201, 202) or (reply.status == 200 and data is None and not is_html(reply)):
            # Created, but the response cannot be read. An HTML page is from a gateway, in place of the request.
            return (yield from self._retry_delay(error, None, maybe_created=True))
        if isinstance(error, ConcurrencyLimit) and self._wait_for_slot:
            self.last_error = None  # an earlier one is not the reason for the wait
            if self.maybe_created:
                return (yield from self._wait_for_job(error, reply))
            self._on_postponed(True)
            delay = yield from self._wait_for_job(error, reply)
            self._on_postponed(False)
            return delay
        if isinstance(error, RateLimited) and not isinstance(error, ConcurrencyLimit):
            # Refused before it was processed: only the deadline limits the retries.
            self.last_error = error
            delay = rate_limit_delay(self._context, reply, self._limited)
            if error.coded and delay > self._context.time_left:  # the server's own limit, of a day for example
                error.next = f"Submit it again in {_duration(delay)}."
                raise error
            return self._limited.next_delay(error, delay)
        if not is_transient(reply):
            raise error
        # A 503 with a code is UMRGEN's own, sent before the request is processed.
        processed = not (reply.status == 503 and data is not None and bool(data.get("code")))
        return (yield from self._retry_delay(error, retry_after(reply), maybe_created=processed))

    def _wait_for_job(self, error: ConcurrencyLimit, reply: Reply) -> "Flow[float]":
        """Wait until the job that occupies the slot is over; return the delay before the next submit."""
        context, blocking_id = self._context, error.job_id
        pause = context.server_delay(retry_after(reply) or context.options.queued_interval)
        if blocking_id is None or blocking_id in self._waited_for:
            return pause  # the id is not known, or the server has not yet released the slot of a finished job
        self._waited_for.add(blocking_id)
        context.notify(Event("slot", blocking_id, f"waiting for job {blocking_id} to end"))
        try:
            yield from StatusPoller(context, blocking_id, seen=True).next_change(until_over=True)
        except WaitTimeout:
            raise WaitTimeout(str(error), next=error.next) from None
        except UmrgenError:
            return pause  # deleted, or another session's job: only a retry shows whether the slot is free
        return 0.0

    def _retry_delay(self, error: UmrgenError, requested: float | None, *, maybe_created: bool) -> "Flow[float]":
        self.last_error = error
        if maybe_created:
            self.maybe_created = True
            if not (yield from _supports_idempotency(self._context, error, self._retries)):
                raise _LostError
        return self._retries.next_delay(error, requested)


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit, rounded up."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds > unit:
            return f"{math.ceil(seconds / unit)} {name}"
    return f"{math.ceil(seconds)} s"


def _supports_idempotency(context: CallContext, error: UmrgenError, retries: RetryBudget) -> "Flow[bool]":
    """Return whether this server supports idempotency keys, which it does if its `/healthz` names UMRGEN.

    Raises `error` when it cannot be asked.
    """
    delay, limited = context.options.first_backoff, RetryBudget(context, float("inf"))
    while True:
        try:
            step = context.step("GET", "/healthz", delay=delay)
        except WaitTimeout:
            raise error from None
        try:
            reply = yield step
        except TransportFailure as failure:
            context.observe(failure.at)
            delay = retries.next_delay(error)
            continue
        context.observe(reply.at)
        if reply.status == 200 and names_umrgen(reply.json()):
            return True
        if reply.status == 429:
            delay = limited.next_delay(error, rate_limit_delay(context, reply, limited))
        elif is_transient(reply):
            delay = retries.next_delay(error, retry_after(reply))
        else:
            return False


def supports_idempotency(context: CallContext) -> "Flow[bool]":
    """Return whether the server supports idempotency keys, so that a submit is safe to repeat.

    Raises ConnectionFailed when it cannot be asked.
    """
    error = ConnectionFailed("it is not known whether this job was created: the server cannot be reached")
    error.sent = True
    return (yield from _supports_idempotency(context, error, RetryBudget(context, context.options.submit_patience)))
