"""A model of a server by sections 2 (modern) and 3 (legacy) of the contract: without I/O, in simulated time."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from simulation.choices import Choices
from simulation.exchange import Exchange
from simulation.timeline import NEVER, Job, Plan
from umrgen.client.flow import Step

__all__ = ["World"]

DURATIONS = (8.0, 0.4, 3.0, 22.0, 22.0, 42.0, 12.0, 90.0, 1.0, 5.0, 30.0, 400.0, NEVER / 2)
FATES = ("completed", "completed", "completed", "completed", "failed", "imageless")
STATUS = "/api/v1/status/"
CANCEL = "/api/v1/cancel/"
DRAIN = 3.0
"""Seconds before a restart in which a modern server takes no new jobs."""
HTML = b"<!DOCTYPE html><html><body>Cannot do that</body></html>"


class World:
    """One server. `handle` returns the correct response; `Network` may change or lose it."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.legacy = choices.chance(0.5)
        self.latency = choices.pick((0.01, 0.002, 0.1, 0.4))
        self.jobs: dict[str, Job] = {}
        self.made: list[Job] = []
        downs: list[tuple[float, float]] = []
        at = 0.0
        for _ in range(choices.pick((0, 0, 0, 1, 2))):
            at += choices.between(5.0, 150.0)
            downs.append((at, at + choices.between(0.5, 40.0)))
            at = downs[-1][1]
        self.plan = Plan(downs, loses_jobs=self.legacy)
        self.limit = choices.pick((60, 60, 60, 20)) if self.legacy else choices.pick((NEVER, NEVER, NEVER, 20))
        self.one_at_a_time = self.legacy or choices.chance(0.2)
        self.linger = choices.pick((0.0, 0.0, 0.0, 4.0)) if self.one_at_a_time else 0.0
        """Seconds for which a job occupies its slot after it is over."""
        self.sends_eta = choices.chance(0.5)
        self.plain = choices.chance(0.2)
        """Legacy: unknown paths have JSON responses. Modern: batch responses have no cursor."""
        self._window, self._count = 0.0, 0

    # --- the jobs ---

    def submit(self, at: float, key: str) -> Job:
        choices = self.choices
        fate = choices.pick(FATES)
        job_id = f"ext_{len(self.made) + 1}" + choices.pick(("", "", "", "/../x?y#z"))
        images = tuple(f"/outputs/s/{number}.png?session_id=s" for number in range(choices.pick((1, 1, 2))))
        if fate != "completed":
            images = ()
        need = choices.pick(DURATIONS) * choices.between(0.8, 1.2)
        job = Job(job_id, key, at, fate.replace("imageless", "completed"), images, choices.pick((4, 1, 20)))
        self.plan.settle(job, need, self.made)
        self.made.append(job)
        self.jobs[job_id] = job
        return job

    def find(self, job_id: str, at: float) -> Job | None:
        job = self.jobs.get(job_id)
        return job if job is not None and job.created <= at < job.gone_at else None

    def occupying_job(self, at: float) -> Job | None:
        if self.one_at_a_time:
            for job in self.made:
                if at < min(job.over_at + self.linger, job.gone_at) and (at < job.over_at or at < job.gone_at):
                    return job
        return None

    # --- the responses ---

    def handle(self, step: Step, at: float) -> Exchange:
        """Return the correct response, with its time; a restart before that time closes the connection."""
        if self.plan.downs and self.plan.down_at(at):
            return lost(step, at, at + min(self.latency, step.timeout), sent=False)
        arrived = at + self.latency / 2
        response = self._limited(step, arrived) if step.path != "/healthz" and self.limit < NEVER else None
        if response is None:
            response = self._route(step, arrived)
        response.sent_at = at
        response.at += self.latency / 2
        if self.plan.downs and (down := self.plan.next_down(at)) < response.at:
            return lost(step, at, min(down, at + step.timeout))
        if response.at - at > step.timeout:
            return lost(step, at, at + step.timeout)
        return response

    def _limited(self, step: Step, at: float) -> Exchange | None:
        if at >= self._window + 60.0:
            self._window, self._count = at, 0
        self._count += 1
        if self._count <= self.limit:
            return None
        if self.legacy:
            return reply(step, at, 429, {"error": "Too many requests"}, "limited")
        delay = int(self._window + 60.0 - at) + 1
        body = {"success": False, "error": "too many calls", "code": "rate_limited"}
        return reply(step, at, 429, body, "limited", {"retry-after": str(delay)}, retry_after=float(delay))

    def _route(self, step: Step, at: float) -> Exchange:
        path = step.path
        if path.startswith(STATUS):
            return self._status(step, at, unquote(path[len(STATUS) :]))
        if path == "/api/v1/generate":
            return self._generate(step, at)
        if path == "/healthz" and not self.legacy:
            return reply(step, at, 200, {"status": "ok"}, "healthy")
        if path == "/healthz" and self.plain:
            return reply(step, at, 200, {"up": True}, "refused")
        if self.legacy:
            return self._unknown(step, at)
        if path == "/api/v1/status":
            return self._statuses(step, at)
        if path.startswith(CANCEL):
            return self._cancel(step, at, unquote(path[len(CANCEL) :]))
        return reply(step, at, 200, {"success": True, "engine": {"kind": "model"}}, "data")

    def _unknown(self, step: Step, at: float) -> Exchange:
        if self.plain and step.path == "/api/v1/status":
            return reply(step, at, 404, {"error": "Not found"}, "refused")
        response = reply(step, at, 404, None, "refused", {"content-type": "text/html"})
        response.body = HTML
        return response

    def _generate(self, step: Step, at: float) -> Exchange:
        key = step.headers.get("Idempotency-Key", "")
        if not self.legacy:
            if self.plan.downs and self.plan.next_down(at) - at < DRAIN:
                body = {"success": False, "error": "draining", "code": "draining"}
                return reply(step, at, 503, body, "transient", {"retry-after": "2"}, retry_after=2.0)
            for job in self.made:
                if key and job.key == key:
                    return self._receipt(step, at, job)
        if (other := self.occupying_job(at)) is not None:
            if self.legacy:
                return reply(step, at, 429, {"error": "CONCURRENT_LIMIT", "job_id": other.id}, "limited", busy=other.id)
            busy = {"job_id": other.id} if not self.plain else {}
            body = {"success": False, "error": "busy", "code": "concurrent_limit"} | busy
            response = reply(step, at, 429, body, "limited", {"retry-after": "5"}, retry_after=5.0)
            response.busy = busy.get("job_id")
            return response
        return self._receipt(step, at, self.submit(at, key))

    def _receipt(self, step: Step, at: float, job: Job) -> Exchange:
        body = {"success": True, "job_id": job.id} | ({} if self.legacy else {"state": "queued"})
        return reply(step, at, 202, body, "receipt", {} if self.legacy else {"retry-after": "3"})

    def _not_found(self, step: Step, at: float) -> Exchange:
        body = {"error": "Job not found"} | ({} if self.legacy else {"success": False, "code": "job_not_found"})
        return reply(step, at, 404, body, "gone")

    def _status(self, step: Step, at: float, job_id: str) -> Exchange:
        job = self.find(job_id, at)
        if job is None:
            return self._not_found(step, at)
        if self.legacy:
            return status_of(step, at, job, self._legacy_wire(job, at))
        wait, known = long_poll_wait(step), step.headers.get("If-None-Match")
        responded = at
        if wait:
            until = at + wait
            changed = job.over_at if known is None else at if etag(job, at) != known else job.next_change(at) + 0.002
            responded = max(at, min(until, changed))
        headers = {"etag": etag(job, responded)}
        if wait is not None:
            headers["preference-applied"] = f"wait={wait}"
        body = self._wire(job, responded)
        if (delay := body["retry_after_ms"]) is not None:
            headers["retry-after"] = str(-(-delay // 1000))
        if headers["etag"] == known:
            response = reply(step, responded, 304, None, "same", headers)
        else:
            response = status_of(step, responded, job, body, headers)
        response.etag = True
        response.retry_after = None if delay is None else float(headers["retry-after"])
        response.held = bool(wait) and (responded - at + self.latency) * 1.1 >= (wait or 0)
        return response

    def _legacy_wire(self, job: Job, at: float) -> dict[str, Any]:
        state = job.state(at)
        body: dict[str, Any] = {"success": True, "job_id": job.id, "state": state}
        if state == "completed" and job.images and at - job.over_at >= 60.0:
            return body | {"image_url": job.images[0]}
        if state == "completed":
            return body | {"results": {"images": [{"url": url} for url in job.images]}}
        if state == "failed":
            return body | {"error": "it broke"}
        return body | {"queue_position": job.position(at) or 0, "eta_seconds": 22 if self.sends_eta else None}

    def _wire(self, job: Job, at: float) -> dict[str, Any]:
        state = job.state(at)
        over = state == job.fate and at >= job.over_at
        left = job.over_at - at if self.sends_eta and state == "running" else None
        delay = None if over else 3000 if state == "queued" else 2000
        if delay and left is not None:
            delay = max(1000, min(delay, int(left * 1000)))
        body: dict[str, Any] = {"success": True, "job_id": job.id, "state": state, "image_url": None}
        if over and job.images:
            body |= {"image_url": job.images[0], "results": {"images": [{"url": url} for url in job.images]}}
        if state == "failed":
            body |= {"error": "it broke", "error_code": job.error_code}
        body |= {"queue_position": job.position(at), "progress": {"step": job.step(at), "total": job.steps}}
        return body | {"eta_seconds": None if left is None else round(left, 1), "retry_after_ms": delay}

    def _statuses(self, step: Step, at: float) -> Exchange:
        request = json.loads(step.body or b"{}")
        since, wait = int(request.get("since") or 0), long_poll_wait(step)
        found = {job_id: self.find(job_id, at) for job_id in request["job_ids"]}
        jobs = [job for job in found.values() if job is not None]
        unknown = [job_id for job_id, job in found.items() if job is None]
        responded = at
        if wait and jobs and not any(micros(job.changed(at)) > since for job in jobs):
            responded = max(at, min(at + wait, min(self._next_state(job, at) for job in jobs) + 0.001))
        changed = [job for job in jobs if micros(job.changed(responded)) > since]
        cursor = max([since, *(micros(job.changed(responded)) for job in changed)])
        body = {"success": True, "jobs": [self._wire(job, responded) for job in changed], "unknown": unknown}
        headers = {"retry-after": "2"} | ({} if wait is None else {"preference-applied": f"wait={wait}"})
        response = reply(step, responded, 200, body if self.plain else body | {"cursor": str(cursor)}, "batch", headers)
        response.held = bool(wait) and (responded - at + self.latency) * 1.1 >= (wait or 0)
        response.jobs = (
            *((job.id, job.state(responded)) for job in changed),
            *((job_id, "unknown") for job_id in unknown),
        )
        return response

    def _next_state(self, job: Job, at: float) -> float:
        return min([time for run in job.runs for time in run if time > at] + [NEVER])

    def _cancel(self, step: Step, at: float, job_id: str) -> Exchange:
        job = self.find(job_id, at)
        if job is None:
            return self._not_found(step, at)
        if at < job.over_at:
            job.cancel(at)
        return reply(step, at, 200, self._wire(job, at), "data")


def reply(
    step: Step,
    at: float,
    status: int,
    body: Mapping[str, Any] | None,
    kind: str,
    headers: dict[str, str] | None = None,
    *,
    retry_after: float | None = None,
    busy: str | None = None,
) -> Exchange:
    response = Exchange(step, at, at, kind)
    response.status = status
    response.headers = headers or {}
    response.body = b"" if body is None else json.dumps(body).encode()
    response.retry_after, response.busy = retry_after, busy
    return response


def lost(step: Step, sent_at: float, at: float, *, sent: bool = True) -> Exchange:
    response = Exchange(step, sent_at, at, "lost")
    response.sent = response.ambiguous = sent
    return response


def status_of(
    step: Step, at: float, job: Job, body: Mapping[str, Any], headers: dict[str, str] | None = None
) -> Exchange:
    response = reply(step, at, 200, body, "status", headers)
    progress = body.get("progress")
    response.place = (body["state"], body.get("queue_position"), progress["step"] if progress else None)
    response.images = job.images if body["state"] == "completed" else ()
    return response


def long_poll_wait(step: Step) -> int | None:
    prefer = step.headers.get("Prefer")
    return None if prefer is None else min(60, int(re.sub(r"\D", "", prefer)))


def etag(job: Job, at: float) -> str:
    return f'"{job.state(at)}.{job.position(at) or 0}.{job.step(at)}.{len(job.runs)}"'


def micros(at: float) -> int:
    return int(at * 1e6) + 1
