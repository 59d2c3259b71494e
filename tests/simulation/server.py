"""A simulated server in simulated time, without HTTP.

A modern server's records are made by `domain.job.advance`, and its responses by the functions of `umrgen.server.http`;
a legacy server's bodies by those of `umrgen.testing.legacy`. So no form of a response is written here.
"""

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.responses import Response

from simulation.choices import Choices
from simulation.exchange import EPOCH, Exchange
from simulation.timeline import NEVER, Schedule, SimulatedJob
from umrgen.client.flow import Step
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.http.api.batch import changes_response
from umrgen.server.http.api.generate import receipt_response
from umrgen.server.http.api.responses import Liveness, json_response
from umrgen.server.http.api.status import known_versions, requested_wait, status_response
from umrgen.server.http.api.v1 import capabilities_response
from umrgen.server.http.problems import Problem
from umrgen.server.ledger import NO_CAPS
from umrgen.server.services.job_waits import JobView
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.server_state import ServerCapabilities
from umrgen.server.services.submissions import Submitted
from umrgen.testing.legacy_bodies import CONCURRENT_LIMIT, JOB_NOT_FOUND, RATE_LIMITED, job_body, receipt_body

__all__ = ["SimulatedServer", "exchange_for", "lost_exchange"]

DURATIONS = (8.0, 0.4, 3.0, 22.0, 22.0, 42.0, 12.0, 90.0, 1.0, 5.0, 30.0, 400.0, NEVER / 2)
ENDS = ("completed", "completed", "completed", "completed", "failed", "without images")
STATUS = "/api/v1/status/"
CANCEL = "/api/v1/cancel/"
LONGEST_WAIT = 60
WEAK_TAG = {"etag": 'W/"1"'}
"""A tag of the first servers, which is no sign of long polls."""
DRAIN = 3.0
"""Seconds before a restart in which a modern server accepts no new jobs."""
CAPABILITIES = ServerCapabilities("simulated", None, "ready", 1, 50, LONGEST_WAIT, 0, NO_CAPS, 0, 4, 0, 0, None)
HTML = b"<!DOCTYPE html><html><body>Cannot do that</body></html>"


class SimulatedServer:
    """One server. `handle` returns its own response; the network adds its faults."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.legacy = choices.chance(0.5)
        self.latency = choices.pick((0.01, 0.002, 0.1, 0.4))
        self.jobs: dict[str, SimulatedJob] = {}
        self.created: list[SimulatedJob] = []
        outages: list[tuple[float, float]] = []
        at = 0.0
        for _ in range(choices.pick((0, 0, 0, 1, 2))):
            at += choices.between(5.0, 150.0)
            outages.append((at, at + choices.between(0.5, 40.0)))
            at = outages[-1][1]
        self.schedule = Schedule(outages, loses_jobs=self.legacy)
        self.rate_limit = choices.pick((60, 60, 60, 20)) if self.legacy else choices.pick((NEVER, NEVER, NEVER, 20))
        self.one_at_a_time = self.legacy or choices.chance(0.2)
        self.linger = choices.pick((0.0, 0.0, 0.0, 4.0)) if self.one_at_a_time else 0.0
        """How long a job counts as active after its end."""
        self.estimates = choices.chance(0.5)
        self.minimal = choices.chance(0.2)
        """Legacy: unknown paths get JSON. Modern: responses about many jobs have no cursor."""
        self._window, self._count = 0.0, 0

    # --- jobs ---

    def submit(self, at: float, key: str) -> SimulatedJob:
        """Create a job and decide its whole life; `key` is its idempotency key."""
        choices = self.choices
        end = choices.pick(ENDS)
        job_id = f"ext_{len(self.created) + 1}" + choices.pick(("", "", "", ".a:b-c"))
        images = choices.pick((1, 1, 2)) if end != "without images" else choices.pick((1, 1, 2)) * 0
        need = choices.pick(DURATIONS) * choices.between(0.8, 1.2)
        state = "failed" if end == "failed" else "completed"
        job = SimulatedJob(job_id, key, at, state, 0 if end == "failed" else images, choices.pick((4, 1, 20)))
        self.schedule.plan(job, need, self.created)
        self.created.append(job)
        self.jobs[job_id] = job
        return job

    def find(self, job_id: str, at: float) -> SimulatedJob | None:
        """Return the job if it is known at this time."""
        job = self.jobs.get(job_id)
        return job if job is not None and job.created <= at < job.lost_at else None

    def blocking(self, at: float) -> SimulatedJob | None:
        """Return the job because of which another one is refused then."""
        if self.one_at_a_time:
            for job in self.created:
                active_until = min(job.ended_at + self.linger, job.lost_at)
                if at < active_until and (at < job.ended_at or at < job.lost_at):
                    return job
        return None

    # --- responses ---

    def handle(self, step: Step, at: float) -> Exchange:
        """Return the server's own response with its time; a restart before it breaks the connection."""
        schedule = self.schedule
        if schedule.outages and schedule.is_down(at):
            return lost_exchange(step, at, at + min(self.latency, step.timeout), sent=False)
        arrived = at + self.latency / 2
        exchange = self._limited(step, arrived) if step.path != "/healthz" and self.rate_limit < NEVER else None
        if exchange is None:
            exchange = self._route(step, arrived)
        exchange.sent_at = at
        exchange.at += self.latency / 2
        if schedule.outages and (outage := schedule.next_outage(at)) < exchange.at:
            return lost_exchange(step, at, min(outage, at + step.timeout))
        if exchange.at - at > step.timeout:
            return lost_exchange(step, at, at + step.timeout)
        return exchange

    def _limited(self, step: Step, at: float) -> Exchange | None:
        if at >= self._window + 60.0:
            self._window, self._count = at, 0
        self._count += 1
        if self._count <= self.rate_limit:
            return None
        if self.legacy:
            return exchange_for(step, at, 429, RATE_LIMITED, "limited")
        requested = int(self._window + 60.0 - at) + 1
        exchange = _problem(step, at, Problem("rate_limited", retry_after=requested), "limited")
        exchange.requested_delay = float(requested)
        return exchange

    def _route(self, step: Step, at: float) -> Exchange:
        path = step.path
        if path.startswith(STATUS):
            return self._status(step, at, unquote(path[len(STATUS) :]))
        if path == "/api/v1/generate":
            return self._generate(step, at)
        if path == "/healthz" and not self.legacy:
            return _response(step, at, json_response(Liveness("ok")), "healthy")
        if path == "/healthz" and self.minimal:
            return exchange_for(step, at, 200, {"up": True}, "refused")
        if self.legacy and path.startswith("/api/status?"):
            active = self.blocking(at)
            return exchange_for(step, at, 200, {"active_job_id": active and active.id}, "data", _date(at))
        if self.legacy and path.startswith("/api/history?") and not self.minimal:
            ended = [job for job in self.created if job.state(at) == "completed"]
            listed = [{"job_id": job.id, "prompt": "x" if job.key else "another"} for job in ended]
            return exchange_for(step, at, 200, listed, "data", _date(at))
        if self.legacy:
            return self._unknown_path(step, at)
        if path == "/api/v1/status":
            return self._statuses(step, at)
        if path.startswith(CANCEL):
            return self._cancel(step, at, unquote(path[len(CANCEL) :]))
        return _response(step, at, capabilities_response(CAPABILITIES), "data")

    def _unknown_path(self, step: Step, at: float) -> Exchange:
        if self.minimal and step.path == "/api/v1/status":
            return exchange_for(step, at, 404, {"error": "Not found"}, "refused")
        exchange = exchange_for(step, at, 404, None, "refused", {"content-type": "text/html"})
        exchange.body = HTML
        return exchange

    def _generate(self, step: Step, at: float) -> Exchange:
        key = step.headers.get("Idempotency-Key", "")
        if not self.legacy:
            if self.schedule.outages and self.schedule.next_outage(at) - at < DRAIN:
                exchange = _problem(step, at, Problem("draining", retry_after=2), "transient")
                exchange.requested_delay = 2.0
                return exchange
            for job in self.created:
                if key and job.key == key:
                    return self._receipt(step, at, job, new=False)
        if (blocking := self.blocking(at)) is not None:
            return self._concurrency_limited(step, at, blocking)
        return self._receipt(step, at, self.submit(at, key), new=True)

    def _concurrency_limited(self, step: Step, at: float, blocking: SimulatedJob) -> Exchange:
        if self.legacy:
            exchange = exchange_for(step, at, 429, CONCURRENT_LIMIT | {"job_id": blocking.id}, "limited")
            exchange.blocking = blocking.id
            return exchange
        named = None if self.minimal else blocking.id
        refusal = Refusal("concurrent_limit", job_id=named, retry_after=5)
        exchange = _problem(step, at, Problem.of(refusal), "limited")
        exchange.requested_delay, exchange.blocking = 5.0, named
        return exchange

    def _receipt(self, step: Step, at: float, job: SimulatedJob, *, new: bool) -> Exchange:
        if self.legacy:
            return exchange_for(step, at, 202, receipt_body(job.id), "receipt")
        return _response(step, at, receipt_response(Submitted(job.record(at), new), [], {}), "receipt")

    def _not_found(self, step: Step, at: float) -> Exchange:
        if self.legacy:
            return exchange_for(step, at, 404, JOB_NOT_FOUND, "gone")
        return _problem(step, at, Problem("job_not_found"), "gone")

    def _status(self, step: Step, at: float, job_id: str) -> Exchange:
        job = self.find(job_id, at)
        if job is None:
            return self._not_found(step, at)
        if self.legacy:
            exchange = exchange_for(step, at, 200, self._legacy_body(job, at), "status", _date(at) | WEAK_TAG)
            active = job.state(at) in ("queued", "running")
            return _about(exchange, job, at, position=job.position(at) if active else None, step=None)
        headers = _preferences(step)
        wait, known = _wait(headers), known_versions(headers.get(b"if-none-match"))
        answered = at
        if wait and at < job.ended_at:
            changed = job.ended_at
            if known is not None:
                changed = job.next_change(at) + 0.002 if self._view(job, at).is_known(known) else at
            answered = max(at, min(at + wait, changed))
        view = self._view(job, answered)
        status, fields, body = status_response(view, wait, known)
        exchange = _exchange(step, answered, status, fields, body, "same" if status == 304 else "status")
        if status != 304:
            _about(exchange, job, answered, position=view.position, step=view.job.step)
        exchange.etag = True
        exchange.requested_delay = float(exchange.headers["retry-after"]) if "retry-after" in exchange.headers else None
        exchange.long_poll = self._is_long(wait, answered - at)
        return exchange

    def _is_long(self, wait: int | None, seconds: float) -> bool:
        """Return whether the call took as long as the long poll that the client preferred."""
        return bool(wait) and (seconds + self.latency) * 1.1 >= (wait or 0)

    def _view(self, job: SimulatedJob, at: float) -> JobView:
        record = job.record(at)
        eta = job.ended_at - at if self.estimates and record.state == "running" else None
        return JobView(record, job.position(at), eta)

    def _wire(self, job: SimulatedJob, at: float) -> Any:
        view = self._view(job, at)
        return job_to_wire(view.job, queue_position=view.position, eta_seconds=view.eta)

    def _legacy_body(self, job: SimulatedJob, at: float) -> dict[str, Any]:
        position = job.position(at)
        return job_body(
            job.id,
            job.state(at),
            urls=job.urls,
            settled=at - job.ended_at >= 60.0,
            error="it failed",
            created_at=int(1000 * (EPOCH + job.created)),
            queue_index=None if position is None else position - 1,
            eta_seconds=0 if position is None else (22 if self.estimates else 30) * position,
        )

    def _statuses(self, step: Step, at: float) -> Exchange:
        request = msgspec.json.decode(step.body or b"{}")
        since, wait = int(request.get("since") or 0), _wait(_preferences(step))
        found = {job_id: self.find(job_id, at) for job_id in request["job_ids"]}
        jobs = [job for job in found.values() if job is not None]
        unknown = [job_id for job_id, job in found.items() if job is None]
        answered = at
        if wait and jobs and not any(_cursor(job.changed_at(at)) > since for job in jobs):
            answered = max(at, min(at + wait, min(job.next_state_at(at) for job in jobs) + 0.001))
        changed = [job for job in jobs if _cursor(job.changed_at(answered)) > since]
        cursor = max([since, *(_cursor(job.changed_at(answered)) for job in changed)])
        response = changes_response([self._wire(job, answered) for job in changed], unknown, cursor, wait)
        exchange = _response(step, answered, response, "batch")
        if self.minimal:
            body = {name: value for name, value in msgspec.json.decode(exchange.body).items() if name != "cursor"}
            exchange.body = msgspec.json.encode(body)
        exchange.long_poll = self._is_long(wait, answered - at)
        exchange.jobs = (
            *((job.id, job.state(answered)) for job in changed),
            *((job_id, "unknown") for job_id in unknown),
        )
        return exchange

    def _cancel(self, step: Step, at: float, job_id: str) -> Exchange:
        job = self.find(job_id, at)
        if job is None:
            return self._not_found(step, at)
        if at < job.ended_at:
            job.cancel(at)
        return _response(step, at, json_response(self._wire(job, at)), "data")


# --- exchanges -----------------------------------------------------------------------------------------


def exchange_for(
    step: Step,
    at: float,
    status: int,
    body: Mapping[str, Any] | Sequence[Any] | None,
    kind: str,
    headers: dict[str, str] | None = None,
    *,
    requested_delay: float | None = None,
) -> Exchange:
    """Return the exchange of a response with this JSON body."""
    exchange = Exchange(step, at, at, kind)
    exchange.status = status
    exchange.headers = headers or {}
    exchange.body = b"" if body is None else msgspec.json.encode(body)
    exchange.requested_delay = requested_delay
    return exchange


def lost_exchange(step: Step, sent_at: float, at: float, *, sent: bool = True) -> Exchange:
    """Return the exchange of a request without a response."""
    exchange = Exchange(step, sent_at, at, "lost")
    exchange.sent = exchange.ambiguous = sent
    return exchange


def _exchange(step: Step, at: float, status: int, fields: Any, body: bytes, kind: str) -> Exchange:
    exchange = Exchange(step, at, at, kind)
    exchange.status, exchange.body = status, body
    exchange.headers = {name.decode(): value.decode() for name, value in fields}
    return exchange


def _response(step: Step, at: float, response: Response, kind: str) -> Exchange:
    return _exchange(step, at, response.status_code, response.raw_headers, bytes(response.body), kind)


def _problem(step: Step, at: float, problem: Problem, kind: str) -> Exchange:
    return _response(step, at, problem.response(), kind)


def _date(at: float) -> dict[str, str]:
    return {"date": formatdate(EPOCH + at, usegmt=True)}


def _about(exchange: Exchange, job: SimulatedJob, at: float, *, position: int | None, step: int | None) -> Exchange:
    """Add the job's state in this response to the exchange."""
    state = job.state(at)
    exchange.place = (state, position, step)
    exchange.images = job.urls if state == "completed" else ()
    return exchange


def _preferences(step: Step) -> dict[bytes, bytes]:
    """Return the headers that decide about a long poll, as an ASGI application receives them."""
    headers = ((b"prefer", step.headers.get("Prefer")), (b"if-none-match", step.headers.get("If-None-Match")))
    return {name: value.encode() for name, value in headers if value is not None}


def _wait(headers: Mapping[bytes, bytes]) -> int | None:
    requested = requested_wait(headers, b"")
    return None if requested is None else min(LONGEST_WAIT, requested)


def _cursor(at: float) -> int:
    return int(at * 1e6) + 1
