"""Waiting for many jobs at once: in one call where the server has it, else one after the other."""

from collections.abc import Sequence
from typing import Any

from umrgen.client.flow import CallContext, Flow, RetryBudget
from umrgen.client.flows.wait import Watch, held_for
from umrgen.client.protocol import API, call, lacks_call
from umrgen.errors import ApiError, JobNotFound, JobStalled, UmrgenError
from umrgen.model import Status

__all__ = ["Outcome", "WatchMany"]

Outcome = Status | UmrgenError
"""How a job ended: its last status, or why it cannot be known."""

BATCH = 1000
"""Jobs in one call, by the contract."""
GAP = 0.03
"""Seconds between two answers of a server that has news all the time: they come in bundles then."""


class WatchMany:
    """The wait for many jobs. Which way it goes is found out from the server's first answer."""

    def __init__(self, run: CallContext, job_ids: Sequence[str]) -> None:
        self.run = run
        self.pending = list(dict.fromkeys(job_ids))
        self._patience = RetryBudget(run, run.options.patience)
        self._together = True
        self._asked: set[str] = set()
        self._cursor = ""
        self._states: dict[Any, Any] = {}
        self._delay = 0.0
        self._single: dict[str, Watch] = {}
        self._due: dict[str, float] = {}

    def next_over(self) -> "Flow[dict[str, Outcome]]":
        """The jobs that have ended since the last call, at least one, with their outcomes; {} when none is left.

        Raises WaitTimeout, ConnectionFailed, Unauthorized: what concerns them all.
        """
        over: dict[str, Outcome] = {}
        while self.pending and not over:
            over = yield from (self._ask_together() if self._together else self._ask_one())
            self.pending = [job_id for job_id in self.pending if job_id not in over]
        return over

    # --- one call for all ---

    def _ask_together(self) -> "Flow[dict[str, Outcome]]":
        run, names = self.run, self.pending[:BATCH]
        if not self._asked.issuperset(names):
            self._cursor = ""  # of new ones the server must tell what happened before, too
        body = {"job_ids": names, "since": self._cursor}
        path = f"{API}/status"
        try:
            reply, data = yield from call(
                run,
                "POST",
                path,
                body=body,
                hold=run.hold(),
                patience=self._patience,
                delay=self._delay,
                job_id=names[0],
            )
        except ApiError as error:
            if not lacks_call(error):
                raise
            self._part_ways()
            return {}
        if not isinstance(data.get("jobs"), list):
            self._part_ways()
            return {}
        self._asked.update(names)
        cursor = data.get("cursor")
        self._cursor = cursor if isinstance(cursor, str) else ""
        held = 0 < held_for(reply) <= reply.elapsed * 1.1
        self._delay = GAP if held or self._news(data) else run.vary(run.options.running_interval)
        return _outcomes(data, set(names))

    def _news(self, data: dict[str, Any]) -> bool:
        """Whether an answer tells of a state that we did not know; some servers repeat themselves."""
        told = {item.get("job_id"): item.get("state") for item in data["jobs"] if isinstance(item, dict)}
        news = any(self._states.get(job_id) != state for job_id, state in told.items())
        self._states |= told
        return news

    def _part_ways(self) -> None:
        """An older server: its jobs are looked at one by one, within its budget."""
        self._together = False
        self.run.budget.limited = True
        self._due = {job_id: self.run.now + self._turn(place) for place, job_id in enumerate(self.pending)}

    # --- one call for each ---

    def _ask_one(self) -> "Flow[dict[str, Outcome]]":
        """Look at the job whose turn it is. The oldest comes often, those behind it the less the further back."""
        run = self.run
        job_id = min(self.pending, key=lambda name: self._due[name])
        watch = self._single.setdefault(job_id, Watch(run, job_id, seen=True, hold=False))
        watch.delay = max(0.0, self._due[job_id] - run.now)
        try:
            status = yield from watch.look()
        except (JobNotFound, JobStalled) as error:
            return {job_id: error}
        if status is not None and status.over:
            return {job_id: status}
        self._due[job_id] = run.now + max(watch.delay, self._turn(self.pending.index(job_id)))
        return {}

    def _turn(self, place: int) -> float:
        """Seconds between looks at a job that has `place` older ones before it."""
        options = self.run.options
        return min(2 * options.queued_interval * place, options.longest_delay)


def _outcomes(data: dict[str, Any], asked: set[str]) -> dict[str, Outcome]:
    """The jobs of an answer that are over, or that the server does not know."""
    over: dict[str, Outcome] = {}
    for item in data["jobs"]:
        job_id = item.get("job_id") if isinstance(item, dict) else None
        if job_id in asked and (status := Status.parse(item, job_id)) and status.over:
            over[job_id] = status
    unknown = data.get("unknown")
    for job_id in unknown if isinstance(unknown, list) else ():
        if job_id in asked:
            over[job_id] = JobNotFound(f"the server knows no job {job_id}", job_id=job_id)
    return over
