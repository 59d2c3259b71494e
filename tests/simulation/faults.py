"""What may happen between a true answer and the client."""

import json
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from simulation.choices import Choices
from simulation.exchange import Exchange
from simulation.world import STATUS, World, lost, reply
from umrgen.client.flow import Step

__all__ = ["Network"]

EPOCH = 1_800_000_000.0


class Network:
    """Passes steps to the world and answers back, faithfully or not; the share of faults is the history's."""

    def __init__(self, choices: Choices, world: World) -> None:
        self._choices = choices
        self._world = world
        self._share = choices.pick((0.0, 0.05, 0.2, 0.5))
        self._burst: tuple[float, float, int] = (0.0, 0.0, 500)
        if choices.chance(0.3):
            start = choices.between(0.0, 60.0)
            self._burst = (start, start + choices.between(1.0, 120.0), choices.pick((503, 500, 502, 504)))
        self.ahead = 0.0
        """How far the client's wall clock is ahead of the server's, in seconds."""

    def send(self, step: Step, at: float) -> Exchange:
        choices = self._choices
        start, end, status = self._burst
        if start <= at < end:
            answer = reply(step, at, status, None, "transient")
            answer.at, answer.ambiguous, answer.note = at + 0.01, True, "burst"
        elif self._share and choices.chance(self._share):
            fault = choices.pick(FAULTS)
            answer = fault(self, step, at)
            answer.note = answer.note or fault.__name__.strip("_")
        else:
            answer = self._world.handle(step, at)
        answer.at = min(max(answer.at, at + 0.001), at + step.timeout)
        if choices.chance(0.02):
            self.ahead = choices.between(-3600.0, 3600.0)
        answer.wall = EPOCH + answer.at + self.ahead
        return answer

    def _passed_on(self, step: Step, at: float) -> Exchange:
        return self._world.handle(step, at)


def _refused(network: Network, step: Step, at: float) -> Exchange:
    return lost(step, at, at + 0.01, sent=False)


def _broken_off(network: Network, step: Step, at: float) -> Exchange:
    true = network._passed_on(step, at) if network._choices.chance(0.5) else None
    return lost(step, at, min(true.at if true else at + 0.05, at + step.timeout))


def _silence(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.5):
        network._passed_on(step, at)
    return lost(step, at, at + step.timeout)


def _server_error(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.3):
        network._passed_on(step, at)
    answer = reply(step, at, network._choices.pick((503, 500, 502, 504, 408)), None, "transient")
    answer.ambiguous = True
    if network._choices.chance(0.3):
        answer.asked = network._choices.pick((5.0, 0.0, 86400.0))
        answer.headers = {"retry-after": str(int(answer.asked))}
    return answer


def _limited(network: Network, step: Step, at: float) -> Exchange:
    choices = network._choices
    answer = reply(step, at, 429, {"error": "slow down"}, "limited")
    kind = choices.pick(("none", "seconds", "date", "a day", "nonsense", "a past date", "a date alone"))
    if kind == "seconds":
        answer.asked = 7.0
        answer.headers = {"retry-after": "7"}
    elif kind == "a day":
        answer.asked = 86400.0
        answer.headers = {"retry-after": "86400"}
    elif kind == "date":
        answer.asked = 9.0
        now = EPOCH + at
        answer.headers = {"retry-after": formatdate(now + 9, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a past date":
        answer.asked = 0.0
        now = EPOCH + at
        answer.headers = {"retry-after": formatdate(now - 60, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a date alone":
        answer.asked = -1.0  # what that means hangs on the client's clock
        answer.headers = {"retry-after": formatdate(EPOCH + at + 9, usegmt=True)}
    elif kind == "nonsense":
        answer.headers = {"retry-after": "in a while"}
    return answer


def _garbled(network: Network, step: Step, at: float) -> Exchange:
    answer = network._passed_on(step, at)
    if answer.kind in ("status", "receipt", "batch", "data") and answer.body:
        body = network._choices.pick((b"<html>You are about to visit</html>", b"", answer.body[:-5], b"[]", b"5"))
        answer.body, answer.kind, answer.ambiguous = body, "garbage", answer.kind == "receipt"
    return answer


def _strange_state(network: Network, step: Step, at: float) -> Exchange:
    answer = network._passed_on(step, at)
    if answer.kind == "status" and step.path.startswith(STATUS) and answer.place and answer.place[0] == "running":
        told = json.loads(answer.body) | {"state": network._choices.pick(("paused", "queued"))}
        answer.body = json.dumps(told).encode()
        answer.place = (told["state"], *answer.place[1:])
    return answer


def _backwards(network: Network, step: Step, at: float) -> Exchange:
    """A replica that lags behind: the job's own state of a while ago."""
    answer = network._passed_on(step, at)
    if answer.kind == "status" and answer.place and answer.place[0] == "completed":
        told = json.loads(answer.body) | {"state": network._choices.pick(("running", "queued"))}
        told = {name: told[name] for name in ("success", "job_id", "state")}
        answer.body, answer.images = json.dumps(told).encode(), ()
        answer.place, answer.asked = (told["state"], None, None), None
        answer.headers = {name: value for name, value in answer.headers.items() if name != "retry-after"}
    return answer


NO_IMAGES: tuple[dict[str, Any], ...] = (
    {"image_url": None},
    {"image_url": "", "results": {"images": []}},
    {"results": None},
    {"image_url": 7, "results": {"images": [None, {"url": None}, 5]}},
)


def _imageless(network: Network, step: Step, at: float) -> Exchange:
    """Completed, and the file is not there yet."""
    answer = network._passed_on(step, at)
    if answer.kind == "status" and answer.place and answer.place[0] == "completed":
        told = {"success": True, "state": "completed"} | network._choices.pick(NO_IMAGES)
        answer.body, answer.images = json.dumps(told).encode(), ()
    return answer


WRONG_TYPES: tuple[dict[str, Any], ...] = (
    {"state": 5},
    {"state": None},
    {"state": ""},
    {"queue_position": "first", "progress": [1, 4], "eta_seconds": "soon", "retry_after_ms": -5, "error": {}},
    {"queue_position": -1, "progress": {"step": True}, "eta_seconds": 1e300, "retry_after_ms": [], "image_url": {}},
    {"queue_position": None, "progress": None, "eta_seconds": float("nan"), "retry_after_ms": float("inf")},
)


def _wrong_types(network: Network, step: Step, at: float) -> Exchange:
    answer = network._passed_on(step, at)
    if answer.kind == "status" and answer.place and answer.place[0] in ("queued", "running"):
        wrong = network._choices.pick(WRONG_TYPES)
        answer.body = json.dumps(json.loads(answer.body) | wrong).encode()
        answer.place = (answer.place[0], None, None)
        if "state" in wrong:
            answer.kind, answer.place = "garbage", None
    return answer


def _elsewhere(network: Network, step: Step, at: float) -> Exchange:
    answer = reply(step, at, 302, None, "refused", {"location": "https://evil.example/x"})
    return answer if network._choices.chance(0.1) else network._passed_on(step, at)


FAULTS: tuple[Callable[[Network, Step, float], Exchange], ...] = (
    _refused,
    _broken_off,
    _silence,
    _server_error,
    _limited,
    _garbled,
    _strange_state,
    _backwards,
    _imageless,
    _wrong_types,
    _elsewhere,
)
