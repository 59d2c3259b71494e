"""A server as the contract's sections 2 (modern) and 3 (legacy) tell of it: pure, in simulated time."""

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
    """One server. `handle` is the truth; what reaches the client is the faults' affair."""

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
        self.plan = Plan(downs, forgets=self.legacy)
        self.limit = choices.pick((60, 60, 60, 20)) if self.legacy else choices.pick((NEVER, NEVER, NEVER, 20))
        self.one_at_a_time = self.legacy or choices.chance(0.2)
        self.linger = choices.pick((0.0, 0.0, 0.0, 4.0)) if self.one_at_a_time else 0.0
        """How long a job keeps its slot after it is over."""
        self.tells_eta = choices.chance(0.5)
        self.plain = choices.chance(0.2)
        """Legacy: unknown paths answer in JSON. Modern: no cursor in answers for many."""
        self._window, self._count = 0.0, 0

    # --- what happens on the server ---

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

    def in_the_way(self, at: float) -> Job | None:
        if self.one_at_a_time:
            for job in self.made:
                if at < min(job.over_at + self.linger, job.gone_at) and (at < job.over_at or at < job.gone_at):
                    return job
        return None

    # --- what it answers ---

    def handle(self, step: Step, at: float) -> Exchange:
        """The true answer, with its time; a restart meanwhile breaks the connection."""
        if self.plan.downs and self.plan.down_at(at):
            return lost(step, at, at + min(self.latency, step.timeout), sent=False)
        arrived = at + self.latency / 2
        answer = self._limited(step, arrived) if step.path != "/healthz" and self.limit < NEVER else None
        if answer is None:
            answer = self._route(step, arrived)
        answer.sent_at = at
        answer.at += self.latency / 2
        if self.plan.downs and (down := self.plan.next_down(at)) < answer.at:
            return lost(step, at, min(down, at + step.timeout))
        if answer.at - at > step.timeout:
            return lost(step, at, at + step.timeout)
        return answer

    def _limited(self, step: Step, at: float) -> Exchange | None:
        if at >= self._window + 60.0:
            self._window, self._count = at, 0
        self._count += 1
        if self._count <= self.limit:
            return None
        if self.legacy:
            return reply(step, at, 429, {"error": "Too many requests"}, "limited")
        asked = int(self._window + 60.0 - at) + 1
        told = {"success": False, "error": "too many calls", "code": "rate_limited"}
        return reply(step, at, 429, told, "limited", {"retry-after": str(asked)}, asked=float(asked))

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
        answer = reply(step, at, 404, None, "refused", {"content-type": "text/html"})
        answer.body = HTML
        return answer

    def _generate(self, step: Step, at: float) -> Exchange:
        key = step.headers.get("Idempotency-Key", "")
        if not self.legacy:
            if self.plan.downs and self.plan.next_down(at) - at < DRAIN:
                told = {"success": False, "error": "draining", "code": "draining"}
                return reply(step, at, 503, told, "transient", {"retry-after": "2"}, asked=2.0)
            for job in self.made:
                if key and job.key == key:
                    return self._receipt(step, at, job)
        if (other := self.in_the_way(at)) is not None:
            if self.legacy:
                return reply(step, at, 429, {"error": "CONCURRENT_LIMIT", "job_id": other.id}, "limited", busy=other.id)
            busy = {"job_id": other.id} if not self.plain else {}
            told = {"success": False, "error": "busy", "code": "concurrent_limit"} | busy
            answer = reply(step, at, 429, told, "limited", {"retry-after": "5"}, asked=5.0)
            answer.busy = busy.get("job_id")
            return answer
        return self._receipt(step, at, self.submit(at, key))

    def _receipt(self, step: Step, at: float, job: Job) -> Exchange:
        told = {"success": True, "job_id": job.id} | ({} if self.legacy else {"state": "queued"})
        return reply(step, at, 202, told, "receipt", {} if self.legacy else {"retry-after": "3"})

    def _not_found(self, step: Step, at: float) -> Exchange:
        told = {"error": "Job not found"} | ({} if self.legacy else {"success": False, "code": "job_not_found"})
        return reply(step, at, 404, told, "gone")

    def _status(self, step: Step, at: float, job_id: str) -> Exchange:
        job = self.find(job_id, at)
        if job is None:
            return self._not_found(step, at)
        if self.legacy:
            return status_of(step, at, job, self._legacy_wire(job, at))
        wait, known = held_wait(step), step.headers.get("If-None-Match")
        answered = at
        if wait:
            until = at + wait
            news = job.over_at if known is None else at if etag(job, at) != known else job.next_news(at) + 0.002
            answered = max(at, min(until, news))
        headers = {"etag": etag(job, answered)}
        if wait is not None:
            headers["preference-applied"] = f"wait={wait}"
        told = self._wire(job, answered)
        if (delay := told["retry_after_ms"]) is not None:
            headers["retry-after"] = str(-(-delay // 1000))
        if headers["etag"] == known:
            answer = reply(step, answered, 304, None, "same", headers)
        else:
            answer = status_of(step, answered, job, told, headers)
        answer.etag = True
        answer.asked = None if delay is None else float(headers["retry-after"])
        answer.held = bool(wait) and (answered - at + self.latency) * 1.1 >= (wait or 0)
        return answer

    def _legacy_wire(self, job: Job, at: float) -> dict[str, Any]:
        state = job.state(at)
        told: dict[str, Any] = {"success": True, "job_id": job.id, "state": state}
        if state == "completed" and job.images and at - job.over_at >= 60.0:
            return told | {"image_url": job.images[0]}
        if state == "completed":
            return told | {"results": {"images": [{"url": url} for url in job.images]}}
        if state == "failed":
            return told | {"error": "it broke"}
        return told | {"queue_position": job.position(at) or 0, "eta_seconds": 22 if self.tells_eta else None}

    def _wire(self, job: Job, at: float) -> dict[str, Any]:
        state = job.state(at)
        over = state == job.fate and at >= job.over_at
        left = job.over_at - at if self.tells_eta and state == "running" else None
        delay = None if over else 3000 if state == "queued" else 2000
        if delay and left is not None:
            delay = max(1000, min(delay, int(left * 1000)))
        told: dict[str, Any] = {"success": True, "job_id": job.id, "state": state, "image_url": None}
        if over and job.images:
            told |= {"image_url": job.images[0], "results": {"images": [{"url": url} for url in job.images]}}
        if state == "failed":
            told |= {"error": "it broke", "error_code": job.error_code}
        told |= {"queue_position": job.position(at), "progress": {"step": job.step(at), "total": job.steps}}
        return told | {"eta_seconds": None if left is None else round(left, 1), "retry_after_ms": delay}

    def _statuses(self, step: Step, at: float) -> Exchange:
        asked = json.loads(step.body or b"{}")
        since, wait = int(asked.get("since") or 0), held_wait(step)
        found = {job_id: self.find(job_id, at) for job_id in asked["job_ids"]}
        jobs = [job for job in found.values() if job is not None]
        unknown = [job_id for job_id, job in found.items() if job is None]
        answered = at
        if wait and jobs and not any(micros(job.changed(at)) > since for job in jobs):
            answered = max(at, min(at + wait, min(self._next_state(job, at) for job in jobs) + 0.001))
        changed = [job for job in jobs if micros(job.changed(answered)) > since]
        cursor = max([since, *(micros(job.changed(answered)) for job in changed)])
        told = {"success": True, "jobs": [self._wire(job, answered) for job in changed], "unknown": unknown}
        headers = {"retry-after": "2"} | ({} if wait is None else {"preference-applied": f"wait={wait}"})
        answer = reply(step, answered, 200, told if self.plain else told | {"cursor": str(cursor)}, "batch", headers)
        answer.held = bool(wait) and (answered - at + self.latency) * 1.1 >= (wait or 0)
        answer.jobs = (
            *((job.id, job.state(answered)) for job in changed),
            *((job_id, "unknown") for job_id in unknown),
        )
        return answer

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
    told: Mapping[str, Any] | None,
    kind: str,
    headers: dict[str, str] | None = None,
    *,
    asked: float | None = None,
    busy: str | None = None,
) -> Exchange:
    answer = Exchange(step, at, at, kind)
    answer.status = status
    answer.headers = headers or {}
    answer.body = b"" if told is None else json.dumps(told).encode()
    answer.asked, answer.busy = asked, busy
    return answer


def lost(step: Step, sent_at: float, at: float, *, sent: bool = True) -> Exchange:
    answer = Exchange(step, sent_at, at, "lost")
    answer.sent = answer.ambiguous = sent
    return answer


def status_of(
    step: Step, at: float, job: Job, told: Mapping[str, Any], headers: dict[str, str] | None = None
) -> Exchange:
    answer = reply(step, at, 200, told, "status", headers)
    progress = told.get("progress")
    answer.place = (told["state"], told.get("queue_position"), progress["step"] if progress else None)
    answer.images = job.images if told["state"] == "completed" else ()
    return answer


def held_wait(step: Step) -> int | None:
    asked = step.headers.get("Prefer")
    return None if asked is None else min(60, int(re.sub(r"\D", "", asked)))


def etag(job: Job, at: float) -> str:
    return f'"{job.state(at)}.{job.position(at) or 0}.{job.step(at)}.{len(job.runs)}"'


def micros(at: float) -> int:
    return int(at * 1e6) + 1
